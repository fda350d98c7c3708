"""Networks by name and switches."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from genconvit.config import ModelSettings
from genconvit.errors import UserError
from genconvit.models.registry import BUILDERS, build_network


def test_every_arch_of_the_settings_has_a_builder() -> None:
    assert set(get_args(ModelSettings.model_fields["arch"].annotation)) <= set(BUILDERS)


def test_switches_override_the_preset() -> None:
    network = build_network("v2", preset="nano", vae_latent=5, net="vae")
    assert network.get_submodule("vae.mu").out_features == 5


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"dropout_rat": 0.1}, "dropout_rate"),
        ({"dropout_rate": 1.5}, "0.95"),
        ({"fusion": "swigluu"}, "swiglu"),
        ({"image_size": 32}, "64"),
        ({"image_size": 100}, "32"),
        ({"autoencoder_channels": [1, 2, 2, 2, 2]}, "autoencoder_channels"),
        ({"attention_heads": 3}, "token_dim"),
    ],
)
def test_wrong_switches_are_named(switches: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_network("v2", preset="nano", **switches)
