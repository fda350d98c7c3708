"""Triton kernels of layer norm, MLP and shortcut in one pass over the map.

A program has some rows with all their channels and walks through the hidden channels in chunks,
which never leave the chip on the way forward. Triton's tiles are powers of two: widths such as 96
and 192 are cut into two thirds and one third.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads its own types: those of a kernel's arguments are pointers and integers.

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore
import triton.language as tl  # type: ignore
from torch import Tensor

# Measured on an H100, by width.
_FORWARD: dict[int, dict[str, int]] = {
    48: {"BM": 64, "BH": 64, "num_warps": 4, "num_stages": 2},
    96: {"BM": 64, "BH": 64, "num_warps": 4, "num_stages": 2},
    192: {"BM": 128, "BH": 64, "num_warps": 8, "num_stages": 3},
}
_BACKWARD: dict[int, dict[str, int]] = {
    48: {"BM": 64, "BH": 64, "num_warps": 4, "num_stages": 2},
    96: {"BM": 64, "BH": 64, "num_warps": 4, "num_stages": 1},
    192: {"BM": 64, "BH": 64, "num_warps": 4, "num_stages": 1},
}
_PROGRAMS = 792  # six for each multiprocessor
_ROWS = 16


@triton.jit
def _gelu_parts(h):
    """Normal distribution function and density times sqrt(2 pi) of float32 `h`.

    Abramowitz and Stegun, 7.1.26; the error stays below 1e-7, far under the rounding of bfloat16.
    """
    bell = tl.exp2(h * h * -0.7213475204444817)
    t = 1.0 / (1.0 + 0.23164189 * tl.abs(h))
    tail = t * (
        0.127414796
        + t * (-0.142248368 + t * (0.7107068705 + t * (-0.7265760135 + t * 0.5307027145)))
    )
    tail = tail * bell
    return tl.where(h >= 0, 1.0 - tail, tail), bell


@triton.jit
def _normed(z1, z2, C: tl.constexpr, eps):
    """Both parts of a tile with mean 0 and deviation 1 along each row, and 1 / deviation."""
    mean = ((tl.sum(z1, axis=1) + tl.sum(z2, axis=1)) / C)[:, None]
    z1 -= mean
    z2 -= mean
    variance = (tl.sum(z1 * z1, axis=1) + tl.sum(z2 * z2, axis=1)) / C
    inverse = tl.rsqrt(variance + eps)[:, None]
    return z1 * inverse, z2 * inverse, inverse


@triton.jit
def _forward(
    z_ptr,
    shortcut_ptr,
    keep_ptr,
    gain_ptr,
    shift_ptr,
    w1_ptr,
    b1_ptr,
    w2_ptr,
    b2_ptr,
    out_ptr,
    M,
    each,
    eps,
    C: tl.constexpr,
    HIDDEN: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    C2: tl.constexpr = C // 3
    C1: tl.constexpr = C - C2
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    real = (rows < M)[:, None]
    at = rows.to(tl.int64)[:, None] * C
    c1 = tl.arange(0, C1)
    c2 = C1 + tl.arange(0, C2)
    dtype = z_ptr.dtype.element_ty
    z1 = tl.load(z_ptr + at + c1[None, :], mask=real, other=0.0).to(tl.float32)
    z2 = tl.load(z_ptr + at + c2[None, :], mask=real, other=0.0).to(tl.float32)
    n1, n2, _ = _normed(z1, z2, C, eps)
    y1 = (n1 * tl.load(gain_ptr + c1)[None, :] + tl.load(shift_ptr + c1)[None, :]).to(dtype)
    y2 = (n2 * tl.load(gain_ptr + c2)[None, :] + tl.load(shift_ptr + c2)[None, :]).to(dtype)
    out1 = tl.zeros([BM, C1], tl.float32)
    out2 = tl.zeros([BM, C2], tl.float32)
    for start in range(0, HIDDEN, BH):
        k = start + tl.arange(0, BH)
        w1 = w1_ptr + k[:, None] * C
        h = tl.dot(y1, tl.trans(tl.load(w1 + c1[None, :])))
        h = tl.dot(y2, tl.trans(tl.load(w1 + c2[None, :])), h)
        h += tl.load(b1_ptr + k)[None, :]
        below, _bell = _gelu_parts(h)
        a = (h * below).to(dtype)
        out1 = tl.dot(a, tl.trans(tl.load(w2_ptr + c1[:, None] * HIDDEN + k[None, :])), out1)
        out2 = tl.dot(a, tl.trans(tl.load(w2_ptr + c2[:, None] * HIDDEN + k[None, :])), out2)
    out1 += tl.load(b2_ptr + c1)[None, :]
    out2 += tl.load(b2_ptr + c2)[None, :]
    if keep_ptr is not None:
        keep = tl.load(keep_ptr + rows // each, mask=rows < M, other=0.0)[:, None]
        out1 *= keep
        out2 *= keep
    out1 += tl.load(shortcut_ptr + at + c1[None, :], mask=real, other=0.0).to(tl.float32)
    out2 += tl.load(shortcut_ptr + at + c2[None, :], mask=real, other=0.0).to(tl.float32)
    tl.store(out_ptr + at + c1[None, :], out1.to(dtype), mask=real)
    tl.store(out_ptr + at + c2[None, :], out2.to(dtype), mask=real)


@triton.jit
def _norm(z_ptr, gain_ptr, shift_ptr, y_ptr, M, eps, C: tl.constexpr, BM: tl.constexpr):
    C2: tl.constexpr = C // 3
    C1: tl.constexpr = C - C2
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    real = (rows < M)[:, None]
    at = rows.to(tl.int64)[:, None] * C
    c1 = tl.arange(0, C1)
    c2 = C1 + tl.arange(0, C2)
    z1 = tl.load(z_ptr + at + c1[None, :], mask=real, other=0.0).to(tl.float32)
    z2 = tl.load(z_ptr + at + c2[None, :], mask=real, other=0.0).to(tl.float32)
    n1, n2, _ = _normed(z1, z2, C, eps)
    y1 = n1 * tl.load(gain_ptr + c1)[None, :] + tl.load(shift_ptr + c1)[None, :]
    y2 = n2 * tl.load(gain_ptr + c2)[None, :] + tl.load(shift_ptr + c2)[None, :]
    tl.store(y_ptr + at + c1[None, :], y1.to(y_ptr.dtype.element_ty), mask=real)
    tl.store(y_ptr + at + c2[None, :], y2.to(y_ptr.dtype.element_ty), mask=real)


@triton.jit
def _hidden_backward(
    grad_ptr,
    y_ptr,
    keep_ptr,
    w1_ptr,
    b1_ptr,
    w2_ptr,
    a_ptr,
    h_grad_ptr,
    sums_ptr,
    M,
    each,
    C: tl.constexpr,
    HIDDEN: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    # A program keeps the weights of one chunk of hidden channels and walks down the rows.
    C2: tl.constexpr = C // 3
    C1: tl.constexpr = C - C2
    chunks: tl.constexpr = HIDDEN // BH
    walker = tl.program_id(0) // chunks
    walkers = tl.num_programs(0) // chunks
    k = (tl.program_id(0) % chunks) * BH + tl.arange(0, BH)
    c1 = tl.arange(0, C1)
    c2 = C1 + tl.arange(0, C2)
    dtype = y_ptr.dtype.element_ty
    w1_1 = tl.load(w1_ptr + k[None, :] * C + c1[:, None])
    w1_2 = tl.load(w1_ptr + k[None, :] * C + c2[:, None])
    w2_1 = tl.load(w2_ptr + c1[:, None] * HIDDEN + k[None, :])
    w2_2 = tl.load(w2_ptr + c2[:, None] * HIDDEN + k[None, :])
    b1 = tl.load(b1_ptr + k)[None, :]
    sums = tl.zeros([BM, BH], tl.float32)
    for tile in range(walker, tl.cdiv(M, BM), walkers):
        rows = tile * BM + tl.arange(0, BM)
        real = (rows < M)[:, None]
        at = rows.to(tl.int64)[:, None] * C
        y1 = tl.load(y_ptr + at + c1[None, :], mask=real, other=0.0)
        y2 = tl.load(y_ptr + at + c2[None, :], mask=real, other=0.0)
        g1 = tl.load(grad_ptr + at + c1[None, :], mask=real, other=0.0)
        g2 = tl.load(grad_ptr + at + c2[None, :], mask=real, other=0.0)
        h = tl.dot(y2, w1_2, tl.dot(y1, w1_1)) + b1
        h_grad = tl.dot(g2, w2_2, tl.dot(g1, w2_1))
        below, bell = _gelu_parts(h)
        a = h * below
        h_grad *= below + h * bell * 0.3989422804014327
        if keep_ptr is not None:
            keep = tl.load(keep_ptr + rows // each, mask=rows < M, other=0.0)[:, None]
            a *= keep
            h_grad *= keep
        sums += h_grad
        hidden_at = rows.to(tl.int64)[:, None] * HIDDEN + k[None, :]
        tl.store(a_ptr + hidden_at, a.to(dtype), mask=real)
        tl.store(h_grad_ptr + hidden_at, h_grad.to(dtype), mask=real)
    tl.store(sums_ptr + walker * HIDDEN + k, tl.sum(sums, axis=0))


@triton.jit
def _norm_backward(
    y_grad_ptr,
    z_ptr,
    grad_ptr,
    keep_ptr,
    gain_ptr,
    z_grad_ptr,
    sums_ptr,
    M,
    each,
    eps,
    SHORTCUT: tl.constexpr,
    C: tl.constexpr,
    BM: tl.constexpr,
):
    # Beside the gradient of z the sums for those of gain, shift and the second layer's bias.
    C2: tl.constexpr = C // 3
    C1: tl.constexpr = C - C2
    c1 = tl.arange(0, C1)
    c2 = C1 + tl.arange(0, C2)
    gain1 = tl.load(gain_ptr + c1)[None, :]
    gain2 = tl.load(gain_ptr + c2)[None, :]
    gain_grad1 = tl.zeros([BM, C1], tl.float32)
    gain_grad2 = tl.zeros([BM, C2], tl.float32)
    shift_grad1 = tl.zeros([BM, C1], tl.float32)
    shift_grad2 = tl.zeros([BM, C2], tl.float32)
    bias_grad1 = tl.zeros([BM, C1], tl.float32)
    bias_grad2 = tl.zeros([BM, C2], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(M, BM), tl.num_programs(0)):
        rows = tile * BM + tl.arange(0, BM)
        real = (rows < M)[:, None]
        at1 = rows.to(tl.int64)[:, None] * C + c1[None, :]
        at2 = rows.to(tl.int64)[:, None] * C + c2[None, :]
        z1 = tl.load(z_ptr + at1, mask=real, other=0.0).to(tl.float32)
        z2 = tl.load(z_ptr + at2, mask=real, other=0.0).to(tl.float32)
        d1 = tl.load(y_grad_ptr + at1, mask=real, other=0.0).to(tl.float32)
        d2 = tl.load(y_grad_ptr + at2, mask=real, other=0.0).to(tl.float32)
        g1 = tl.load(grad_ptr + at1, mask=real, other=0.0).to(tl.float32)
        g2 = tl.load(grad_ptr + at2, mask=real, other=0.0).to(tl.float32)
        n1, n2, inverse = _normed(z1, z2, C, eps)
        gain_grad1 += d1 * n1
        gain_grad2 += d2 * n2
        shift_grad1 += d1
        shift_grad2 += d2
        if keep_ptr is not None:
            keep = tl.load(keep_ptr + rows // each, mask=rows < M, other=0.0)[:, None]
            bias_grad1 += g1 * keep
            bias_grad2 += g2 * keep
        else:
            bias_grad1 += g1
            bias_grad2 += g2
        d1 *= gain1
        d2 *= gain2
        mean = ((tl.sum(d1, axis=1) + tl.sum(d2, axis=1)) / C)[:, None]
        along = ((tl.sum(d1 * n1, axis=1) + tl.sum(d2 * n2, axis=1)) / C)[:, None]
        d1 = (d1 - mean - n1 * along) * inverse
        d2 = (d2 - mean - n2 * along) * inverse
        if SHORTCUT:
            d1 += g1
            d2 += g2
        tl.store(z_grad_ptr + at1, d1.to(z_grad_ptr.dtype.element_ty), mask=real)
        tl.store(z_grad_ptr + at2, d2.to(z_grad_ptr.dtype.element_ty), mask=real)
    sums = sums_ptr + tl.program_id(0) * (3 * C)
    tl.store(sums + c1, tl.sum(gain_grad1, axis=0))
    tl.store(sums + c2, tl.sum(gain_grad2, axis=0))
    tl.store(sums + C + c1, tl.sum(shift_grad1, axis=0))
    tl.store(sums + C + c2, tl.sum(shift_grad2, axis=0))
    tl.store(sums + 2 * C + c1, tl.sum(bias_grad1, axis=0))
    tl.store(sums + 2 * C + c2, tl.sum(bias_grad2, axis=0))


def forward(
    z: Tensor,
    shortcut: Tensor,
    keep_B: Tensor | None,
    gain_C: Tensor,
    shift_C: Tensor,
    w1_KC: Tensor,
    b1_K: Tensor,
    w2_CK: Tensor,
    b2_C: Tensor,
    eps: float,
) -> Tensor:
    """shortcut + keep * (gelu(norm(z) w1 + b1) w2 + b2) of contiguous maps (B, H, W, C).

    The matrices have the dtype of the maps, all other weights float32.
    """
    channels = z.shape[-1]
    rows = z.numel() // channels
    out = torch.empty_like(z)
    settings: dict[str, Any] = dict(_FORWARD[channels])
    _forward[(-(-rows // settings["BM"]),)](
        z,
        shortcut,
        keep_B,
        gain_C,
        shift_C,
        w1_KC,
        b1_K,
        w2_CK,
        b2_C,
        out,
        rows,
        rows // z.shape[0],
        eps,
        C=channels,
        HIDDEN=w1_KC.shape[0],
        **settings,
    )
    return out


def backward(
    grad: Tensor,
    z: Tensor,
    keep_B: Tensor | None,
    gain_C: Tensor,
    shift_C: Tensor,
    w1_KC: Tensor,
    b1_K: Tensor,
    w2_CK: Tensor,
    eps: float,
    *,
    with_shortcut: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of z, gain, shift, w1, b1, w2 and b2; `with_shortcut`: z was the shortcut too."""
    channels, hidden = z.shape[-1], w1_KC.shape[0]
    rows = z.numel() // channels
    each = rows // z.shape[0]
    y = torch.empty_like(z)
    _norm[(-(-rows // _ROWS),)](z, gain_C, shift_C, y, rows, eps, C=channels, BM=_ROWS)

    settings: dict[str, Any] = dict(_BACKWARD[channels])
    chunks = hidden // settings["BH"]
    walkers = max(1, min(_PROGRAMS // chunks, -(-rows // settings["BM"])))
    a, h_grad = z.new_empty((rows, hidden)), z.new_empty((rows, hidden))
    hidden_sums = torch.empty((walkers, hidden), device=z.device, dtype=torch.float32)
    _hidden_backward[(walkers * chunks,)](
        grad,
        y,
        keep_B,
        w1_KC,
        b1_K,
        w2_CK,
        a,
        h_grad,
        hidden_sums,
        rows,
        each,
        C=channels,
        HIDDEN=hidden,
        **settings,
    )
    y_grad = h_grad @ w1_KC
    w1_grad = h_grad.t() @ y.view(rows, channels)
    w2_grad = grad.view(rows, channels).t() @ a

    z_grad = y  # its last use was in w1_grad
    programs = max(1, min(_PROGRAMS, -(-rows // _ROWS)))
    channel_sums = torch.empty((programs, 3, channels), device=z.device, dtype=torch.float32)
    _norm_backward[(programs,)](
        y_grad,
        z,
        grad,
        keep_B,
        gain_C,
        z_grad,
        channel_sums,
        rows,
        each,
        eps,
        SHORTCUT=with_shortcut,
        C=channels,
        BM=_ROWS,
    )
    gain_grad, shift_grad, b2_grad = channel_sums.sum(dim=0).unbind()
    return (
        z_grad,
        gain_grad.clone(),
        shift_grad.clone(),
        w1_grad,
        hidden_sums.sum(dim=0),
        w2_grad,
        b2_grad.clone(),
    )
