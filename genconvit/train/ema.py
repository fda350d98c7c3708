"""A moving average of the weights."""

from __future__ import annotations

from timm.utils import ModelEmaV3
from torch import nn

from genconvit.config import TrainSettings


def build_ema(network: nn.Module, settings: TrainSettings) -> ModelEmaV3 | None:
    """timm's average of all weights and float buffers, on the network's device; None without one.

    After an optimiser step call `ema.update(network, step=updates)` with the number of steps so
    far: the first copies the network, then the decay warms up to `model_ema_decay`. `ema.module` is
    the average, in evaluation mode; `ema.state_dict()` is all that a resumed run needs. No random
    numbers are drawn.

    Args:
        network: Copied as it is, so neither wrapped for several workers nor with gradients.
        settings: `model_ema` and `model_ema_decay`.
    """
    if not settings.model_ema:
        return None
    return ModelEmaV3(network, decay=settings.model_ema_decay, use_warmup=True)
