"""Accelerated networks compute what timm's and ours compute, wherever the kernels do not run."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from genconvit.config import ModelSettings
from genconvit.models import accelerate as accelerate_module
from genconvit.models.accelerate import accelerate
from genconvit.models.registry import build_from_settings

IMAGES = (3, 3, 64, 64)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def network(**changes: Any) -> nn.Module:
    settings = {"preset": "nano", "drop_path_rate": 0.3, "dropout_rate": 0.0, **changes}
    return build_from_settings(ModelSettings(**settings))


def results(module: nn.Module, x: Tensor) -> list[Tensor]:
    """What a module returns for a seed, and the gradients of all that it depends on."""
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    out = module(x)
    out = out if isinstance(out, Tensor) else torch.cat([out.logits, out.ed_logits, out.mu], 1)
    module.zero_grad()
    (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in module.parameters() if p.grad is not None)]


def assert_same(plain: nn.Module, faster: nn.Module, x: Tensor) -> None:
    for training in (True, False):
        plain.train(training)
        faster.train(training)
        expected, got = results(plain, x), results(faster, x)
        assert len(expected) == len(got)
        for e, g in zip(expected, got, strict=True):
            scale = float(e.norm()) + 1e-6
            assert float((e - g).norm()) < 1e-4 * scale


def test_what_validation_made_first_can_be_trained_with() -> None:
    accelerate_module._pixel_constants.cache_clear()
    faster = accelerate(network(), compile=False)
    images = torch.randn(IMAGES)
    with torch.inference_mode():
        faster.eval()(images)
    faster.train()(images).logits.sum().backward()


def test_untrained_backbones_have_gradients_in_float16() -> None:
    """ConvNeXt's layer scale starts so small that folded into float16 weights nothing is left."""
    plain = network(backbone_kwargs={**nano_convnext(), "ls_init_value": 1e-6}).train()
    faster = accelerate(copy.deepcopy(plain), compile=False)
    found = []
    for module in (plain, faster):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.float16):
            logits = module(torch.randn(IMAGES)).logits
        (2**14 * logits.float().sum()).backward()
        found.append(module.backbone.stages[0].blocks[0].mlp.fc1.weight.grad.flatten())
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.99


def nano_convnext() -> dict[str, Any]:
    return ModelSettings(preset="nano").backbone_kwargs


@pytest.mark.parametrize(
    "switches",
    [
        {"backbone_input": "both"},
        {"backbone_input": "reconstruction"},
        {"backbone_input": "difference", "backbone_stride": 8, "pooling": "place"},
        {"seam_branch": True},
    ],
    ids=str,
)
def test_networks_keep_their_function(switches: dict[str, Any]) -> None:
    plain = network(**switches)
    if plain.seams is not None:
        plain.seams.weight.fill_(0.1)
        plain.seams.verdict_scale.fill_(0.5)
    faster = accelerate(copy.deepcopy(plain), compile=False)
    assert list(plain.state_dict()) == list(faster.state_dict())
    assert_same(plain, faster, torch.randn(IMAGES))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("convnext_atto", {"depths": [1, 2, 1, 1], "dims": [8, 16, 24, 32], "conv_mlp": False}),
        ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8], "ls_init_value": None}),
        ("convnextv2_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 96, "embed_dim": 12, "depths": [2, 2, 1, 1], "num_heads": [1, 2, 3, 4]},
        ),
        (
            "swinv2_tiny_window8_256",
            {"img_size": 64, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2]},
        ),
    ],
)
def test_backbones_keep_their_function(name: str, arguments: dict[str, Any]) -> None:
    plain = timm.create_model(name, num_classes=0, drop_path_rate=0.2, **arguments)
    faster = accelerate(copy.deepcopy(plain), compile=False)
    side = arguments.get("img_size", 64)  # 96: windows of 7 do not fit the first map of 24
    assert_same(plain, faster, torch.randn(2, 3, side, side))


def test_blocks_are_replaced_and_foreign_ones_are_not() -> None:
    parts = {type(part).__name__ for part in accelerate(network(), compile=False).modules()}
    assert {"_ConvNeXtBlock", "_SwinBlock", "_Stem", "_Downsample", "_PatchMerging"} <= parts
    assert {"_PatchEmbed", "_V2", "_Autoencoder", "_VariationalAutoencoder"} <= parts
    assert not parts & {"ConvNeXtBlock", "SwinTransformerBlock"}
    foreign = timm.create_model("swinv2_tiny_window8_256", img_size=64)
    kept = [type(block) for block in foreign.layers[0].blocks]
    assert [type(b) for b in accelerate(foreign, compile=False).layers[0].blocks] == kept


def test_activation_checkpoints_draw_the_same_paths() -> None:
    plain = network()
    faster = accelerate(copy.deepcopy(plain), compile=False)
    for backbone in (faster.backbone, faster.embedder):
        backbone.set_grad_checkpointing()
    assert_same(plain, faster, torch.randn(IMAGES))


def test_verdicts_are_the_same_in_inference_mode() -> None:
    plain = network().eval()
    faster = accelerate(copy.deepcopy(plain), compile=False)
    images = torch.randn(IMAGES)
    with torch.inference_mode():
        expected = plain(images, verdict_only=True).logits
        torch.testing.assert_close(faster(images, verdict_only=True).logits, expected)


def test_residual_streams_take_the_dtype_of_autocast() -> None:
    plain = network().eval()
    faster = accelerate(copy.deepcopy(plain), compile=False)
    seen = []
    faster.backbone.stages.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    faster.embedder.layers.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    images = torch.randn(IMAGES)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = faster(images).logits.float()
    with torch.no_grad():
        expected = plain(images).logits
    assert seen == [torch.bfloat16] * 2
    torch.testing.assert_close(got, expected, atol=0.1, rtol=0.1)


def test_copies_work_and_are_apart() -> None:
    faster = accelerate(network(), compile=False).eval()
    copied = copy.deepcopy(faster)
    images = torch.randn(IMAGES)
    with torch.no_grad():
        before = faster(images).logits
        next(copied.parameters()).add_(1)
        copied.ed.decoder[0].bias.add_(1)
        assert not torch.equal(copied(images).logits, before)
        torch.testing.assert_close(faster(images).logits, before)


def test_other_batch_sizes_run_uncompiled_on_request() -> None:
    plain = network().eval()
    faster = accelerate(copy.deepcopy(plain))
    images = torch.randn(IMAGES)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        torch.testing.assert_close(faster(images).logits, plain(images).logits)
