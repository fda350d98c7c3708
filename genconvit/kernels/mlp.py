"""Layer norm, MLP and shortcut: the second half of both backbones' blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genconvit import kernels

KERNEL = "norm and MLP"
_WIDTHS = (48, 96, 192)  # the widest whose sums fit into a multiprocessor's registers
_CHUNK = 64


def fits(x_BHWC: Tensor, hidden: int) -> bool:
    """Whether `norm_mlp` may run: the narrow stages, where memory sets the pace."""
    return kernels.fits(x_BHWC, KERNEL) and x_BHWC.shape[-1] in _WIDTHS and hidden % _CHUNK == 0


def norm_mlp(
    z_BHWC: Tensor,
    shortcut_BHWC: Tensor | None,
    keep_B: Tensor | None,
    gain_C: Tensor,
    shift_C: Tensor,
    w1_KC: Tensor,
    b1_K: Tensor,
    w2_CK: Tensor,
    b2_C: Tensor,
    eps: float,
) -> Tensor:
    """shortcut + keep * (gelu(norm(z) w1 + b1) w2 + b2), where `fits` says so; see there.

    Args:
        z_BHWC: The map (B, H, W, C).
        shortcut_BHWC: What is added; None: `z_BHWC`.
        keep_B: (B,) factors, float32, without a gradient. None: 1.
        gain_C: Of the layer norm (C,).
        shift_C: Of the layer norm (C,).
        w1_KC: (K, C).
        b1_K: (K,).
        w2_CK: (C, K).
        b2_C: (C,).
        eps: Of the layer norm.
    """
    dtype = z_BHWC.dtype
    out: Tensor = _norm_mlp(
        z_BHWC.contiguous(),
        None if shortcut_BHWC is None else shortcut_BHWC.contiguous(),
        keep_B,
        gain_C.float(),
        shift_C.float(),
        w1_KC.to(dtype).contiguous(),
        b1_K.float(),
        w2_CK.to(dtype).contiguous(),
        b2_C.float(),
        eps,
    )
    return out


@torch.library.custom_op("genconvit::norm_mlp", mutates_args=())
def _norm_mlp(
    z: Tensor,
    shortcut: Tensor | None,
    keep_B: Tensor | None,
    gain_C: Tensor,
    shift_C: Tensor,
    w1_KC: Tensor,
    b1_K: Tensor,
    w2_CK: Tensor,
    b2_C: Tensor,
    eps: float,
) -> Tensor:
    from genconvit.kernels import mlp_triton

    return mlp_triton.forward(
        z,
        z if shortcut is None else shortcut,
        keep_B,
        gain_C,
        shift_C,
        w1_KC,
        b1_K,
        w2_CK,
        b2_C,
        eps,
    )


@torch.library.custom_op("genconvit::norm_mlp_backward", mutates_args=())
def _norm_mlp_backward(
    grad: Tensor,
    z: Tensor,
    keep_B: Tensor | None,
    gain_C: Tensor,
    shift_C: Tensor,
    w1_KC: Tensor,
    b1_K: Tensor,
    w2_CK: Tensor,
    eps: float,
    with_shortcut: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    from genconvit.kernels import mlp_triton

    return mlp_triton.backward(
        grad.contiguous(),
        z,
        keep_B,
        gain_C,
        shift_C,
        w1_KC,
        b1_K,
        w2_CK,
        eps,
        with_shortcut=with_shortcut,
    )


@_norm_mlp.register_fake
def _(z: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(z)


@_norm_mlp_backward.register_fake
def _(
    grad: Tensor,
    z: Tensor,
    keep_B: Tensor | None,
    gain_C: Tensor,
    shift_C: Tensor,
    w1_KC: Tensor,
    b1_K: Tensor,
    w2_CK: Tensor,
    eps: float,
    with_shortcut: bool,
) -> tuple[Tensor, ...]:
    like = torch.empty_like
    return like(z), like(gain_C), like(gain_C), like(w1_KC), like(b1_K), like(w2_CK), like(gain_C)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    z, shortcut, keep_B, gain_C, shift_C, w1_KC, b1_K, w2_CK, _, eps = inputs
    ctx.save_for_backward(z, keep_B, gain_C, shift_C, w1_KC, b1_K, w2_CK)
    ctx.eps, ctx.with_shortcut = eps, shortcut is None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    z_grad, *weights = _norm_mlp_backward(grad, *ctx.saved_tensors, ctx.eps, ctx.with_shortcut)
    return z_grad, None if ctx.with_shortcut else grad, None, *weights, None


_norm_mlp.register_autograd(_backward, setup_context=_save)
