"""The `original` network: GenConViT as published, two networks that are used together.

Deressa et al., "Deepfake Video Detection Using Generative Convolutional Vision Transformer",
https://arxiv.org/abs/2307.07036. The published networks also hold a Swin that no forward pass
reaches; it is not built here, and neither is any other part without an effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from genconvit.config import CLASSES, ModelSettings
from genconvit.models.backbones import IMAGENET_CLASSES, build_classifier
from genconvit.models.output import NetworkOutput, check_images

HIDDEN = 500
"""Width of the layer between both views' ImageNet scores and the two classes."""


class Original(nn.Module):
    """Network A (`ed`), network B (`vae`) or both (`genconvit`, the mean of their logits).

    The two share no parameter, so training both at once is training each alone.

    Raises:
        UserError: The backbone or its weights do not fit.
    """

    def __init__(self, model: ModelSettings) -> None:
        super().__init__()
        self.image_size = model.image_size
        self.ed = OriginalED(model) if model.net in ("ed", "genconvit") else None
        self.vae = OriginalVAE(model) if model.net in ("vae", "genconvit") else None

    def forward(self, images_BCHW: Tensor, *, verdict_only: bool = False) -> NetworkOutput:
        """One pass over ImageNet-normalised float images (B, 3, S, S), S = `model.image_size`.

        Args:
            images_BCHW: The images.
            verdict_only: Returns no more than the logits, and those of both networks. Nothing else
                is computed anyway.

        Raises:
            UserError: The images have another size.
        """
        check_images(images_BCHW, self.image_size)
        ed_logits = vae_logits = reconstruction = mu = None
        if self.ed is not None:
            ed_logits = self.ed(images_BCHW)
        if self.vae is not None:
            vae_logits, reconstruction, mu = self.vae(images_BCHW)
        present = [logits for logits in (ed_logits, vae_logits) if logits is not None]
        output = NetworkOutput(logits=torch.stack(present).mean(dim=0))
        if len(present) == 2:
            output.ed_logits, output.vae_logits = ed_logits, vae_logits
        if not verdict_only:
            output.vae_reconstruction, output.mu = reconstruction, mu
        return output


class OriginalED(nn.Module):
    """Network A: an autoencoder's image and the input, both classified by one ConvNeXt."""

    def __init__(self, model: ModelSettings) -> None:
        super().__init__()
        channels = model.autoencoder_channels
        encoder: list[nn.Module] = []
        for before, after in pairwise([3, *channels]):
            encoder += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.encoder = nn.Sequential(*encoder)
        self.decoder = _build_decoder([*channels[::-1], 3], nn.ReLU)
        for layer in self.decoder:
            if isinstance(layer, nn.ConvTranspose2d) and layer.bias is not None:
                # The decoder's signal starts so small that a negative bias in front of the last
                # ReLU would leave no gradient for anything before it.
                nn.init.uniform_(layer.bias, 0.0, layer.out_channels**-0.5)
        self.backbone = build_classifier(model)
        self.head = _build_head(nn.GELU)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S) to logits (B, 2)."""
        decoded_BCHW = self.decoder(self.encoder(images_BCHW))
        views_VBK = self.backbone(torch.cat([decoded_BCHW, images_BCHW])).unflatten(0, (2, -1))
        logits_B2: Tensor = self.head(torch.cat(views_VBK.unbind(), dim=1))
        return logits_B2


class OriginalVAE(nn.Module):
    """Network B: the input and a variational autoencoder's image of half its side."""

    def __init__(self, model: ModelSettings) -> None:
        super().__init__()
        *channels, deepest = model.autoencoder_channels
        side = model.image_size // 32
        encoder: list[nn.Module] = []
        for before, after in pairwise([3, *channels]):
            encoder += [
                # The published bias has no effect in front of the norm; converting moves it there.
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(),
            ]
        self.encoder = nn.Sequential(*encoder)
        self.mu = nn.Linear(channels[-1] * (2 * side) ** 2, deepest * side**2)
        self.unflatten = nn.Unflatten(1, (deepest, side, side))
        self.decoder = _build_decoder([deepest, *channels[-2::-1], 3], nn.LeakyReLU)
        self.backbone = build_classifier(model)
        self.head = _build_head(nn.ReLU)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised images (B, 3, S, S) to logits, reconstruction and mu.

        Returns:
            Logits (B, 2), the normalised reconstruction (B, 3, S/2, S/2), and mu (B, Z). As
            published, mu is also the logarithm of the variance, and noise is drawn in training;
            in evaluation the latent vector is mu.
        """
        mu_BZ = self.mu(self.encoder(images_BCHW).flatten(1))
        z_BZ = mu_BZ
        if self.training:
            z_BZ = mu_BZ + torch.randn_like(mu_BZ) * torch.exp(0.5 * mu_BZ)
        decoded_BCHW = self.decoder(self.unflatten(z_BZ))
        # Two passes: the views differ in size.
        views_BK = [self.backbone(images_BCHW), self.backbone(decoded_BCHW)]
        return self.head(torch.cat(views_BK, dim=1)), decoded_BCHW, mu_BZ


def _build_decoder(channels: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    """Doubles the side once for each step of `channels`; the activation follows the last too."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.ConvTranspose2d(before, after, 2, stride=2), activation()]
    return nn.Sequential(*layers)


def _build_head(activation: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        activation(),
        nn.Linear(2 * IMAGENET_CLASSES, HIDDEN),
        activation(),
        nn.Linear(HIDDEN, len(CLASSES)),
    )
