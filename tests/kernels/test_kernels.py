"""The Triton kernels against plain PyTorch: interpreted on the CPU, and compiled on a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from genconvit.kernels.window_attention import Windows
from tests.kernels import references

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
BF16 = torch.bfloat16


@needs_triton
def test_interpreted_kernels_agree_with_pytorch() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.kernels.references"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


@needs_gpu
@needs_triton
@pytest.mark.parametrize(
    "shape", [(5, 56, 56, 96), (5, 14, 14, 384), (3, 7, 7, 768), (2, 9, 5, 16)]
)
def test_depthwise_convolution(shape: tuple[int, int, int, int]) -> None:
    assert_close(references.depthwise_pairs(shape, "cuda", BF16))


@needs_gpu
@needs_triton
@pytest.mark.parametrize("dropped", [True, False])
@pytest.mark.parametrize(
    ("side", "windows", "head_dim"),
    [
        (56, Windows(7, 7, 3, 3, 3), 32),
        (14, Windows(7, 7, 0, 0, 12), 32),
        (16, Windows(8, 8, 4, 4, 2), 64),
        (8, Windows(4, 4, 2, 2, 1), 16),
    ],
)
def test_window_attention(side: int, windows: Windows, head_dim: int, dropped: bool) -> None:
    pairs = references.attention_pairs(5, side, windows, head_dim, "cuda", BF16, dropped=dropped)
    assert_close(pairs)


@needs_gpu
@needs_triton
@pytest.mark.parametrize(("side", "heads"), [(56, 3), (28, 6), (14, 12)])
def test_window_attention_of_many_windows_a_program(side: int, heads: int) -> None:
    """As many as in training; and the same bits again, as without a race."""
    windows = Windows(7, 7, 3, 3, heads)
    runs = []
    for _ in range(3):
        torch.manual_seed(0)
        pairs = references.attention_pairs(32, side, windows, 32, "cuda", BF16, dropped=True)
        assert_close(pairs)
        runs.append([got for got, _ in pairs])
    for again in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(runs[0], again, strict=True))


@needs_gpu
@needs_triton
@pytest.mark.parametrize("channels", [48, 96, 192])
@pytest.mark.parametrize("own_shortcut", [True, False])
@pytest.mark.parametrize("dropped", [True, False])
def test_norm_mlp(channels: int, own_shortcut: bool, dropped: bool) -> None:
    shape = (3, 13, 13, channels)
    assert_close(
        references.mlp_pairs(shape, "cuda", BF16, own_shortcut=own_shortcut, dropped=dropped)
    )


def assert_close(pairs: references.Pairs) -> None:
    """Within the rounding of bfloat16 operands."""
    for got, expected in pairs:
        assert references.error(got, expected) < 1e-2
