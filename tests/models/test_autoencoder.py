"""The autoencoder, and the way between pixels and normalised images."""

from __future__ import annotations

import torch
from torch import nn

from genconvit.config import ModelSettings
from genconvit.models.autoencoder import Autoencoder, normalize, unnormalize


def test_normalize_gives_imagenet_statistics_and_back() -> None:
    pixels = torch.rand(2, 3, 8, 8)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(normalize(pixels), (pixels - mean) / std)
    torch.testing.assert_close(unnormalize(normalize(pixels)), pixels)
    edges = unnormalize(normalize(torch.tensor([0.0, 1.0]).repeat(1, 3, 4, 4)))
    assert edges.min() >= 0
    assert edges.max() <= 1


def test_reconstruction_goes_through_the_latent_vector() -> None:
    model = ModelSettings(preset="nano", ae_latent=7)
    network = Autoencoder(model)
    assert network.latent.out_features == 7
    reconstruction = network(torch.randn(2, 3, 64, 64))
    assert reconstruction.shape == (2, 3, 64, 64)
    nn.init.zeros_(network.latent.weight)
    same = network(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(same[0], same[1])


def test_it_learns_to_reconstruct() -> None:
    torch.manual_seed(0)
    network = Autoencoder(ModelSettings(preset="nano"))
    pixels = torch.rand(4, 3, 2, 2).repeat_interleave(32, -1).repeat_interleave(32, -2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(120):
        loss = nn.functional.mse_loss(network(normalize(pixels)), pixels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * pixels.var(dim=0).mean().item()
