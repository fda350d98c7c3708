"""Whether the kernels compute on this GPU what PyTorch computes.

Compilers differ between GPUs and versions, and a wrong gradient tells nobody: a kernel of window
attention was right when interpreted and in small tests, and wrong at full size on an H200. So each
is tried before it is used, in the shapes of the network at hand. What disagrees is not used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from genconvit import kernels
from genconvit.kernels import depthwise, mlp, window_attention
from genconvit.kernels.functional import Affine, Norm, norm_mlp
from genconvit.kernels.window_attention import Windows

logger = logging.getLogger(__name__)

TOLERANCE = 2e-2
"""Of the norm of what is compared; rounding of bfloat16 operands stays below 5e-3."""
IMAGES = 32
_SIDE = 14


def distrust_wrong_kernels(
    attentions: Sequence[tuple[int, int, int, Windows]],
    convolutions: Sequence[int],
    mlps: Sequence[tuple[int, int]],
    device: torch.device,
) -> None:
    """Tries the kernels of a network, once a shape, and adds those that fail to `DISTRUSTED`.

    Args:
        attentions: Height, width, channels and windows of maps.
        convolutions: Channels of depthwise convolutions.
        mlps: Channels and hidden channels.
        device: Where the network is; on a CPU there is nothing to try.
    """
    if device.type != "cuda" or not kernels.HAS_TRITON:
        return
    tries: list[tuple[str, Callable[..., bool], tuple]] = [
        *((window_attention.KERNEL, _attention_agrees, (*each, device)) for each in attentions),
        *((depthwise.KERNEL, _depthwise_agrees, (each, device)) for each in convolutions),
        *((mlp.KERNEL, _mlp_agrees, (*each, device)) for each in mlps),
    ]
    for kernel, agrees, shape in tries:
        if kernel in kernels.DISTRUSTED:
            continue
        try:
            # Whoever only judges may ask for kernels where gradients are off.
            with torch.inference_mode(False), torch.enable_grad():
                right, why = agrees(*shape), "its results are wrong"
        except Exception as error:  # it does not compile here, or asks for more than the GPU has
            right, why = False, f"{type(error).__name__}: {error}"
        if not right:
            kernels.DISTRUSTED.add(kernel)
            logger.warning("the kernel of %s is not used on this GPU: %s", kernel, why)


@cache
def _attention_agrees(
    height: int, width: int, channels: int, windows: Windows, device: torch.device
) -> bool:
    drawn = _Drawn(device)
    entries = (2 * windows.height - 1) * (2 * windows.width - 1)
    keep_B = drawn(IMAGES).abs()
    return agree(
        lambda qkv, table: window_attention.window_attention(qkv, table, keep_B, windows),
        drawn(IMAGES, height, width, 3 * channels),
        [drawn(entries, windows.heads)],
    )


@cache
def _depthwise_agrees(channels: int, device: torch.device) -> bool:
    drawn = _Drawn(device)
    return agree(
        depthwise.depthwise,
        drawn(IMAGES, _SIDE, _SIDE, channels),
        [drawn(channels, 1, depthwise.SIDE, depthwise.SIDE) / depthwise.SIDE, drawn(channels)],
    )


@cache
def _mlp_agrees(channels: int, hidden: int, device: torch.device) -> bool:
    drawn = _Drawn(device)
    keep_B = drawn(IMAGES).abs()

    def run(
        z: Tensor, gain: Tensor, shift: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
    ) -> Tensor:
        return norm_mlp(
            z, None, Norm(gain, shift, 1e-6), Affine(w1, b1), Affine(w2, b2), None, keep_B
        )

    weights = [drawn(hidden, channels) / channels**0.5, drawn(hidden)]
    weights += [drawn(channels, hidden) / hidden**0.5, drawn(channels)]
    return agree(
        run,
        drawn(IMAGES, _SIDE, _SIDE, channels),
        [drawn(channels), drawn(channels), *weights],
    )


def agree(function: Callable[..., Tensor], map_BHWC: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether a function gives, for a half-precision map, what it gives in float32.

    In float32 no kernel runs. Results and gradients are compared; two runs must give the same bits.

    Args:
        function: Of the map and the weights.
        map_BHWC: Float32.
        weights: Float32.
    """
    dtype = torch.bfloat16 if has_bf16() else torch.float16
    low = map_BHWC.to(dtype)
    first, again = (_results(function, low, weights, dtype) for _ in range(2))
    expected = _results(function, low.float(), weights, dtype)
    same = all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    pairs = zip(first, expected, strict=True)
    return same and all(float((a.float() - b).norm() / b.norm()) < TOLERANCE for a, b in pairs)


@torch.enable_grad()
def _results(
    function: Callable[..., Tensor], map_BHWC: Tensor, weights: Sequence[Tensor], low: torch.dtype
) -> list[Tensor]:
    inputs = [each.detach().clone().requires_grad_() for each in (map_BHWC, *weights)]
    out = function(*inputs)
    # Drawn, as the sums of an even slope would be nothing but rounding; and the same in float32.
    towards = _Drawn(out.device, seed=1)(*out.shape).to(low).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, inputs, towards)]


def has_bf16() -> bool:
    """Whether the GPU computes in bfloat16 itself; PyTorch also counts those that emulate it."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


class _Drawn:
    """Random numbers that are always the same, and leave the run's own as they are."""

    def __init__(self, device: torch.device, seed: int = 0) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, device=self._generator.device)
