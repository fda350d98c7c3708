"""timm's backbones: their maps, and names and keyword arguments that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from genconvit.config import ModelSettings
from genconvit.errors import UserError
from genconvit.models.backbones import build_backbones, convnext_map, swin_map
from genconvit.models.registry import build_network


@pytest.mark.parametrize("size", [64, 96, 128, 224])
def test_both_maps_have_the_same_tokens(size: int) -> None:
    backbone, embedder = build_backbones(ModelSettings(preset="nano", image_size=size))
    x = torch.randn(2, 3, size, size)
    assert convnext_map(backbone, x).shape == (2, size // 32, size // 32, 128)
    assert swin_map(embedder, x).shape == (2, size // 32, size // 32, 128)


def test_maps_are_normalised_over_channels() -> None:
    backbone, embedder = build_backbones(ModelSettings(preset="nano"))
    x = torch.randn(2, 3, 64, 64)
    for feature_map in (convnext_map(backbone, x), swin_map(embedder, x)):
        torch.testing.assert_close(feature_map.mean(-1), torch.zeros(2, 2, 2), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            feature_map.var(-1, unbiased=False), torch.ones(2, 2, 2), atol=2e-2, rtol=0
        )


def test_convnext_map_is_what_timm_classifies() -> None:
    """For one token pooling does nothing, so timm's own features must be the map."""
    backbone, _ = build_backbones(ModelSettings(preset="nano"))
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(convnext_map(backbone.eval(), x).flatten(1), backbone(x))


def test_drop_path_rate_reaches_both() -> None:
    for network in build_backbones(ModelSettings(preset="nano", drop_path_rate=0.2)):
        rates = [m.drop_prob for m in network.modules() if isinstance(m, timm.layers.DropPath)]
        assert max(rates) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"backbone": "convnext_tinyy"}, "convnext_tiny"),
        ({"backbone": "resnet50"}, "no ConvNeXt"),
        ({"embedder": "swin_tini_patch4_window7_224"}, "swin_tiny_patch4_window7_224"),
        ({"embedder": "convnext_tiny"}, "no Swin"),
        ({"embedder": "swinv2_cr_tiny_224"}, "no Swin"),
        ({"backbone": "convnext_tiny.no_such_tag"}, "no_such_tag"),
        ({"backbone_kwargs": {"dimz": [4]}}, "dimz"),
        ({"backbone_kwargs": {"output_stride": 16}}, "32nd"),
        ({"backbone_kwargs": {"checkpoint_path": "a.pth"}}, "checkpoint_path, which is no part"),
        ({"backbone_kwargs": {"pretrained_cfg": {"url": "http://a"}}}, "pretrained_cfg"),
        ({"embedder_kwargs": {"cache_dir": "a"}}, "cache_dir, which is no part of a Swin"),
        ({"embedder_kwargs": {"depths": [1, 1], "num_heads": [1, 2]}}, "32nd"),
        ({"embedder_kwargs": {"window_size": 1}}, "window_size"),
        ({"embedder_kwargs": {"img_size": 224}}, "img_size"),
        ({"backbone_kwargs": {"num_classes": 5}}, "num_classes"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(switches: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_network("v2", preset="nano", **switches)
