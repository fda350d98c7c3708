"""ConvNeXt's depthwise 7 x 7 convolution, channels last (Liu et al., arxiv.org/abs/2201.03545)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genconvit import kernels

KERNEL = "depthwise convolution"
SIDE = 7
_MIN_CHANNELS = 16


def depthwise(x_BHWC: Tensor, weight_C1KK: Tensor, bias_C: Tensor | None) -> Tensor:
    """Depthwise convolution of stride 1 that keeps height and width: (B, H, W, C) to the same.

    Args:
        x_BHWC: The maps; their dtype is that of the result.
        weight_C1KK: (C, 1, 7, 7), or another odd side, which takes the plain way.
        bias_C: (C,) or None.
    """
    side = weight_C1KK.shape[-1]
    channels = x_BHWC.shape[-1]
    if kernels.fits(x_BHWC, KERNEL) and side == SIDE and channels % _MIN_CHANNELS == 0:
        # The kernels want the channels of one tap side by side, and keep the weights' precision.
        weight_KC = weight_C1KK.float().reshape(channels, SIDE**2).t().contiguous()
        bias = torch.zeros_like(weight_KC[0]) if bias_C is None else bias_C.float()
        y_BHWC: Tensor = depthwise7(x_BHWC.contiguous(), weight_KC, bias)
        return y_BHWC
    y_BCHW = F.conv2d(
        x_BHWC.permute(0, 3, 1, 2),
        weight_C1KK.to(x_BHWC.dtype),
        None if bias_C is None else bias_C.to(x_BHWC.dtype),
        padding=side // 2,
        groups=channels,
    )
    return y_BCHW.permute(0, 2, 3, 1)


@torch.library.custom_op("genconvit::depthwise7", mutates_args=())
def depthwise7(x_BHWC: Tensor, weight_KC: Tensor, bias_C: Tensor) -> Tensor:
    """The kernel's forward pass: contiguous (B, H, W, C), float32 (49, C) and (C,)."""
    from genconvit.kernels import depthwise_triton

    return depthwise_triton.convolve(x_BHWC, weight_KC, bias_C, flip=False)


@torch.library.custom_op("genconvit::depthwise7_backward", mutates_args=())
def depthwise7_backward(
    grad_BHWC: Tensor, x_BHWC: Tensor, weight_KC: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the maps, the weights and the bias."""
    from genconvit.kernels import depthwise_triton

    # The gradient of a centred convolution is the convolution with the mirrored weights.
    grad_BHWC = grad_BHWC.contiguous()
    x_grad = depthwise_triton.convolve(grad_BHWC, weight_KC, None, flip=True)
    weight_grad, bias_grad = depthwise_triton.weight_gradient(grad_BHWC, x_BHWC)
    return x_grad, weight_grad, bias_grad


@depthwise7.register_fake
def _(x_BHWC: Tensor, weight_KC: Tensor, bias_C: Tensor) -> Tensor:
    return torch.empty_like(x_BHWC, memory_format=torch.contiguous_format)


@depthwise7_backward.register_fake
def _(grad_BHWC: Tensor, x_BHWC: Tensor, weight_KC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x_grad = torch.empty_like(x_BHWC, memory_format=torch.contiguous_format)
    return x_grad, torch.empty_like(weight_KC), torch.empty_like(weight_KC[0])


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    x_BHWC, weight_KC, _ = inputs
    ctx.save_for_backward(x_BHWC, weight_KC)


def _backward(ctx: torch.autograd.function.FunctionCtx, grad_BHWC: Tensor) -> tuple:
    x_BHWC, weight_KC = ctx.saved_tensors  # type: ignore[attr-defined]
    return depthwise7_backward(grad_BHWC, x_BHWC, weight_KC)


depthwise7.register_autograd(_backward, setup_context=_save)
