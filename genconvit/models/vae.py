"""The variational autoencoder (VAE) branch (Kingma and Welling, arxiv.org/abs/1312.6114)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genconvit.config import ModelSettings
from genconvit.models.autoencoder import build_decoder, build_encoder


class VariationalAutoencoder(nn.Module):
    """Image -> distribution of the latent vector -> reconstruction of one draw from it."""

    def __init__(self, model: ModelSettings) -> None:
        super().__init__()
        channels, side = model.autoencoder_channels, model.image_size // 32
        self.encoder = build_encoder(channels)
        self.mu = nn.Linear(channels[-1] * side**2, model.vae_latent)
        self.logvar = nn.Linear(channels[-1] * side**2, model.vae_latent)
        self.decoder = build_decoder(channels, model.vae_latent, model.image_size)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct normalised images (B, 3, S, S).

        Returns:
            The reconstruction (B, 3, S, S) in [0, 1], mu and logvar (both (B, vae_latent)). Noise
            is drawn in training only; in evaluation the latent vector is mu, so that runs repeat
            bit for bit.
        """
        features_BF = self.encoder(images_BCHW)
        mu_BZ, logvar_BZ = self.mu(features_BF), self.logvar(features_BF)
        z_BZ = mu_BZ
        if self.training:
            z_BZ = mu_BZ + torch.randn_like(mu_BZ) * torch.exp(0.5 * logvar_BZ)
        return self.decoder(z_BZ), mu_BZ, logvar_BZ

    def reconstruct(self, images_BCHW: Tensor) -> Tensor:
        """The reconstruction (B, 3, S, S) of the mean alone: what a verdict needs."""
        reconstruction: Tensor = self.decoder(self.mu(self.encoder(images_BCHW)))
        return reconstruction
