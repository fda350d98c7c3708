"""How feature maps and branches are combined."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers import SwiGLU
from torch import Tensor, nn

from genconvit.errors import UserError

DEVIATION_EPS = 1e-6
FACE_RADIUS = 0.62
"""Of a face's longer side, in halves of a crop's side, where crops have a margin of 0.3."""
RING_RADII = (0.0, 0.6, 1.1)
"""Of the face's middle, its outline and its surroundings, in halves of a crop's side."""
RING_WIDTH = 0.2
FACE_HEIGHT = 1.3
"""Of a face's box, in its widths."""


class CellStatistics(nn.Module):
    """Mean and deviation of a map's features in equal square cells, after a layer norm.

    What a forgery leaves in fine detail is more or less of it, seldom anything at a certain place:
    deviations keep that where means alone would lose it (statistics pooling, D. Snyder et al.,
    "Deep Neural Network Embeddings for Text-Independent Speaker Verification", Interspeech 2017).

    Args:
        width: Channels of the map.
        cell: Side of a cell, positions.
    """

    def __init__(self, width: int, cell: int) -> None:
        super().__init__()
        self.cell = cell
        self.norm = nn.LayerNorm(2 * width)

    def forward(self, map_BHWC: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H / cell, W / cell, 2 C)."""
        cells_BhawbC = map_BHWC.unflatten(2, (-1, self.cell)).unflatten(1, (-1, self.cell))
        # In float32, and about each cell's mean: the square of a mean may be far larger.
        variance, mean = torch.var_mean(cells_BhawbC.float(), dim=(2, 4), correction=0)
        # The root of 0 has no gradient that is finite.
        statistics_BhwC = torch.cat([mean, (variance + DEVIATION_EPS).sqrt()], dim=-1)
        normed: Tensor = self.norm(statistics_BhwC)
        return normed


class PlacePooling(nn.Module):
    """Tokens to one vector, by a few learned maps of weights over their places.

    Crops are centred on the face, so a place means the same part of it in all of them. The maps
    begin as rings about the centre: the face, its outline, where a swapped one is faded in, and
    what is around it. A mean over all places would hide what differs in one of them.

    Args:
        side: Tokens in a row; there are as many rows.
        dim: Width of a token.
    """

    def __init__(self, side: int, dim: int) -> None:
        super().__init__()
        radius_T = FACE_RADIUS * face_radius(side).flatten()
        distance_KT = radius_T - torch.tensor(RING_RADII)[:, None]
        self.weight_logits = nn.Parameter(-0.5 * (distance_KT / RING_WIDTH) ** 2)
        self.mix = nn.Linear(len(RING_RADII) * dim, dim)

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """Returns (B, D)."""
        weights_KT = self.weight_logits.softmax(dim=-1).to(tokens_BTD.dtype)
        mixed: Tensor = self.mix((weights_KT @ tokens_BTD).flatten(1))
        return mixed


def face_radius(side: int) -> Tensor:
    """How far each place of a crop, (side, side), is from its middle: 1 on the face's outline."""
    place = (2 * torch.arange(side) + 1) / side - 1
    return torch.hypot(place[:, None], FACE_HEIGHT * place[None, :]) / FACE_RADIUS


class MeanPooling(nn.Module):
    """Tokens (B, T, D) to their mean (B, D)."""

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """Returns (B, D)."""
        return tokens_BTD.mean(dim=1)


class BackboneFusion(nn.Module):
    """Two feature maps of the same size to one sequence of tokens, `width` wide.

    Args:
        mode: `concat` joins the channels. `sum` adds them; maps of different widths first go
            through a linear layer to `token_dim`.
        widths: Channels of both maps.
        token_dim: Width of the sum where they differ.
        cell: Positions of the maps along a side of a token; more than one become statistics.
    """

    def __init__(
        self,
        mode: Literal["sum", "concat"],
        widths: tuple[int, int],
        token_dim: int,
        cell: int = 1,
    ) -> None:
        super().__init__()
        self.mode = mode
        self.cells: nn.ModuleList | None = None
        if cell > 1:
            self.cells = nn.ModuleList(CellStatistics(width, cell) for width in widths)
            widths = (2 * widths[0], 2 * widths[1])
        same = widths[0] == widths[1]
        if mode == "concat":
            self.width = sum(widths)
        else:
            self.width = widths[0] if same else token_dim
        project = mode == "sum" and not same
        self.first = nn.Linear(widths[0], token_dim) if project else nn.Identity()
        self.second = nn.Linear(widths[1], token_dim) if project else nn.Identity()

    def forward(self, first_BHWC: Tensor, second_BHWC: Tensor) -> Tensor:
        """Returns (B, T, width), T = (H / cell) * (W / cell)."""
        if self.cells is not None:
            first_BHWC, second_BHWC = self.cells[0](first_BHWC), self.cells[1](second_BHWC)
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
