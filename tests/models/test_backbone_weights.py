"""Start weights: what was in the file is in the network, and a wrong file is named."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from genconvit.errors import UserError
from genconvit.models.registry import build_network
from genconvit.presets import PRESETS

NANO = PRESETS["v2"]["nano"]


def timm_model(role: str, **kwargs: Any) -> nn.Module:
    """The timm model of a role, with a classifier as in published files."""
    if role == "backbone":
        return timm.create_model(NANO["backbone"], **{**NANO["backbone_kwargs"], **kwargs})
    kwargs = {"img_size": 64, **NANO["embedder_kwargs"], **kwargs}
    return timm.create_model("swin_tiny_patch4_window7_224", **kwargs)


def weights_of(network: nn.Module, role: str) -> dict[str, Tensor]:
    return network.get_submodule(role).state_dict()


@pytest.mark.parametrize("role", ["backbone", "embedder"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("prefixed", [True, False])
def test_loaded_weights_survive_the_build(
    role: str, suffix: str, prefixed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = timm_model(role).state_dict()
    prefix = f"{role}." if prefixed else ""
    file = tmp_path / f"weights{suffix}"
    stored = {prefix + k: v for k, v in source.items()}
    if suffix == ".pth":
        torch.save({"state_dict": stored}, file)
    else:
        save_file(stored, file)
    with caplog.at_level(logging.INFO):
        network = build_network("v2", preset="nano", weights=file)
    assert f"model.{role} starts from {file}" in caplog.text
    loaded = weights_of(network, role)
    assert all(torch.equal(loaded[k], source[k]) for k in loaded)
    other = "embedder" if role == "backbone" else "backbone"
    assert f"no weights for model.{other}" in caplog.text


def test_a_folder_and_a_joint_file_fill_both(tmp_path: Path) -> None:
    sources = {role: timm_model(role).state_dict() for role in ("backbone", "embedder")}
    (tmp_path / "both").mkdir()
    for role, state in sources.items():
        save_file(state, tmp_path / "both" / f"{role}.safetensors")
    (tmp_path / "both" / "readme.txt").write_text("not weights")
    joint = {f"{role}.{k}": v for role, state in sources.items() for k, v in state.items()}
    torch.save(joint, tmp_path / "joint.pth")
    for path in (tmp_path / "both", tmp_path / "joint.pth"):
        network = build_network("v2", preset="nano", weights=path)
        for role, source in sources.items():
            loaded = weights_of(network, role)
            assert all(torch.equal(loaded[k], source[k]) for k in loaded)


def test_another_librarys_names_will_do_where_the_order_fits(tmp_path: Path) -> None:
    """As in published EfficientNet-Lite weights: `_bn0.weight`, a classifier, no batch counts."""
    source = timm.create_model("tf_efficientnet_lite0").state_dict()
    state = {
        f"_layer{number}.{key.rsplit('.', 1)[1]}": value
        for number, (key, value) in enumerate(source.items())
        if not key.endswith("num_batches_tracked")
    }
    torch.save(state, tmp_path / "lite0.pth")
    switches = {"backbone": "tf_efficientnet_lite0", "weights": tmp_path / "lite0.pth"}
    loaded = weights_of(build_network("v2", preset="nano", **switches), "backbone")
    assert all(torch.equal(loaded[key], source[key]) for key in loaded)
    torch.save(dict(reversed(state.items())), tmp_path / "lite0.pth")
    with pytest.raises(UserError, match="fits neither"):
        build_network("v2", preset="nano", **switches)


def test_position_tables_are_resized_as_timm_does(tmp_path: Path) -> None:
    source = timm_model("embedder", img_size=224, window_size=7)
    file = tmp_path / "swin.pth"
    torch.save(source.state_dict(), file)
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    network = build_network("v2", preset="nano", weights=file)
    loaded, original = weights_of(network, "embedder")[table], source.state_dict()[table]
    expected = timm.layers.resize_rel_pos_bias_table(original, (4, 4), (49, 1))
    torch.testing.assert_close(loaded, expected)


def test_without_weights_timm_initialises_the_backbones() -> None:
    network = build_network("v2", preset="nano")
    std = weights_of(network, "backbone")["stages.3.blocks.0.mlp.fc1.weight"].std().item()
    assert std == pytest.approx(0.02, rel=0.05)


def test_a_file_that_does_not_fit_is_named_with_keys(tmp_path: Path) -> None:
    wider = timm_model("backbone", dims=[16, 32, 64, 96])
    torch.save(wider.state_dict(), tmp_path / "wider.pth")
    with pytest.raises(UserError, match=r"wider\.pth does not fit model\.backbone: stages\.3"):
        build_network("v2", preset="nano", weights=tmp_path / "wider.pth")
    cut = {k: v for k, v in timm_model("embedder").state_dict().items() if k != "norm.bias"}
    torch.save(cut, tmp_path / "cut.pth")
    with pytest.raises(UserError, match=r"norm\.bias is missing"):
        build_network("v2", preset="nano", weights=tmp_path / "cut.pth")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match="fits neither"):
        build_network("v2", preset="nano", weights=tmp_path / "other.pth")


def test_unreadable_and_absent_files_are_user_errors(tmp_path: Path) -> None:
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    (tmp_path / "empty").mkdir()
    for name, message in [
        ("broken.pth", "cannot be read"),
        ("broken.safetensors", "cannot be read"),
        ("empty", "nor a folder of them"),
        ("absent.pth", "nor a folder of them"),
    ]:
        with pytest.raises(UserError, match=message):
            build_network("v2", preset="nano", weights=tmp_path / name)


def test_two_files_for_one_backbone_are_refused(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        torch.save(timm_model("backbone").state_dict(), tmp_path / name)
    with pytest.raises(UserError, match=r"a\.pth and .*b\.pth both fit"):
        build_network("v2", preset="nano", weights=tmp_path)


def test_an_unreachable_hub_is_one_quick_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Port 9 of this machine answers nobody.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(UserError, match=r"convnext_tiny.*model\.weights=PATH"):
        build_network("v2", pretrained=True)
    assert time.monotonic() - start < 20


def test_cached_hub_weights_are_used_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    sources = {}
    for role, name in (("backbone", "test_convnext"), ("embedder", "swin_tiny_patch4_window7_224")):
        kwargs = {} if role == "backbone" else {**NANO["embedder_kwargs"], "window_size": 7}
        source = timm.create_model(name, **kwargs)
        repository = timm.get_pretrained_cfg(name).hf_hub_id.replace("/", "--")
        folder = tmp_path / f"models--{repository}"
        (folder / "snapshots" / "abc").mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("abc")
        save_file(source.state_dict(), folder / "snapshots" / "abc" / "model.safetensors")
        sources[role] = source.state_dict()
    network = build_network(
        "v2", preset="nano", pretrained=True, backbone="test_convnext", backbone_kwargs={}
    )
    for role, source in sources.items():
        loaded = weights_of(network, role)
        same = [k for k in loaded if "position_bias" not in k]
        assert all(torch.equal(loaded[k], source[k]) for k in same)


def test_loaded_weights_survive_in_both_published_networks(tmp_path: Path) -> None:
    source = timm_model("backbone").state_dict()
    save_file(source, tmp_path / "convnext.safetensors")
    network = build_network("original", preset="nano", weights=tmp_path / "convnext.safetensors")
    for role in ("ed.backbone", "vae.backbone"):
        loaded = weights_of(network, role)
        assert loaded.keys() == source.keys()  # with the classifier of 1000 classes
        assert all(torch.equal(loaded[k], source[k]) for k in loaded)
