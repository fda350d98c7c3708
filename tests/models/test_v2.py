"""The network: each part learns, attends, and is built only where it is used."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genconvit.config import LossSettings, ModelSettings
from genconvit.errors import UserError
from genconvit.losses import compute_losses
from genconvit.models.autoencoder import normalize, unnormalize
from genconvit.models.output import NetworkOutput
from genconvit.models.registry import build_from_settings, build_network
from genconvit.trainable import check_trainable
from tests.models.liveness import dead_parameters, images

TINY: dict[str, Any] = {
    "preset": "nano",
    "ae_latent": 4,
    "vae_latent": 4,
    "autoencoder_channels": [2, 3, 4, 4, 4],
    "token_dim": 16,
    "attention_heads": 2,
    "backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [4, 4, 8, 16]},
    "embedder_kwargs": {"embed_dim": 4, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
}
BACKBONE = {
    "backbone_fusion": ("sum", "concat"),
    "backbone_input": ("both", "reconstruction", "difference"),
}
FUSED = {
    "net": ("v2",),
    "attention": (True, False),
    "residual": (True, False),
    "fusion": ("swiglu", "sum", "concat"),
    "aux_heads": (True, False),
    **BACKBONE,
}
SINGLE = {"net": ("genconvit", "ed", "vae"), **BACKBONE}


def combinations(switches: dict[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [dict(zip(switches, v, strict=True)) for v in itertools.product(*switches.values())]


@pytest.mark.parametrize("switches", combinations(FUSED) + combinations(SINGLE), ids=str)
def test_every_parameter_learns(switches: dict[str, Any]) -> None:
    torch.manual_seed(0)
    loss = LossSettings(aux_weight=0.1 if switches.get("aux_heads", True) else 0.0)
    model = ModelSettings(**TINY, **switches)
    check_trainable(model, loss)
    assert dead_parameters(build_from_settings(model), model, loss) == []


@pytest.mark.parametrize("loss", [{"ae_weight": 0, "vae_weight": 0}, {"vae_beta": 0}])
@pytest.mark.parametrize("net", ["v2", "genconvit", "ed", "vae"])
def test_accepted_loss_weights_leave_nothing_dead(net: str, loss: dict[str, float]) -> None:
    torch.manual_seed(0)
    settings = LossSettings(**loss)
    model = ModelSettings(**TINY, net=net)
    check_trainable(model, settings)
    assert dead_parameters(build_from_settings(model), model, settings) == []


@pytest.mark.parametrize("net", ["v2", "genconvit", "ed", "vae"])
def test_refused_loss_weights_would_leave_something_dead(net: str) -> None:
    model, loss = ModelSettings(**TINY, net=net), LossSettings(classification_weight=0)
    assert dead_parameters(build_from_settings(model), model, loss)
    with pytest.raises(UserError, match="classification_weight"):
        check_trainable(model, loss)


def test_untrained_branch_heads_are_refused() -> None:
    model, loss = ModelSettings(**TINY), LossSettings(aux_weight=0)
    dead = dead_parameters(build_from_settings(model), model, loss)
    assert dead
    assert all(name.startswith("branch_heads.") for name in dead)
    with pytest.raises(UserError, match=r"aux_heads=false"):
        check_trainable(model, loss)


@pytest.mark.parametrize(
    "switches",
    [
        {"backbone": "convnextv2_atto"},
        {"backbone": "convnext_tiny_hnf"},
        {"backbone": "convnext_large_mlp"},
        {"backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [4, 4, 8, 32]}},
        {"image_size": 96},
        {"image_size": 128},
    ],
    ids=str,
)
def test_other_backbones_and_sizes_learn(switches: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = ModelSettings(**{**TINY, **switches})
    assert dead_parameters(build_from_settings(model), model, LossSettings()) == []


def test_swin_v2_learns_from_the_second_step() -> None:
    """timm starts its blocks' last norms at 0, so that the first step moves only those."""
    torch.manual_seed(0)
    model = ModelSettings(**{**TINY, "embedder": "swinv2_tiny_window8_256"})
    network = build_from_settings(model)
    dead = dead_parameters(network, model, LossSettings())
    assert all(".blocks." in name for name in dead)
    torch.optim.AdamW(network.parameters(), lr=1e-3).step()
    network.zero_grad()
    assert dead_parameters(network, model, LossSettings()) == []


