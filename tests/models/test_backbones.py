"""timm's backbones: their maps, and names and keyword arguments that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from genconvit.checkpoint import load_network
from genconvit.config import ModelSettings
from genconvit.errors import UserError
from genconvit.models.autoencoder import normalize
from genconvit.models.backbones import backbone_map, build_backbones, swin_map
from genconvit.models.registry import build_network
from tests.train.little import run, settings


@pytest.mark.parametrize("size", [64, 96, 128, 224])
def test_both_maps_have_the_same_tokens(size: int) -> None:
    backbone, embedder = build_backbones(ModelSettings(preset="nano", image_size=size))
    x = torch.randn(2, 3, size, size)
    assert backbone_map(backbone, x).shape == (2, size // 32, size // 32, 128)
    assert swin_map(embedder, x).shape == (2, size // 32, size // 32, 128)


def test_maps_are_normalised_over_channels() -> None:
    backbone, embedder = build_backbones(ModelSettings(preset="nano"))
    x = torch.randn(2, 3, 64, 64)
    for feature_map in (backbone_map(backbone, x), swin_map(embedder, x)):
        torch.testing.assert_close(feature_map.mean(-1), torch.zeros(2, 2, 2), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            feature_map.var(-1, unbiased=False), torch.ones(2, 2, 2), atol=2e-2, rtol=0
        )


def test_backbone_map_is_what_timm_classifies() -> None:
    """For one token pooling does nothing, so timm's own features must be the map."""
    backbone, _ = build_backbones(ModelSettings(preset="nano"))
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(backbone_map(backbone.eval(), x).flatten(1), backbone(x))


def test_drop_path_rate_reaches_both() -> None:
    for network in build_backbones(ModelSettings(preset="nano", drop_path_rate=0.2)):
        rates = [m.drop_prob for m in network.modules() if isinstance(m, timm.layers.DropPath)]
        assert max(rates) == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0"])
def test_another_network_may_be_the_backbone_and_sees_what_it_was_pretrained_on(name: str) -> None:
    """EfficientNet-Lite was pretrained on images from -1 to 1."""
    backbone, _ = build_backbones(ModelSettings(preset="nano", backbone=name))
    image = torch.rand(2, 3, 64, 64)
    own = {
        key: torch.tensor(backbone.pretrained_cfg[key])[:, None, None] for key in ("mean", "std")
    }
    seen = (image - own["mean"]) / own["std"]
    expected = timm.create_model(name, num_classes=0)
    expected.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        found = backbone_map(backbone.eval(), normalize(image))
        wanted = expected.eval().forward_features(seen).permute(0, 2, 3, 1)
    assert found.shape == (2, 2, 2, backbone.num_features)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize("name", ["convnext_atto", "tf_efficientnet_lite0", "resnet10t"])
def test_a_smaller_stride_gives_the_map_of_an_earlier_stage(name: str, stride: int) -> None:
    swin = "swin_tiny_patch4_window7_224"
    model = ModelSettings(backbone=name, embedder=swin, image_size=64, backbone_stride=stride)
    x = torch.randn(2, 3, 64, 64)
    for network, is_swin in zip(build_backbones(model), (False, True), strict=True):
        size = {"img_size": 64} if is_swin else {}
        whole = timm.create_model(swin if is_swin else name, num_classes=0, **size)
        whole.load_state_dict(network.state_dict(), strict=False)
        network.eval()
        if not is_swin:
            network.input_scale = None  # as it is normalised for timm
        with torch.no_grad():
            found = swin_map(network, x) if is_swin else backbone_map(network, x)
            wanted = whole.eval().forward_intermediates(x, intermediates_only=True)
        torch.testing.assert_close(
            found.permute(0, 3, 1, 2), next(m for m in wanted if m.shape[-1] == 64 // stride)
        )
        assert found.shape[-1] == network.num_features
        assert sum(p.numel() for p in network.parameters()) < sum(
            p.numel() for p in whole.parameters()
        )


def test_a_network_that_timm_cannot_cut_is_refused() -> None:
    with pytest.raises(UserError, match=r"cannot cut model\.backbone to model\.backbone_stride=8"):
        build_backbones(ModelSettings(preset="nano", backbone="hrnet_w18_small", backbone_stride=8))


def test_a_detector_with_another_backbone_learns_and_is_kept(tmp_path: Path) -> None:
    job = settings("model.backbone=resnet10t", "train.layer_decay=0.8")
    folder = run(tmp_path / "run", job)
    network, info = load_network(folder.best)
    assert info.model.backbone == "resnet10t"
    crops = torch.rand(3, 3, 64, 64)
    assert network.eval()(crops, verdict_only=True).logits.shape == (3, 2)


def test_weights_of_another_backbone_are_found_by_their_names(tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    torch.save(whole.state_dict(), tmp_path / "lite0.pth")
    model = ModelSettings(
        preset="nano", backbone="tf_efficientnet_lite0",
        weights=tmp_path / "lite0.pth",
    )  # fmt: skip
    backbone, _ = build_backbones(model)
    for key, value in backbone.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[key])
    wrong = ModelSettings(preset="nano", backbone="resnet10t", weights=tmp_path / "lite0.pth")
    with pytest.raises(UserError, match=r"conv1\.0.weight is missing"):
        build_backbones(wrong)


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"backbone": "convnext_tinyy"}, "convnext_tiny"),
        ({"backbone": "vit_tiny_patch16_224"}, "'vit_tiny_patch16_224' does not fit"),
        ({"backbone": "swin_tiny_patch4_window7_224"}, "convolutional"),
        ({"backbone": "resnet10t", "backbone_kwargs": {"layers": [1]}}, "those of a ConvNeXt"),
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
