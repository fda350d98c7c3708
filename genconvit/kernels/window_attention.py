"""Attention in shifted windows, straight on the maps (Liu et al., arxiv.org/abs/2103.14030)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from genconvit import kernels

KERNEL = "window attention"
_MASKED = -100.0  # what Swin adds between tokens that only the cyclic shift made neighbours
_LARGEST_WINDOW = 64
_HEAD_DIMS = (16, 32, 64)


class Windows(NamedTuple):
    """How a map is cut: sides of the window, and how far the windows are shifted, in tokens."""

    height: int
    width: int
    shift_height: int
    shift_width: int
    heads: int


def window_attention(
    qkv_BHWC: Tensor, table_TN: Tensor, keep_B: Tensor | None, windows: Windows
) -> Tensor:
    """Multi-head attention within windows: queries, keys, values (B, H, W, 3C) to (B, H, W, C).

    Args:
        qkv_BHWC: The last dimension is query, key and value, each heads x head dim. H and W are
            multiples of the window's sides.
        table_TN: Biases by relative position ((2 height - 1) * (2 width - 1), heads).
        keep_B: (B,) factors of the results, as of stochastic depth, without a gradient. None: 1.
        windows: The cut.
    """
    head_dim = qkv_BHWC.shape[-1] // 3 // windows.heads
    if (
        kernels.fits(qkv_BHWC, KERNEL)
        and head_dim in _HEAD_DIMS
        and windows.height * windows.width <= _LARGEST_WINDOW
    ):
        out: Tensor = _attend(qkv_BHWC.contiguous(), table_TN.float(), keep_B, list(windows))
        return out
    return plain_window_attention(qkv_BHWC, table_TN, keep_B, windows)


def plain_window_attention(
    qkv_BHWC: Tensor, table_TN: Tensor, keep_B: Tensor | None, windows: Windows
) -> Tensor:
    """The same in plain PyTorch."""
    wh, ww, sh, sw, heads = windows
    batch, height, width, channels = qkv_BHWC.shape
    shifted = torch.roll(qkv_BHWC, (-sh, -sw), (1, 2)) if sh or sw else qkv_BHWC
    rows, columns, area = height // wh, width // ww, wh * ww
    cut = shifted.reshape(batch, rows, wh, columns, ww, 3, heads, -1)
    q, k, v = cut.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(
        3, batch, -1, heads, area, channels // 3 // heads
    )
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    index = relative_index(wh, ww, qkv_BHWC.device)
    scores = scores + table_TN[index].reshape(area, area, heads).permute(2, 0, 1).to(q.dtype)
    if sh or sw:
        mask = _shift_mask(height, width, windows, qkv_BHWC.device)
        scores = scores + mask[:, None].to(q.dtype)
    out = scores.softmax(dim=-1) @ v
    out = out.reshape(batch, rows, columns, heads, wh, ww, -1).permute(0, 1, 4, 2, 5, 3, 6)
    out = out.reshape(batch, height, width, -1)
    if sh or sw:
        out = torch.roll(out, (sh, sw), (1, 2))
    return out if keep_B is None else (out * keep_B.view(-1, 1, 1, 1)).to(out.dtype)


def relative_index(height: int, width: int, device: torch.device) -> Tensor:
    """Row of the table for each (query, key) pair of a window: (area * area,) int64."""
    y, x = torch.arange(height, device=device), torch.arange(width, device=device)
    dy = (y[:, None] - y[None, :] + height - 1)[:, None, :, None]
    dx = (x[:, None] - x[None, :] + width - 1)[None, :, None, :]
    return (dy * (2 * width - 1) + dx).flatten()


def _shift_mask(height: int, width: int, windows: Windows, device: torch.device) -> Tensor:
    """(number of windows, area, area): -100 between tokens of different parts of the map."""
    wh, ww, sh, sw, _ = windows
    y, x = torch.arange(height, device=device), torch.arange(width, device=device)
    part_y = (y >= height - wh).int() + (y >= height - sh).int()
    part_x = (x >= width - ww).int() + (x >= width - sw).int()
    part = part_y[:, None] * 3 + part_x[None, :]
    part = part.reshape(height // wh, wh, width // ww, ww).transpose(1, 2).reshape(-1, wh * ww)
    return torch.where(part[:, :, None] != part[:, None, :], _MASKED, 0.0)


@torch.library.custom_op("genconvit::window_attention", mutates_args=())
def _attend(
    qkv_BHWC: Tensor, table_TN: Tensor, keep_B: Tensor | None, windows: list[int]
) -> Tensor:
    from genconvit.kernels import window_attention_triton

    return window_attention_triton.forward(qkv_BHWC, table_TN, keep_B, Windows(*windows))


@torch.library.custom_op("genconvit::window_attention_backward", mutates_args=())
def _attend_backward(
    grad_BHWC: Tensor,
    qkv_BHWC: Tensor,
    table_TN: Tensor,
    keep_B: Tensor | None,
    windows: list[int],
) -> tuple[Tensor, Tensor]:
    from genconvit.kernels import window_attention_triton

    grad_BHWC = grad_BHWC.contiguous()
    return window_attention_triton.backward(
        grad_BHWC, qkv_BHWC, table_TN, keep_B, Windows(*windows)
    )


@_attend.register_fake
def _(qkv_BHWC: Tensor, table_TN: Tensor, keep_B: Tensor | None, windows: list[int]) -> Tensor:
    batch, height, width, channels = qkv_BHWC.shape
    return qkv_BHWC.new_empty((batch, height, width, channels // 3))


@_attend_backward.register_fake
def _(
    grad_BHWC: Tensor,
    qkv_BHWC: Tensor,
    table_TN: Tensor,
    keep_B: Tensor | None,
    windows: list[int],
) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(qkv_BHWC, memory_format=torch.contiguous_format),
        torch.empty_like(table_TN, memory_format=torch.contiguous_format),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv_BHWC, table_TN, keep_B, windows = inputs
    ctx.save_for_backward(qkv_BHWC, table_TN, keep_B)
    ctx.windows = windows


def _backward(ctx: Any, grad_BHWC: Tensor) -> tuple[Tensor | None, ...]:
    qkv_BHWC, table_TN, keep_B = ctx.saved_tensors
    qkv_grad, table_grad = _attend_backward(grad_BHWC, qkv_BHWC, table_TN, keep_B, ctx.windows)
    return qkv_grad, table_grad, None, None


_attend.register_autograd(_backward, setup_context=_save)
