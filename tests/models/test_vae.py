"""The variational branch: noise in training only, its size from logvar."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genconvit.config import ModelSettings
from genconvit.models.vae import VariationalAutoencoder


class Record(nn.Module):
    """Stands where the decoder was and keeps the latent vector that it gets."""

    def forward(self, z_BZ: torch.Tensor) -> torch.Tensor:
        return z_BZ


@pytest.fixture
def vae() -> VariationalAutoencoder:
    torch.manual_seed(0)
    network = VariationalAutoencoder(ModelSettings(preset="nano", vae_latent=512))
    network.decoder = nn.Sequential(Record())
    return network


def test_noise_has_the_standard_deviation_of_logvar(vae: VariationalAutoencoder) -> None:
    nn.init.zeros_(vae.logvar.weight)
    for std in (0.1, 3.0):
        nn.init.constant_(vae.logvar.bias, 2 * torch.tensor(std).log().item())
        z, mu, logvar = vae(torch.randn(16, 3, 64, 64))
        assert torch.allclose(logvar.exp().sqrt(), torch.tensor(std))
        assert (z - mu).std().item() == pytest.approx(std, rel=0.05)
        assert (z - mu).mean().item() == pytest.approx(0, abs=0.05 * std)


def test_evaluation_takes_the_mean(vae: VariationalAutoencoder) -> None:
    z, mu, _ = vae.eval()(torch.randn(2, 3, 64, 64))
    assert torch.equal(z, mu)


def test_reconstruction_is_an_image_in_unit_range() -> None:
    network = VariationalAutoencoder(ModelSettings(preset="nano"))
    reconstruction, mu, logvar = network(torch.randn(2, 3, 64, 64))
    assert reconstruction.shape == (2, 3, 64, 64)
    assert mu.shape == logvar.shape == (2, 64)
    assert 0 <= reconstruction.min() <= reconstruction.max() <= 1
