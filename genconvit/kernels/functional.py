"""The networks' repeated parts as functions of tensors alone, so that equal parts share one graph.

All take and return maps with the channels last. `dtype` is that of the residual stream, of the
operands of matrix products and of the result; statistics stay in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genconvit.kernels import mlp as fused_mlp
from genconvit.kernels.depthwise import depthwise
from genconvit.kernels.window_attention import Windows, window_attention


class Norm(NamedTuple):
    """A layer norm's weight and bias (C,), and its epsilon."""

    weight: Tensor
    bias: Tensor
    eps: float


class Affine(NamedTuple):
    """A linear layer's weight (out, in) and bias (out,), or None."""

    weight: Tensor
    bias: Tensor | None


def layer_norm(x: Tensor, norm: Norm) -> Tensor:
    """Over the last dimension; the result has the dtype of `x`."""
    if torch.compiler.is_compiling():  # the casts cost nothing there, and keep the weights exact
        y = F.layer_norm(x.float(), x.shape[-1:], norm.weight.float(), norm.bias.float(), norm.eps)
        return y.to(x.dtype)
    return F.layer_norm(x, x.shape[-1:], norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)


def linear(x: Tensor, layer: Affine) -> Tensor:
    """The layer, in the dtype of `x`."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.linear(x, layer.weight.to(x.dtype), bias)


def norm_mlp(
    z_BHWC: Tensor,
    shortcut_BHWC: Tensor | None,
    norm: Norm,
    first: Affine,
    second: Affine,
    scale_C: Tensor | None,
    keep_B: Tensor | None,
) -> Tensor:
    """shortcut + keep * scale * second(gelu(first(norm(z)))); no shortcut: z itself.

    The factors go into the second layer's weights and its input: as factors of the result they
    would cost a pass over the map each way, and the result itself would be kept for them. In
    float16 a scale of 1e-6, with which ConvNeXt starts, would leave nothing of the weights.
    """
    weight, bias = second.weight, second.bias
    if scale_C is not None and z_BHWC.dtype == torch.float16:
        shortcut = z_BHWC if shortcut_BHWC is None else shortcut_BHWC
        branch = linear(F.gelu(linear(layer_norm(z_BHWC, norm), first)), second) * scale_C
        return (shortcut + (branch if keep_B is None else branch * keep_B.view(-1, 1, 1, 1))).to(
            z_BHWC.dtype
        )
    if scale_C is not None:
        weight = weight * scale_C[:, None]
        bias = None if bias is None else bias * scale_C
    hidden_channels = weight.shape[1]
    if first.bias is not None and bias is not None and fused_mlp.fits(z_BHWC, hidden_channels):
        return fused_mlp.norm_mlp(
            z_BHWC,
            shortcut_BHWC,
            keep_B,
            norm.weight,
            norm.bias,
            first.weight,
            first.bias,
            weight,
            bias,
            norm.eps,
        )
    shortcut = z_BHWC if shortcut_BHWC is None else shortcut_BHWC
    hidden = F.gelu(linear(layer_norm(z_BHWC, norm), first))
    if keep_B is None:
        return shortcut + linear(hidden, Affine(weight, bias))
    hidden = (hidden * keep_B.view(-1, 1, 1, 1)).to(hidden.dtype)
    return shortcut + _plus_bias(linear(hidden, Affine(weight, None)), bias, keep_B)


def convnext_block(
    x_BHWC: Tensor,
    keep_B: Tensor | None,
    conv: Affine,
    norm: Norm,
    first: Affine,
    second: Affine,
    gamma_C: Tensor | None,
) -> Tensor:
    """timm's ConvNeXtBlock with a shortcut: (B, H, W, C) to the same. `keep_B` drops samples."""
    z_BHWC = depthwise(x_BHWC, conv.weight, conv.bias)
    return norm_mlp(z_BHWC, x_BHWC, norm, first, second, gamma_C, keep_B)


def swin_block(
    x_BHWC: Tensor,
    keeps: tuple[Tensor, Tensor] | None,
    norm1: Norm,
    qkv: Affine,
    table_TN: Tensor,
    projection: Affine,
    norm2: Norm,
    first: Affine,
    second: Affine,
    windows: Windows,
) -> Tensor:
    """timm's SwinTransformerBlock: (B, H, W, C) to the same. `keeps` drop samples of both parts."""
    keep1, keep2 = (None, None) if keeps is None else keeps
    attended = window_attention(linear(layer_norm(x_BHWC, norm1), qkv), table_TN, keep1, windows)
    if keep1 is None:
        x_BHWC = x_BHWC + linear(attended, projection)
    else:
        projected = linear(attended, Affine(projection.weight, None))
        x_BHWC = x_BHWC + _plus_bias(projected, projection.bias, keep1)
    return norm_mlp(x_BHWC, None, norm2, first, second, None, keep2)


def patch_merging(x_BHWC: Tensor, norm: Norm, reduction: Affine) -> Tensor:
    """timm's PatchMerging of a map with even sides: (B, H, W, C) to (B, H/2, W/2, D)."""
    batch, height, width, channels = x_BHWC.shape
    cut = x_BHWC.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return linear(layer_norm(cut.permute(0, 1, 3, 4, 2, 5).flatten(3), norm), reduction)


def patch_convolution(x_BHWC: Tensor, conv: Affine) -> Tensor:
    """A convolution whose stride is its side S, as a matrix product: to (B, H/S, W/S, D)."""
    side = conv.weight.shape[-1]
    batch, height, width, channels = x_BHWC.shape
    cut = x_BHWC.reshape(batch, height // side, side, width // side, side, channels)
    patches = cut.permute(0, 1, 3, 2, 4, 5).flatten(3)
    return linear(patches, Affine(conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias))


def stem(x_BHWC: Tensor, conv: Affine, norm: Norm | None) -> Tensor:
    """Patches, then a layer norm: ConvNeXt's stem and Swin's patch embedding."""
    y_BHWC = patch_convolution(x_BHWC, conv)
    return y_BHWC if norm is None else layer_norm(y_BHWC, norm)


def downsample(x_BHWC: Tensor, norm: Norm, conv: Affine) -> Tensor:
    """A layer norm, then patches: ConvNeXt's way from stage to stage."""
    return patch_convolution(layer_norm(x_BHWC, norm), conv)


def _plus_bias(x: Tensor, bias: Tensor | None, keep_B: Tensor) -> Tensor:
    if bias is None:
        return x
    return (x + bias * keep_B.view(-1, 1, 1, 1)).to(x.dtype)
