"""The `v2` network: two autoencoder branches, two backbones, cross-attention, fusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from genconvit.config import CLASSES, ModelSettings
from genconvit.models.autoencoder import Autoencoder, normalize
from genconvit.models.backbones import DEEPEST_STRIDE, backbone_map, build_backbones, swin_map
from genconvit.models.fusion import (
    BackboneFusion,
    BranchAttention,
    BranchFusion,
    MeanPooling,
    PlacePooling,
)
from genconvit.models.output import NetworkOutput, check_images
from genconvit.models.seams import SeamBranch
from genconvit.models.vae import VariationalAutoencoder


class V2(nn.Module):
    """The network with every switch of `ModelSettings` (docs/architecture.md).

    What a switch leaves out is not built.

    Raises:
        UserError: The settings contradict each other, or a backbone or its weights do not fit.
    """

    def __init__(self, model: ModelSettings) -> None:
        super().__init__()
        branches = [model.net] if model.net in ("ed", "vae") else ["ed", "vae"]
        fused = model.net == "v2"
        self.image_size = model.image_size
        self.sees_image = model.backbone_input != "reconstruction"
        self.subtracts = model.backbone_input == "difference"
        self.ed = Autoencoder(model) if "ed" in branches else None
        self.vae = VariationalAutoencoder(model) if "vae" in branches else None

        self.backbone, self.embedder = build_backbones(model)
        widths = (cast(int, self.backbone.num_features), self.embedder.num_features)
        self.backbone_fusion = BackboneFusion(
            model.backbone_fusion,
            widths,
            model.token_dim,
            cell=DEEPEST_STRIDE // model.backbone_stride,
        )
        views, dim = 2 if model.backbone_input == "both" else 1, model.token_dim
        width = views * self.backbone_fusion.width
        self.projection = nn.ModuleDict(
            {name: _build_projection(width, dim, curved=self.subtracts) for name in branches}
        )

        self.pooling: nn.Module = (
            PlacePooling(model.image_size // DEEPEST_STRIDE, dim)
            if model.pooling == "place"
            else MeanPooling()
        )
        self.attention: BranchAttention | None = None
        self.fusion: BranchFusion | None = None
        self.head: nn.Module | None = None
        if fused:
            if model.attention:
                self.attention = BranchAttention(dim, model.attention_heads, model.residual)
            self.fusion = BranchFusion(model.fusion, dim)
            self.head = _build_head(self.fusion.width, model.dropout_rate)
        self.branch_heads = nn.ModuleDict()
        if not fused or model.aux_heads:
            for name in branches:
                self.branch_heads[name] = _build_head(dim, model.dropout_rate)
        self.seams = SeamBranch(model.image_size) if model.seam_branch else None

    def forward(self, images_BCHW: Tensor, *, verdict_only: bool = False) -> NetworkOutput:
        """One pass over ImageNet-normalised float images (B, 3, S, S), S = `model.image_size`.

        In training the seam branch has no part in the logits, so that the rest of the network
        learns as it would alone.

        Args:
            images_BCHW: The images.
            verdict_only: Computes only what the verdict rests on, with the VAE's mean: `logits`,
                and those of both branches with `net` genconvit.

        Raises:
            UserError: The images have another size.
        """
        check_images(images_BCHW, self.image_size)
        reconstructions: dict[str, Tensor] = {}
        mu = logvar = None
        if self.ed is not None:
            reconstructions["ed"] = self.ed(images_BCHW)
        if self.vae is not None and verdict_only:
            reconstructions["vae"] = self.vae.reconstruct(images_BCHW)
        elif self.vae is not None:
            reconstructions["vae"], mu, logvar = self.vae(images_BCHW)

        tokens = self._branch_tokens(images_BCHW, reconstructions)
        if self.fusion is not None and verdict_only:
            output = NetworkOutput(logits=self._fuse(tokens["ed"], tokens["vae"]))
            return self._with_seams(output, images_BCHW)
        branch_logits = {
            name: head(self.pooling(tokens[name])) for name, head in self.branch_heads.items()
        }
        output = NetworkOutput(
            logits=self._fuse(tokens["ed"], tokens["vae"])
            if self.fusion is not None
            else torch.stack(list(branch_logits.values())).mean(dim=0)
        )
        if len(branch_logits) == 2:
            output.ed_logits, output.vae_logits = branch_logits["ed"], branch_logits["vae"]
        if not verdict_only:
            output.ed_reconstruction = reconstructions.get("ed")
            output.vae_reconstruction = reconstructions.get("vae")
            output.mu, output.logvar = mu, logvar
        return self._with_seams(output, images_BCHW)

    def _with_seams(self, output: NetworkOutput, images_BCHW: Tensor) -> NetworkOutput:
        if self.seams is not None and not self.training:
            output.logits, output.seam_logits = self.seams(output.logits, images_BCHW)
        return output

    def _branch_tokens(
        self, images_BCHW: Tensor, reconstructions: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Each branch's tokens (B, (S/32)^2, token_dim), from one batched pass over all views."""
        views = [normalize(reconstruction) for reconstruction in reconstructions.values()]
        if self.sees_image:
            views.append(images_BCHW)
        stacked = torch.cat(views)
        maps = backbone_map(self.backbone, stacked), swin_map(self.embedder, stacked)
        return self._mix(*maps, list(reconstructions))

    def _mix(
        self, backbone_XHWC: Tensor, swin_XHWC: Tensor, names: Sequence[str]
    ) -> dict[str, Tensor]:
        """Both maps of all views, one view after another, to each branch's tokens."""
        views = len(names) + self.sees_image
        tokens = self.backbone_fusion(backbone_XHWC, swin_XHWC).unflatten(0, (views, -1)).unbind()

        branch_tokens = {}
        for name, own_BTC in zip(names, tokens, strict=False):
            project = self.projection[name]
            if self.subtracts:
                branch_tokens[name] = project(tokens[-1]) - project(own_BTC)
            elif self.sees_image:
                branch_tokens[name] = project(torch.cat([tokens[-1], own_BTC], dim=-1))
            else:
                branch_tokens[name] = project(own_BTC)
        return branch_tokens

    def _fuse(self, ed_BTD: Tensor, vae_BTD: Tensor) -> Tensor:
        assert self.fusion is not None
        assert self.head is not None
        if self.attention is not None:
            ed_BTD, vae_BTD = self.attention(ed_BTD, vae_BTD)
        logits: Tensor = self.head(self.fusion(self.pooling(ed_BTD), self.pooling(vae_BTD)))
        return logits


def _build_projection(width: int, dim: int, *, curved: bool) -> nn.Module:
    """From a token of the backbones to one of a branch.

    What is subtracted is curved: a difference of linear features has no biases to learn.
    """
    if curved:
        return nn.Sequential(nn.Linear(width, dim), nn.GELU())
    return nn.Linear(width, dim) if width != dim else nn.Identity()


def _build_head(width: int, dropout_rate: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Dropout(dropout_rate), nn.Linear(width, len(CLASSES))
    )