def test_presets_stay_within_their_size() -> None:
    with torch.device("meta"):
        base = build_network("v2")
        nano = [build_network("v2", preset="nano", image_size=size) for size in (64, 96, 128)]
    assert count(base) < 90e6
    assert count(base.get_submodule("ed")) + count(base.get_submodule("vae")) < 15e6
    assert max(count(network) for network in nano) < 3e6


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("size", [64, 96, 128, 224])
def test_output_shapes_and_ranges(size: int) -> None:
    output: NetworkOutput = build_network("v2", preset="nano", image_size=size)(images(2, size))
    assert output.logits.shape == (2, 2)
    assert output.mu is not None
    assert output.mu.shape == (2, 64)
    for reconstruction in (output.ed_reconstruction, output.vae_reconstruction):
        assert reconstruction is not None
        assert reconstruction.shape == (2, 3, size, size)
        assert reconstruction.min() >= 0
        assert reconstruction.max() <= 1


def test_a_network_holds_and_returns_only_what_it_uses() -> None:
    x = images(2)
    ed = build_network(**TINY, net="ed")
    parts = {name.split(".")[0] for name, _ in ed.named_parameters()}
    assert parts == {"ed", "backbone", "embedder", "backbone_fusion", "projection", "branch_heads"}
    output = ed(x)
    assert output.vae_reconstruction is None
    assert output.mu is None
    assert output.ed_logits is None
    assert build_network(**TINY, net="vae")(x).ed_reconstruction is None
    plain = build_network(**TINY, attention=False, aux_heads=False)
    assert not [n for n, _ in plain.named_parameters() if n.startswith(("attention", "branch_h"))]
    assert plain(x).ed_logits is None


def test_genconvit_is_the_mean_of_both_branches() -> None:
    torch.manual_seed(0)
    pair = build_network(**TINY, net="genconvit").eval()
    x = images(2)
    with torch.no_grad():
        expected = []
        for net in ("ed", "vae"):
            one = build_network(**TINY, net=net).eval()
            one.load_state_dict({k: pair.state_dict()[k] for k in one.state_dict()})
            expected.append(one(x).logits)
        torch.testing.assert_close(pair(x).logits, (expected[0] + expected[1]) / 2)


def test_evaluation_repeats_bit_for_bit_and_training_draws_noise() -> None:
    network, x = build_network(**TINY, dropout_rate=0.0), images(2)
    with torch.no_grad():
        assert not torch.equal(network(x).vae_reconstruction, network(x).vae_reconstruction)
        assert torch.equal(network(x).ed_reconstruction, network(x).ed_reconstruction)
        network.eval()
        assert torch.equal(network(x).logits, network(x).logits)
        # one image's score does not depend on its neighbours
        torch.testing.assert_close(network(x).logits[:1], network(x[:1]).logits)


def test_backbones_see_all_views_once_and_reconstructions_normalised() -> None:
    network, x = build_network(**TINY).eval(), images(2)
    seen: dict[str, list[Tensor]] = {"backbone.stem": [], "embedder.patch_embed": []}
    for name, calls in seen.items():
        network.get_submodule(name).register_forward_pre_hook(
            lambda _, args, calls=calls: calls.append(args[0])
        )
    runs: list[str] = []
    for name in ("ed", "vae"):
        network.get_submodule(name).register_forward_hook(lambda *_, n=name: runs.append(n))
    with torch.no_grad():
        output = network(x)
        ce = compute_losses(output, x, torch.tensor([0, 1]), LossSettings(), ModelSettings())
    assert ce["loss"].isfinite()
    assert runs == ["ed", "vae"]
    for calls in seen.values():
        assert len(calls) == 1
        ed, vae, image = calls[0].chunk(3)
        assert torch.equal(image, x)
        torch.testing.assert_close(ed, normalize(output.ed_reconstruction))
        torch.testing.assert_close(vae, normalize(output.vae_reconstruction))


