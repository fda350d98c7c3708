"""Which parameters a training step reaches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genconvit.config import LossSettings, ModelSettings
from genconvit.losses import compute_losses
from genconvit.models.autoencoder import normalize


def images(batch: int = 4, size: int = 64) -> Tensor:
    """Normalised random images, the same ones at each call."""
    return normalize(torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)))


def training_loss(network: nn.Module, model: ModelSettings, loss: LossSettings) -> Tensor:
    """The loss of one batch with both classes."""
    x, labels = images(size=model.image_size), torch.tensor([0, 1, 0, 1])
    return compute_losses(network(x), x, labels, loss, model)["loss"]


def dead_parameters(network: nn.Module, model: ModelSettings, loss: LossSettings) -> list[str]:
    """Names of the parameters that one backward pass leaves without a gradient."""
    network.train()
    training_loss(network, model, loss).backward()
    return [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or p.grad.abs().max() <= 1e-12
    ]
