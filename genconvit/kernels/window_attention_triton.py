"""Triton kernels of the attention in shifted windows.

A program has one head of one window: several in a loop, though right when interpreted, came out
wrong when Triton 3.6 had compiled them for an H200. Roll, cut and merge are index arithmetic;
scores never leave the chip, and the backward pass computes them again.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads its own types: those of a kernel's arguments are pointers and integers.

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
import triton  # type: ignore
import triton.language as tl  # type: ignore
from torch import Tensor

from genconvit.kernels.window_attention import Windows

_SETTINGS: dict[str, int] = {"num_warps": 4, "num_stages": 1}


@triton.jit
def _bias(
    table_ptr, head, HEADS: tl.constexpr, WH: tl.constexpr, WW: tl.constexpr, N: tl.constexpr
):
    """Biases (N, N) of one head; minus infinity for keys that only fill the tile."""
    query = tl.arange(0, N)[:, None]
    key = tl.arange(0, N)[None, :]
    dy = query // WW - key // WW + (WH - 1)
    dx = query % WW - key % WW + (WW - 1)
    real = key < WH * WW
    offset = (dy * (2 * WW - 1) + dx) * HEADS + head
    bias = tl.load(table_ptr + offset, mask=real & (query < WH * WW), other=0.0)
    return tl.where(real, bias, float("-inf"))


@triton.jit
def _token_rows(
    window,
    H: tl.constexpr,
    W: tl.constexpr,
    WH: tl.constexpr,
    WW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    N: tl.constexpr,
):
    """Image of a window, rows of its tokens among all tokens, and the parts that they belong to."""
    columns: tl.constexpr = W // WW
    each: tl.constexpr = (H // WH) * columns
    image = window // each
    place = window % each
    token = tl.arange(0, N)
    y = (place // columns) * WH + token // WW
    x = (place % columns) * WW + token % WW
    part = ((y >= H - WH).to(tl.int32) + (y >= H - SH).to(tl.int32)) * 3
    part += (x >= W - WW).to(tl.int32) + (x >= W - SW).to(tl.int32)
    row = (image * H + (y + SH) % H).to(tl.int64) * W + (x + SW) % W
    return image, row, part


@triton.jit
def _probabilities(q, k, bias, part, SCALE: tl.constexpr, SHIFTED: tl.constexpr):
    """Softmax of the scores, float32 (N, N)."""
    scores = tl.dot(q, tl.trans(k)) * SCALE + bias
    if SHIFTED:
        scores += tl.where(part[:, None] != part[None, :], -100.0, 0.0)
    weights = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    return weights / tl.sum(weights, axis=1)[:, None]


@triton.jit
def _forward(
    qkv_ptr,
    table_ptr,
    keep_ptr,
    out_ptr,
    H: tl.constexpr,
    W: tl.constexpr,
    WH: tl.constexpr,
    WW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    N: tl.constexpr,
    SCALE: tl.constexpr,
):
    C: tl.constexpr = HEADS * D
    head = tl.program_id(0) % HEADS
    bias = _bias(table_ptr, head, HEADS, WH, WW, N)
    real = (tl.arange(0, N) < WH * WW)[:, None]
    channel = (head * D + tl.arange(0, D))[None, :]
    image, row, part = _token_rows(tl.program_id(0) // HEADS, H, W, WH, WW, SH, SW, N)
    tile = qkv_ptr + row[:, None] * (3 * C) + channel
    q = tl.load(tile, mask=real, other=0.0)
    k = tl.load(tile + C, mask=real, other=0.0)
    v = tl.load(tile + 2 * C, mask=real, other=0.0)
    p = _probabilities(q, k, bias, part, SCALE, SH + SW > 0)
    out = tl.dot(p.to(v.dtype), v)
    if keep_ptr is not None:
        out *= tl.load(keep_ptr + image)
    tl.store(out_ptr + row[:, None] * C + channel, out.to(v.dtype), mask=real)


@triton.jit
def _backward(
    grad_ptr,
    qkv_ptr,
    table_ptr,
    keep_ptr,
    qkv_grad_ptr,
    partial_ptr,
    H: tl.constexpr,
    W: tl.constexpr,
    WH: tl.constexpr,
    WW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    N: tl.constexpr,
    SCALE: tl.constexpr,
):
    C: tl.constexpr = HEADS * D
    head = tl.program_id(0) % HEADS
    bias = _bias(table_ptr, head, HEADS, WH, WW, N)
    real = (tl.arange(0, N) < WH * WW)[:, None]
    channel = (head * D + tl.arange(0, D))[None, :]
    image, row, part = _token_rows(tl.program_id(0) // HEADS, H, W, WH, WW, SH, SW, N)
    tile = qkv_ptr + row[:, None] * (3 * C) + channel
    q = tl.load(tile, mask=real, other=0.0)
    k = tl.load(tile + C, mask=real, other=0.0)
    v = tl.load(tile + 2 * C, mask=real, other=0.0)
    g = tl.load(grad_ptr + row[:, None] * C + channel, mask=real, other=0.0)
    if keep_ptr is not None:
        g = (g.to(tl.float32) * tl.load(keep_ptr + image)).to(v.dtype)
    p = _probabilities(q, k, bias, part, SCALE, SH + SW > 0)
    v_grad = tl.dot(tl.trans(p.to(v.dtype)), g)
    p_grad = tl.dot(g, tl.trans(v))
    s_grad = p * (p_grad - tl.sum(p * p_grad, axis=1)[:, None])
    s_grad_low = s_grad.to(v.dtype)
    q_grad = tl.dot(s_grad_low, k) * SCALE
    k_grad = tl.dot(tl.trans(s_grad_low), q) * SCALE
    tile = qkv_grad_ptr + row[:, None] * (3 * C) + channel
    tl.store(tile, q_grad.to(v.dtype), mask=real)
    tl.store(tile + C, k_grad.to(v.dtype), mask=real)
    tl.store(tile + 2 * C, v_grad.to(v.dtype), mask=real)
    out = partial_ptr + tl.program_id(0).to(tl.int64) * (N * N)
    tl.store(out + tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :], s_grad)


def forward(qkv_BHWC: Tensor, table_TN: Tensor, keep_B: Tensor | None, windows: Windows) -> Tensor:
    """See `window_attention`; `qkv_BHWC` is contiguous, the table float32."""
    batch, height, width, channels = qkv_BHWC.shape
    out_BHWC = qkv_BHWC.new_empty((batch, height, width, channels // 3))
    count = batch * (height // windows.height) * (width // windows.width)
    _forward[(windows.heads * count,)](
        qkv_BHWC,
        table_TN,
        keep_B,
        out_BHWC,
        **_constants(qkv_BHWC, windows),
        **cast(Any, _SETTINGS),
    )
    return out_BHWC


def backward(
    grad_BHWC: Tensor,
    qkv_BHWC: Tensor,
    table_TN: Tensor,
    keep_B: Tensor | None,
    windows: Windows,
) -> tuple[Tensor, Tensor]:
    """Gradients of `qkv_BHWC` and of the table, float32."""
    batch, height, width, _ = qkv_BHWC.shape
    qkv_grad = torch.empty_like(qkv_BHWC)
    count = batch * (height // windows.height) * (width // windows.width)
    constants = _constants(qkv_BHWC, windows)
    side = constants["N"]
    partial = torch.empty(
        (count, windows.heads, side * side), device=qkv_BHWC.device, dtype=torch.float32
    )
    _backward[(windows.heads * count,)](
        grad_BHWC,
        qkv_BHWC,
        table_TN,
        keep_B,
        qkv_grad,
        partial,
        **constants,
        **cast(Any, _SETTINGS),
    )
    pairs = _pairs_of_entry(windows.height, windows.width, int(side), str(qkv_BHWC.device))
    sums = F.pad(partial.sum(dim=0), (0, 1))
    table_grad = sums[:, pairs].sum(dim=-1).t().contiguous()
    return qkv_grad, table_grad


def _constants(qkv_BHWC: Tensor, windows: Windows) -> dict[str, Any]:
    head_dim = qkv_BHWC.shape[-1] // 3 // windows.heads
    return {
        "H": qkv_BHWC.shape[1],
        "W": qkv_BHWC.shape[2],
        "WH": windows.height,
        "WW": windows.width,
        "SH": windows.shift_height,
        "SW": windows.shift_width,
        "HEADS": windows.heads,
        "D": head_dim,
        "N": max(16, triton.next_power_of_2(windows.height * windows.width)),
        "SCALE": head_dim**-0.5,
    }


@lru_cache(maxsize=64)
def _pairs_of_entry(height: int, width: int, side: int, device: str) -> Tensor:
    """For each entry of the table the (query, key) pairs that use it: (entries, most pairs).

    Pairs are places in a tile of side * side. An entry with fewer pairs is filled up with the place
    behind the tile, which holds 0.
    """
    area = height * width
    places: list[list[int]] = [[] for _ in range((2 * height - 1) * (2 * width - 1))]
    for query in range(area):
        for key in range(area):
            dy = query // width - key // width + height - 1
            dx = query % width - key % width + width - 1
            places[dy * (2 * width - 1) + dx].append(query * side + key)
    most = max(len(entry) for entry in places)
    filler = side * side
    rows = [entry + [filler] * (most - len(entry)) for entry in places]
    return torch.tensor(rows, device=device)
