"""The autoencoder (ED) branch, and the encoder and decoder that the variational branch shares."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import GroupNorm1
from torch import Tensor, nn

from genconvit.config import ModelSettings


def normalize(pixels_BCHW: Tensor) -> Tensor:
    """Pixels in [0, 1] to what every network takes: ImageNet mean 0, standard deviation 1."""
    mean_C11, std_C11 = _statistics(pixels_BCHW)
    return (pixels_BCHW - mean_C11) / std_C11


def unnormalize(images_BCHW: Tensor) -> Tensor:
    """The inverse of `normalize`; rounding errors beyond [0, 1] are cut off."""
    mean_C11, std_C11 = _statistics(images_BCHW)
    return (images_BCHW * std_C11 + mean_C11).clamp(0, 1)


def _statistics(like: Tensor) -> tuple[Tensor, Tensor]:
    # Filled on the device: a copy from the host would wait until the GPU has nothing to do.
    mean_C11, std_C11 = (
        torch.cat([like.new_full((1, 1, 1), value) for value in values])
        for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    return mean_C11, std_C11


def build_encoder(channels: Sequence[int]) -> nn.Sequential:
    """Convolutions that halve the image once for each entry of `channels`: (B, 3, S, S) -> (B, F).

    With five halvings F is channels[-1] * (S / 32)^2: the latent's linear layers stay small. The
    norm takes each image by itself, so neither batch size nor evaluation changes what it does.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise([3, *channels]):
        layers += [
            nn.Conv2d(before, after, 3, stride=2, padding=1),
            GroupNorm1(after),
            nn.LeakyReLU(),
        ]
    return nn.Sequential(*layers, nn.Flatten())


def build_decoder(channels: Sequence[int], latent: int, image_size: int) -> nn.Sequential:
    """The mirror of `build_encoder`: (B, latent) -> (B, 3, S, S) in [0, 1]."""
    side = image_size // 2 ** len(channels)
    layers: list[nn.Module] = [
        nn.Linear(latent, channels[-1] * side**2),
        nn.LeakyReLU(),
        nn.Unflatten(1, (channels[-1], side, side)),
    ]
    reverse = [*channels[::-1], 3]
    for before, after in pairwise(reverse):
        layers += [
            nn.ConvTranspose2d(before, after, 2, stride=2),
            GroupNorm1(after),
            nn.LeakyReLU(),
        ]
    return nn.Sequential(*layers[:-2], nn.Sigmoid())


class Autoencoder(nn.Module):
    """Image -> latent vector -> reconstruction."""

    def __init__(self, model: ModelSettings) -> None:
        super().__init__()
        channels, side = model.autoencoder_channels, model.image_size // 32
        self.encoder = build_encoder(channels)
        self.latent = nn.Linear(channels[-1] * side**2, model.ae_latent)
        self.decoder = build_decoder(channels, model.ae_latent, model.image_size)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S) to their reconstruction (B, 3, S, S) in [0, 1]."""
        reconstruction: Tensor = self.decoder(self.latent(self.encoder(images_BCHW)))
        return reconstruction