def test_reconstruction_input_hides_the_image_from_the_backbones() -> None:
    network, x = build_network(**TINY, backbone_input="reconstruction").eval(), images(2)
    sizes: list[int] = []
    network.get_submodule("backbone.stem").register_forward_pre_hook(
        lambda _, args: sizes.append(len(args[0]))
    )
    network(x)
    assert sizes == [4]


def test_difference_sees_nothing_of_what_is_reconstructed_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = build_network(**TINY, net="ed", backbone_input="difference").eval()
    with torch.no_grad():
        one, other = network(images(2)).logits
        monkeypatch.setattr(network.ed, "forward", unnormalize)
        same, alike = network(images(2)).logits
    assert (same - alike).abs().max() < 0.01 * (one - other).abs().max()


@pytest.mark.parametrize("pooling", ["mean", "place"])
def test_pooling_by_place_tells_where_in_a_crop_something_is(pooling: str) -> None:
    """Attention is left out: it would mix the places of tokens before they are pooled."""
    network = build_network(**{**TINY, "image_size": 224}, net="ed", pooling=pooling).eval()
    tokens = torch.zeros(2, 49, 16)
    tokens[0, 24], tokens[1, 0] = 1.0, 1.0  # the middle, and a corner
    with torch.no_grad():
        middle, corner = network.pooling(tokens)
    assert torch.allclose(middle, corner) == (pooling == "mean")


def test_dropout_rate_reaches_every_head() -> None:
    network = build_network(**TINY, dropout_rate=0.3)
    heads = [network.get_submodule(n) for n in ("head", "branch_heads.ed", "branch_heads.vae")]
    rates = [m.p for head in heads for m in head.modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.3, 0.3, 0.3]


def test_another_image_size_is_refused() -> None:
    with pytest.raises(UserError, match="image_size"):
        build_network(**TINY)(images(2, 96))


@pytest.mark.parametrize("net", ["v2", "genconvit", "ed", "vae"])
def test_a_verdict_takes_no_more_than_it_needs(net: str) -> None:
    network, x = build_network(**TINY, net=net).eval(), images(2)
    with torch.no_grad():
        full = network(x)
        called: list[str] = []
        for name, module in network.named_modules():
            module.register_forward_hook(lambda *_, n=name: called.append(n))
        verdict = network(x, verdict_only=True)
    assert torch.equal(verdict.logits, full.logits)
    assert (verdict.vae_reconstruction, verdict.mu, verdict.logvar) == (None, None, None)
    assert "vae.logvar" not in called
    assert called.count("backbone.stem") == called.count("embedder.patch_embed") == 1
    assert bool([n for n in called if n.startswith("branch_heads")]) == (net != "v2")
    if net == "genconvit":
        assert torch.equal(verdict.ed_logits, full.ed_logits)
        assert torch.equal(verdict.vae_logits, full.vae_logits)


@pytest.mark.parametrize(("size", "tokens"), [(64, 4), (224, 49)])
def test_the_branches_attend_over_whole_maps(size: int, tokens: int) -> None:
    """With one key the softmax is always 1, and rounding gives query and key a gradient still."""
    network = build_network(**TINY, image_size=size)
    seen: list[tuple[int, ...]] = []
    for branch in ("ed", "vae"):
        network.get_submodule(f"attention.{branch}").register_forward_pre_hook(
            lambda _, args: seen.extend(tuple(x.shape) for x in args)
        )
    network(images(2, size))
    assert seen == [(2, tokens, TINY["token_dim"])] * 4
