"""Network families by name. A new one needs an entry in `BUILDERS` and in `ModelSettings.arch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from genconvit.config import ModelSettings
from genconvit.models.original import Original
from genconvit.models.v2 import V2
from genconvit.overrides import model_settings

BUILDERS: dict[str, Callable[[ModelSettings], nn.Module]] = {"v2": V2, "original": Original}


def build_from_settings(model: ModelSettings) -> nn.Module:
    """The network of these settings, its backbones initialised as they say.

    Raises:
        UserError: The settings contradict each other, or a backbone or its weights do not fit.
    """
    return BUILDERS[model.arch](model)


def build_network(arch: str = "v2", *, preset: str = "base", **switches: Any) -> nn.Module:
    """A network from keywords: `build_network("v2", preset="nano", net="ed")`.

    Args:
        arch: Network family.
        preset: Where the switches that are not given come from.
        **switches: Any setting of `genconvit.config.ModelSettings`.

    Returns:
        A module from normalised images (B, 3, S, S) to a `NetworkOutput`; with the keyword
        `verdict_only` it does no more than the verdict needs.

    Raises:
        UserError: A switch does not exist, is out of range, or does not fit the others.
    """
    return build_from_settings(model_settings(arch=arch, preset=preset, **switches))
