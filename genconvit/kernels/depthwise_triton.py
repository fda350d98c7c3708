"""Triton kernels of the depthwise 7 x 7 convolution, channels last.

Both work in registers: a value of `x` that was loaded meets seven rows of the result (forward) or
of the weights (their gradient) before it is dropped, so arithmetic, not loads, sets the pace.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads its own types: those of a kernel's arguments are pointers and integers.

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore
import triton.language as tl  # type: ignore
from torch import Tensor

_COLUMNS = 8  # 56, 28, 14 and 7 columns fill tiles of 8 by seven eighths or more
_ROWS = 7
_PROGRAMS = 2048  # enough to fill the largest chips several times over
_FORWARD: dict[str, int] = {"num_warps": 2}
_WEIGHTS: dict[str, int] = {"num_warps": 2}


@triton.jit
def _convolve(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    H,
    W,
    C: tl.constexpr,
    FLIP: tl.constexpr,
    BW: tl.constexpr,
    BC: tl.constexpr,
):
    # One program: 7 rows x BW columns x BC channels. Neighbouring programs share cache lines.
    blocks: tl.constexpr = C // BC
    pid = tl.program_id(0)
    channel = (pid % blocks) * BC + tl.arange(0, BC)[None, :]
    pid = pid // blocks
    tiles = tl.cdiv(W, BW)
    column = (pid % tiles) * BW + tl.arange(0, BW)[:, None]
    pid = pid // tiles
    strips = tl.cdiv(H, 7)
    top = (pid % strips) * 7
    image = (pid // strips).to(tl.int64) * (H * W * C)

    start = tl.zeros([BW, BC], tl.float32)
    if bias_ptr is not None:
        start += tl.load(bias_ptr + channel)
    a0, a1, a2, a3, a4, a5, a6 = start, start, start, start, start, start, start
    for kw in range(7):
        tap = weight_ptr + channel + ((6 - kw) if FLIP else kw) * C
        step: tl.constexpr = -7 * C if FLIP else 7 * C
        if FLIP:
            tap += 42 * C
        w0 = tl.load(tap)
        w1 = tl.load(tap + step)
        w2 = tl.load(tap + 2 * step)
        w3 = tl.load(tap + 3 * step)
        w4 = tl.load(tap + 4 * step)
        w5 = tl.load(tap + 5 * step)
        w6 = tl.load(tap + 6 * step)
        taps = (w0, w1, w2, w3, w4, w5, w6)
        from_column = column + (kw - 3)
        inside = (from_column >= 0) & (from_column < W)
        x_tile = x_ptr + image + from_column * C + channel
        for i in tl.static_range(13):
            row = top + (i - 3)
            valid = inside & ((row >= 0) & (row < H))
            x = tl.load(x_tile + row * (W * C), mask=valid, other=0.0).to(tl.float32)
            if i < 7:
                a0 += x * taps[i]
            if i >= 1 and i < 8:
                a1 += x * taps[i - 1]
            if i >= 2 and i < 9:
                a2 += x * taps[i - 2]
            if i >= 3 and i < 10:
                a3 += x * taps[i - 3]
            if i >= 4 and i < 11:
                a4 += x * taps[i - 4]
            if i >= 5 and i < 12:
                a5 += x * taps[i - 5]
            if i >= 6:
                a6 += x * taps[i - 6]
    sums = (a0, a1, a2, a3, a4, a5, a6)
    y_tile = y_ptr + image + column * C + channel
    for r in tl.static_range(7):
        valid = (column < W) & (top + r < H)
        y = sums[r].to(y_ptr.dtype.element_ty)
        tl.store(y_tile + (top + r) * (W * C), y, mask=valid)


@triton.jit
def _weight_gradient(
    grad_ptr,
    x_ptr,
    partial_ptr,
    items,
    items_each,
    H,
    W,
    C: tl.constexpr,
    BC: tl.constexpr,
):
    # A lane has one column offset and some channels, and slides down the image's columns with the
    # seven rows of x that the offsets of the current row of the gradient need. An item is a column
    # of an image. A program leaves its sums: 49 taps and the bias, for BC channels.
    channel = tl.program_id(0) * BC + tl.arange(0, BC)[None, :]
    first = tl.program_id(1) * items_each
    lane = tl.arange(0, 8)[:, None]
    zero = tl.zeros([8, BC], tl.float32)
    a0, a1, a2, a3, a4, a5, a6, total = zero, zero, zero, zero, zero, zero, zero, zero
    for item in range(first, tl.minimum(first + items_each, items)):
        image = (item // W).to(tl.int64) * (H * W * C)
        column = item % W
        from_column = column + lane - 3
        inside = (from_column >= 0) & (from_column < W) & (lane < 7)
        x_column = x_ptr + image + from_column * C + channel
        g_column = grad_ptr + image + column * C + channel + lane * 0
        # Triton 3.6 takes loop variables that start as the same constant for one and the same, so
        # the rows above the image are loaded too, behind a mask that it cannot see through.
        top = tl.minimum(H, 0)
        window = x_column + top * (W * C)
        x0 = tl.load(window - 3 * W * C, mask=inside & (top > 2), other=0.0).to(tl.float32)
        x1 = tl.load(window - 2 * W * C, mask=inside & (top > 1), other=0.0).to(tl.float32)
        x2 = tl.load(window - W * C, mask=inside & (top > 0), other=0.0).to(tl.float32)
        x3 = tl.load(window, mask=inside, other=0.0).to(tl.float32)
        x4 = tl.load(window + W * C, mask=inside & (H > 1), other=0.0).to(tl.float32)
        x5 = tl.load(window + 2 * W * C, mask=inside & (H > 2), other=0.0).to(tl.float32)
        for row in tl.range(0, H, loop_unroll_factor=7):
            valid = inside & (row + 3 < H)
            x6 = tl.load(x_column + (row + 3) * (W * C), mask=valid, other=0.0).to(tl.float32)
            g = tl.load(g_column + row * (W * C)).to(tl.float32)
            a0 += x0 * g
            a1 += x1 * g
            a2 += x2 * g
            a3 += x3 * g
            a4 += x4 * g
            a5 += x5 * g
            a6 += x6 * g
            total += g
            x0, x1, x2, x3, x4, x5 = x1, x2, x3, x4, x5, x6
    sums = (a0, a1, a2, a3, a4, a5, a6)
    out = partial_ptr + tl.program_id(1).to(tl.int64) * (50 * C) + channel
    for kh in tl.static_range(7):
        tl.store(out + (kh * 7 + lane) * C, sums[kh], mask=(lane < 7) & (channel < C))
    tl.store(out + 49 * C + lane * 0, total, mask=(lane == 0) & (channel < C))


def convolve(x_BHWC: Tensor, weight_KC: Tensor, bias_C: Tensor | None, *, flip: bool) -> Tensor:
    """The convolution of contiguous maps (B, H, W, C) with float32 taps (49, C) and bias (C,).

    With `flip` the taps are mirrored both ways.
    """
    batch, height, width, channels = x_BHWC.shape
    y_BHWC = torch.empty_like(x_BHWC)
    block = _channel_block(channels)
    settings: dict[str, Any] = dict(_FORWARD)
    grid = batch * -(-height // _ROWS) * -(-width // _COLUMNS) * (channels // block)
    _convolve[(grid,)](
        x_BHWC,
        weight_KC,
        bias_C,
        y_BHWC,
        height,
        width,
        C=channels,
        FLIP=flip,
        BW=_COLUMNS,
        BC=block,
        **settings,
    )
    return y_BHWC


def weight_gradient(grad_BHWC: Tensor, x_BHWC: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the taps (49, C) and of the bias (C,), float32, from contiguous maps."""
    batch, height, width, channels = x_BHWC.shape
    block = _channel_block(channels)
    settings: dict[str, Any] = dict(_WEIGHTS)
    items, blocks = batch * width, channels // block
    each = -(-items // max(1, _PROGRAMS // blocks))
    splits = -(-items // each)
    partial_SKC = torch.empty((splits, 50, channels), device=x_BHWC.device, dtype=torch.float32)
    _weight_gradient[(blocks, splits)](
        grad_BHWC,
        x_BHWC,
        partial_SKC,
        items,
        each,
        height,
        width,
        C=channels,
        BC=block,
        **settings,
    )
    sums_KC = partial_SKC.sum(dim=0)
    return sums_KC[:49].clone(), sums_KC[49].clone()


def _channel_block(channels: int) -> int:
    return 32 if channels % 32 == 0 else 16
