"""Each kernel beside plain PyTorch in float64, for any device.

Run as a program it needs TRITON_INTERPRET=1, and compares them on the CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genconvit.kernels.window_attention import Windows, plain_window_attention

Pairs = list[tuple[Tensor, Tensor]]


def error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


def depthwise_pairs(shape: tuple[int, int, int, int], device: str, dtype: torch.dtype) -> Pairs:
    from genconvit.kernels import depthwise_triton

    channels = shape[-1]
    x, grad = (torch.randn(shape, device=device, dtype=dtype) for _ in range(2))
    weight_KC, bias = (torch.randn(n, channels, device=device) / 7 for n in (49, 1))
    y = depthwise_triton.convolve(x, weight_KC, bias[0], flip=False)
    x_grad = depthwise_triton.convolve(grad, weight_KC, None, flip=True)
    weight_grad, bias_grad = depthwise_triton.weight_gradient(grad, x)

    inputs = [x, weight_KC.t().reshape(channels, 1, 7, 7), bias[0]]
    inputs = [tensor.double().requires_grad_() for tensor in inputs]
    y_BCHW = F.conv2d(
        inputs[0].permute(0, 3, 1, 2), inputs[1], inputs[2], padding=3, groups=channels
    )
    expected = y_BCHW.permute(0, 2, 3, 1)
    expected_grads = torch.autograd.grad(expected, inputs, grad.double())
    weight_expected = expected_grads[1].view(channels, 49).t()
    return [
        (y, expected),
        (x_grad, expected_grads[0]),
        (weight_grad, weight_expected),
        (bias_grad, expected_grads[2]),
    ]


def attention_pairs(
    batch: int,
    side: int,
    windows: Windows,
    head_dim: int,
    device: str,
    dtype: torch.dtype,
    *,
    dropped: bool,
) -> Pairs:
    from genconvit.kernels import window_attention_triton

    channels = windows.heads * head_dim
    entries = (2 * windows.height - 1) * (2 * windows.width - 1)
    qkv = torch.randn(batch, side, side, 3 * channels, device=device, dtype=dtype)
    grad = torch.randn(batch, side, side, channels, device=device, dtype=dtype)
    table = torch.randn(entries, windows.heads, device=device)
    keep = torch.rand(batch, device=device) if dropped else None
    out = window_attention_triton.forward(qkv, table, keep, windows)
    grads = window_attention_triton.backward(grad, qkv, table, keep, windows)

    inputs = [tensor.double().requires_grad_() for tensor in (qkv, table)]
    keep64 = None if keep is None else keep.double()
    expected = plain_window_attention(inputs[0], inputs[1], keep64, windows)
    expected_grads = torch.autograd.grad(expected, inputs, grad.double())
    return list(zip([out, *grads], [expected, *expected_grads], strict=True))


def mlp_pairs(
    shape: tuple[int, int, int, int],
    device: str,
    dtype: torch.dtype,
    *,
    own_shortcut: bool,
    dropped: bool,
) -> Pairs:
    from genconvit.kernels import mlp_triton

    channels, hidden = shape[-1], 4 * shape[-1]
    z, shortcut, grad = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
    keep = torch.rand(shape[0], device=device) if dropped else None
    gain, shift, b2 = (torch.randn(channels, device=device) for _ in range(3))
    b1 = torch.randn(hidden, device=device)
    w1 = (torch.randn(hidden, channels, device=device) / channels**0.5).to(dtype)
    w2 = (torch.randn(channels, hidden, device=device) / hidden**0.5).to(dtype)
    added = z if own_shortcut else shortcut
    out = mlp_triton.forward(z, added, keep, gain, shift, w1, b1, w2, b2, 1e-6)
    grads = mlp_triton.backward(
        grad, z, keep, gain, shift, w1, b1, w2, 1e-6, with_shortcut=own_shortcut
    )

    inputs = [tensor.double().requires_grad_() for tensor in (z, gain, shift, w1, b1, w2, b2)]
    z64, gain64, shift64, w1_64, b1_64, w2_64, b2_64 = inputs
    normed = F.layer_norm(z64, (channels,), gain64, shift64, 1e-6)
    expected = F.linear(F.gelu(F.linear(normed, w1_64, b1_64)), w2_64, b2_64)
    if keep is not None:
        expected = expected * keep.double().view(-1, 1, 1, 1)
    expected = expected + (z64 if own_shortcut else shortcut.double())
    expected_grads = torch.autograd.grad(expected, inputs, grad.double())
    return list(zip([out, *grads], [expected, *expected_grads], strict=True))


def _check_interpreted() -> None:
    """With poisoned memory: an element that no program writes is not a number."""
    from genconvit.kernels import mlp_triton

    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.manual_seed(0)
    for settings in (mlp_triton._FORWARD, mlp_triton._BACKWARD):
        settings[48]["BM"] = 16
    float32 = torch.float32
    pairs = depthwise_pairs((2, 9, 10, 16), "cpu", float32)
    pairs += attention_pairs(2, 8, Windows(4, 4, 2, 2, 2), 16, "cpu", float32, dropped=True)
    pairs += attention_pairs(1, 6, Windows(3, 3, 0, 0, 1), 16, "cpu", float32, dropped=False)
    pairs += mlp_pairs((2, 3, 3, 48), "cpu", float32, own_shortcut=True, dropped=True)
    pairs += mlp_pairs((2, 3, 3, 48), "cpu", float32, own_shortcut=False, dropped=False)
    for number, (got, expected) in enumerate(pairs):
        assert error(got, expected) < 1e-5, f"pair {number}: {error(got, expected)}"


if __name__ == "__main__":
    _check_interpreted()
