"""Which settings leave a part of the network without a gradient. It needs no PyTorch."""

from __future__ import annotations

from genconvit.config import LossSettings, ModelSettings
from genconvit.errors import UserError


def without_idle_heads(model: ModelSettings, loss: LossSettings) -> ModelSettings:
    """The network without the branches' own heads, where the loss gives them no weight."""
    if model.arch != "v2" or loss.aux_weight > 0:
        return model
    return model.model_copy(update={"aux_heads": False})


def check_trainable(model: ModelSettings, loss: LossSettings) -> None:
    """Refuses settings that would leave parameters without a gradient.

    Raises:
        UserError: Names the part that would never learn, and the setting to change.
    """
    if loss.classification_weight == 0:
        raise UserError(
            "loss.classification_weight=0 leaves the head of the verdict without a gradient; "
            "give it a weight above 0."
        )
    if model.arch == "v2" and model.net == "v2" and model.aux_heads and loss.aux_weight == 0:
        raise UserError(
            "loss.aux_weight=0 leaves the branches' own heads without a gradient; "
            "set model.aux_heads=false too or give it a weight above 0."
        )
