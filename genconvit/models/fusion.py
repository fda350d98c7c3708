"""How feature maps and branches are combined."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers import SwiGLU
from torch import Tensor, nn

from genconvit.errors import UserError


class BackboneFusion(nn.Module):
    """Two feature maps of the same size to one sequence of tokens, `width` wide.

    Args:
        mode: `concat` joins the channels. `sum` adds them; maps of different widths first go
            through a linear layer to `token_dim`.
        widths: Channels of both maps.
        token_dim: Width of the sum where they differ.
    """

    def __init__(
        self, mode: Literal["sum", "concat"], widths: tuple[int, int], token_dim: int
    ) -> None:
        super().__init__()
        self.mode = mode
        same = widths[0] == widths[1]
        if mode == "concat":
            self.width = sum(widths)
        else:
            self.width = widths[0] if same else token_dim
        project = mode == "sum" and not same
        self.first = nn.Linear(widths[0], token_dim) if project else nn.Identity()
        self.second = nn.Linear(widths[1], token_dim) if project else nn.Identity()

    def forward(self, first_BHWC: Tensor, second_BHWC: Tensor) -> Tensor:
        """Returns (B, H * W, width)."""
        first, second = self.first(first_BHWC), self.second(second_BHWC)
        fused = torch.cat([first, second], dim=-1) if self.mode == "concat" else first + second
        return fused.flatten(1, 2)


class CrossAttention(nn.Module):
    """Multi-head attention of one sequence over another.

    The key has no bias: it would add the same number to all scores of a query, and softmax cancels
    that. Vaswani et al., https://arxiv.org/abs/1706.03762.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens_BTD: Tensor, context_BSD: Tensor) -> Tensor:
        """Each token asks all tokens of the context: (B, T, D) and (B, S, D) to (B, T, D)."""
        query, key, value = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in (self.query(tokens_BTD), self.key(context_BSD), self.value(context_BSD))
        )
        attended_BHTd = F.scaled_dot_product_attention(query, key, value)
        attended_BTD: Tensor = self.out(attended_BHTd.transpose(1, 2).flatten(2))
        return attended_BTD


class BranchAttention(nn.Module):
    """Cross-attention both ways: ED tokens over VAE tokens, VAE tokens over ED tokens.

    Args:
        dim: Width of a token.
        heads: Attention heads; divides `dim`.
        residual: Add the attention's output to its query tokens.

    Raises:
        UserError: `heads` does not divide `dim`.
    """

    def __init__(self, dim: int, heads: int, residual: bool) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(
                f"model.attention_heads={heads} does not divide model.token_dim={dim}; "
                "choose numbers that divide without rest."
            )
        self.residual = residual
        self.ed_norm = nn.LayerNorm(dim)
        self.vae_norm = nn.LayerNorm(dim)
        self.ed = CrossAttention(dim, heads)
        self.vae = CrossAttention(dim, heads)

    def forward(self, ed_BTD: Tensor, vae_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of both branches, each informed by the other: two of (B, T, D)."""
        ed_normed, vae_normed = self.ed_norm(ed_BTD), self.vae_norm(vae_BTD)
        ed_attended = self.ed(ed_normed, vae_normed)
        vae_attended = self.vae(vae_normed, ed_normed)
        if self.residual:
            return ed_BTD + ed_attended, vae_BTD + vae_attended
        return ed_attended, vae_attended


class BranchFusion(nn.Module):
    """The pooled features of both branches to one vector, `width` wide.

    `swiglu` is a gated layer over both (Shazeer, https://arxiv.org/abs/2002.05202).
    """

    def __init__(self, mode: Literal["swiglu", "sum", "concat"], dim: int) -> None:
        super().__init__()
        self.mode = mode
        self.width = 2 * dim if mode == "concat" else dim
        self.swiglu = SwiGLU(2 * dim, out_features=dim) if mode == "swiglu" else None

    def forward(self, ed_BD: Tensor, vae_BD: Tensor) -> Tensor:
        """Returns (B, width)."""
        if self.mode == "sum":
            return ed_BD + vae_BD
        both = torch.cat([ed_BD, vae_BD], dim=-1)
        return both if self.swiglu is None else self.swiglu(both)
