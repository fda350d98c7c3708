"""The autoencoders as functions of tensors, channels last, so that both share the graphs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genconvit.kernels.functional import Affine, Norm, linear

SLOPE = 0.01
"""Slope of the leaky ReLU below 0, PyTorch's default."""

_TENSOR_CORE = 8  # a matrix product is slow unless its sides are multiples of this


def encode(x_BHWC: Tensor, convs: tuple[Affine, ...], norms: tuple[Norm, ...]) -> Tensor:
    """Images (B, S, S, 3) through the encoder's halvings: (B, F), F in the order (C, H, W)."""
    x_BCHW = x_BHWC.permute(0, 3, 1, 2)
    for conv, norm in zip(convs, norms, strict=True):
        weight, bias = conv.weight.to(x_BCHW.dtype), conv.bias
        bias = None if bias is None else bias.to(x_BCHW.dtype)
        x_BCHW = F.conv2d(x_BCHW, weight, bias, stride=2, padding=1)
        x_BCHW = F.leaky_relu(group_norm(x_BCHW.permute(0, 2, 3, 1), norm), SLOPE).permute(
            0, 3, 1, 2
        )
    return x_BCHW.flatten(1)


def decode(
    z_BZ: Tensor, first: Affine, side: int, convs: tuple[Affine, ...], norms: tuple[Norm, ...]
) -> Tensor:
    """Latents (B, Z) through the decoder's doublings: (B, S, S, 3) in [0, 1].

    Args:
        z_BZ: The latents.
        first: The linear layer to (C, side, side).
        side: Of the smallest map.
        convs: Transposed convolutions of side and stride 2, weights (in, out, 2, 2).
        norms: Those after all but the last of `convs`.
    """
    features = F.leaky_relu(linear(z_BZ, first), SLOPE)
    x_BHWC = features.unflatten(1, (-1, side, side)).permute(0, 2, 3, 1)
    for conv, norm in zip(convs, norms, strict=False):
        x_BHWC = F.leaky_relu(group_norm(double(x_BHWC, conv), norm), SLOPE)
    return torch.sigmoid(double(x_BHWC, convs[-1]))


def double(x_BHWC: Tensor, conv: Affine) -> Tensor:
    """A transposed convolution of side and stride 2 as one matrix product: to (B, 2H, 2W, D)."""
    batch, height, width, _ = x_BHWC.shape
    out = conv.weight.shape[1]
    weight = conv.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2 * 2 * out, in)
    bias = None if conv.bias is None else conv.bias.repeat(4)
    padding = -weight.shape[0] % _TENSOR_CORE
    if padding:
        weight = F.pad(weight, (0, 0, 0, padding))
        bias = None if bias is None else F.pad(bias, (0, padding))
    y = linear(x_BHWC, Affine(weight, bias))[..., : 4 * out]
    y = y.reshape(batch, height, width, 2, 2, out).permute(0, 1, 3, 2, 4, 5)
    return y.reshape(batch, 2 * height, 2 * width, out)


def group_norm(x_BHWC: Tensor, norm: Norm) -> Tensor:
    """Each image by itself, over all its values, as timm's GroupNorm1; keeps the dtype."""
    if not torch.compiler.is_compiling():
        weight, bias = norm.weight.to(x_BHWC.dtype), norm.bias.to(x_BHWC.dtype)
        y_BCHW = F.group_norm(x_BHWC.permute(0, 3, 1, 2), 1, weight, bias, norm.eps)
        return y_BCHW.permute(0, 2, 3, 1)
    # PyTorch's own takes apart what lies channels last; these passes do not care.
    x = x_BHWC.float()
    variance, mean = torch.var_mean(x, dim=(1, 2, 3), correction=0, keepdim=True)
    y = (x - mean) * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias
    return y.to(x_BHWC.dtype)


def stack_views(
    reconstructions: list[Tensor], image_BCHW: Tensor | None, mean: Tensor, deviation: Tensor
) -> Tensor:
    """Reconstructions in [0, 1], normalised, and the image that is, as one batch."""
    views = [((x - mean) / deviation).to(x.dtype) for x in reconstructions]
    if image_BCHW is not None:
        views.append(image_BCHW.to(views[0].dtype))
    return torch.cat(views)
