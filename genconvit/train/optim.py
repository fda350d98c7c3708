"""Optimiser and learning-rate schedule."""

from __future__ import annotations

from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from genconvit.config import TrainSettings


def build_optimizer(network: nn.Module, settings: TrainSettings) -> Optimizer:
    """AdamW; biases and norms are not decayed."""
    optimizer: Optimizer = create_optimizer_v2(
        network, opt="adamw", lr=settings.lr, weight_decay=settings.weight_decay
    )
    return optimizer


def build_scheduler(optimizer: Optimizer, settings: TrainSettings) -> ReduceLROnPlateau:
    """Lowers the rate when the validation loss stands still."""
    return ReduceLROnPlateau(
        optimizer,
        factor=settings.lr_gamma,
        patience=settings.lr_patience,
        min_lr=settings.min_lr,
        threshold=settings.early_stopping_min_delta,
        threshold_mode="abs",
    )
