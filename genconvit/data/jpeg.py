"""JPEG compression of a batch of images on their device, each with its own quality."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from genconvit.data.tensors import to_device

LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantisation of brightness at quality 50: ITU-T T.81 (1992), table K.1."""
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *[(99,) * 8] * 4,
)
"""Quantisation of colour at quality 50: ITU-T T.81 (1992), table K.2."""
RGB_TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)
"""JFIF 1.02; brightness 0 to 255, colour about 0."""


def compress_jpeg(images_BCHW: Tensor, quality_B: Tensor) -> Tensor:
    """Images as they come back from a JPEG file of the given quality.

    All that loses detail in baseline JPEG as libjpeg writes and reads it: halved colour (4:2:0),
    8x8 cosine transform, quantisation with the tables of ITU-T T.81 scaled by the quality, and
    rounding to 8 bits. Entropy coding loses nothing, so there is none.

    Args:
        images_BCHW: RGB in [0, 1].
        quality_B: Whole numbers from 1 to 100.

    Returns:
        RGB in [0, 1], of the same shape.
    """
    height, width = images_BCHW.shape[-2:]
    pixels_BCHW = (images_BCHW * 255).round()
    padding = (0, -width % 16, 0, -height % 16)
    padded_BCHW = F.pad(pixels_BCHW, padding, mode="replicate")
    to_ycc = to_device(torch.tensor(RGB_TO_YCC), padded_BCHW.device)
    ycc_BCHW = torch.einsum("dc,bchw->bdhw", to_ycc, padded_BCHW).round()
    luma_BCHW = _quantised(ycc_BCHW[:, :1] - 128, _table(LUMA, quality_B)) + 128
    # libjpeg rounds halves up and down in turn, column by column.
    half = 0.25 + 0.25 * (torch.arange(ycc_BCHW.shape[-1] // 2, device=ycc_BCHW.device) % 2)
    halved_BCHW = (F.avg_pool2d(ycc_BCHW[:, 1:], 2) + half).floor()
    colour_BCHW = F.interpolate(
        _quantised(halved_BCHW, _table(CHROMA, quality_B)),
        scale_factor=2,
        mode="bilinear",
        align_corners=False,
    )
    decoded_BCHW = torch.cat([luma_BCHW, colour_BCHW.round()], dim=1)[..., :height, :width]
    to_rgb = to_device(torch.linalg.inv(torch.tensor(RGB_TO_YCC)), decoded_BCHW.device)
    rgb_BCHW = torch.einsum("dc,bchw->bdhw", to_rgb, decoded_BCHW)
    return rgb_BCHW.round().clamp(0, 255) / 255


def _table(at_50: tuple[tuple[int, ...], ...], quality_B: Tensor) -> Tensor:
    """The quantisation of each image, (B, 1, 1, 64), scaled as libjpeg does."""
    percent_B = torch.where(quality_B < 50, (5000 / quality_B).floor(), 200 - 2 * quality_B)
    table = to_device(torch.tensor(at_50), quality_B.device).flatten()
    return ((table * percent_B[:, None, None, None] + 50) / 100).floor().clamp(1, 255)


def _quantised(plane_BCHW: Tensor, table_B1164: Tensor) -> Tensor:
    """Through the cosine transform, the quantisation and back, in blocks of 8x8."""
    batch, channels, height, width = plane_BCHW.shape
    rows, columns = height // 8, width // 8
    blocks = plane_BCHW.view(batch, channels, rows, 8, columns, 8).transpose(3, 4)
    transform = to_device(_cosine_transform(), plane_BCHW.device)
    coefficients = blocks.reshape(batch, channels, rows * columns, 64) @ transform.T
    coefficients = (coefficients / table_B1164).round() * table_B1164
    pixels = (coefficients @ transform).round().clamp(-128, 127)
    blocks = pixels.view(batch, channels, rows, columns, 8, 8).transpose(3, 4)
    return blocks.reshape(batch, channels, height, width)


@functools.cache
def _cosine_transform() -> Tensor:
    """The orthonormal two-dimensional cosine transform of a block as one matrix, (64, 64)."""
    step = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((2 * step[None, :] + 1) * step[:, None] * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    return torch.kron(basis, basis).float()
