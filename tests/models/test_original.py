"""The published networks: their sizes, what learns in them, and that both are trained at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from genconvit.config import LossSettings, ModelSettings
from genconvit.errors import UserError
from genconvit.losses import compute_losses
from genconvit.models.original import Original
from genconvit.models.registry import build_from_settings, build_network
from tests.models.liveness import dead_parameters, images, training_loss

TINY: dict[str, Any] = {
    "arch": "original",
    "preset": "nano",
    "autoencoder_channels": [2, 2, 3, 4, 4],
    "backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [4, 4, 8, 8], "ls_init_value": 0.1},
}
NETS = ("genconvit", "ed", "vae")
LOSS = LossSettings(vae_weight=1.0)


def tiny(net: str, seed: int = 0) -> Original:
    torch.manual_seed(seed)
    network = build_network(**TINY, net=net)
    assert isinstance(network, Original)
    return network


@pytest.mark.parametrize(("net", "millions"), [("ed", 30.2), ("vae", 344.5), ("genconvit", 374.6)])
def test_sizes_are_the_live_ones_of_the_published_networks(net: str, millions: float) -> None:
    with torch.device("meta"):
        network = build_network("original", net=net)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("vae_weight", [0.0, 1.0])
@pytest.mark.parametrize("net", NETS)
def test_every_parameter_learns(net: str, vae_weight: float, seed: int) -> None:
    """From any seed: the ReLU at the end of the decoder must not start dead."""
    model, loss = ModelSettings(**TINY, net=net), LossSettings(vae_weight=vae_weight)
    assert dead_parameters(tiny(net, seed), model, loss) == []


@pytest.mark.parametrize("size", [64, 96, 224])
def test_output_shapes(size: int) -> None:
    output = build_network(**TINY, image_size=size)(images(2, size))
    assert output.logits.shape == output.ed_logits.shape == output.vae_logits.shape == (2, 2)
    assert output.vae_reconstruction.shape == (2, 3, size // 2, size // 2)
    assert output.ed_reconstruction is None


def test_both_networks_together_give_the_mean_of_their_logits() -> None:
    pair, x = tiny("genconvit").eval(), images(2)
    with torch.no_grad():
        output = pair(x)
        for net in ("ed", "vae"):
            one = tiny(net).eval()
            one.load_state_dict({k: pair.state_dict()[k] for k in one.state_dict()})
            assert torch.equal(one(x).logits, getattr(output, f"{net}_logits"))
            assert one(x).ed_logits is None
        mean = (output.ed_logits + output.vae_logits) / 2
        torch.testing.assert_close(output.logits, mean)
        assert torch.equal(pair(x, verdict_only=True).logits, output.logits)


def test_training_both_at_once_gives_each_the_gradients_of_its_own_training() -> None:
    pair = tiny("genconvit").eval()  # no noise, and the same batch statistics
    training_loss(pair, ModelSettings(**TINY, net="genconvit"), LOSS).backward()
    together = {name: p.grad for name, p in pair.named_parameters()}
    for net in ("ed", "vae"):
        one = tiny(net).eval()
        one.load_state_dict({k: pair.state_dict()[k] for k in one.state_dict()})
        training_loss(one, ModelSettings(**TINY, net=net), LOSS).backward()
        for name, p in one.named_parameters():
            torch.testing.assert_close(together[name], p.grad)


def test_losses_are_the_published_ones() -> None:
    x, labels = images(4), torch.tensor([0, 1, 1, 0])
    cross_entropy = nn.CrossEntropyLoss()
    for net in NETS:
        output = tiny(net)(x)
        parts = compute_losses(output, x, labels, LOSS, ModelSettings(**TINY, net=net))
        expected = torch.zeros(())
        if net in ("ed", "genconvit"):
            logits = output.logits if net == "ed" else output.ed_logits
            expected = expected + cross_entropy(logits, labels)
        if net in ("vae", "genconvit"):
            logits = output.logits if net == "vae" else output.vae_logits
            decoded = nn.functional.interpolate(
                output.vae_reconstruction, (64, 64), mode="bilinear"
            )
            expected = expected + cross_entropy(logits, labels) + ((decoded - x) ** 2).mean()
        torch.testing.assert_close(parts["loss"], expected)
        assert {"ae", "kl", "aux"}.isdisjoint(parts)


def test_noise_is_drawn_in_training_alone_and_scaled_by_mu() -> None:
    vae = tiny("vae").vae
    assert vae is not None
    nn.init.zeros_(vae.mu.weight)
    seen: list[torch.Tensor] = []
    vae.unflatten.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for mu in (-4.0, 2.0):
        nn.init.constant_(vae.mu.bias, mu)
        vae.train()(images(64))
        noise = seen.pop() - mu
        # As published: the variance comes from mu.
        assert noise.std().item() == pytest.approx(torch.tensor(mu / 2).exp().item(), rel=0.1)
        vae.eval()(images(2))
        assert torch.equal(seen.pop(), torch.full((2, vae.mu.out_features), mu))


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"net": "v2"}, "net v2 belongs to arch v2"),
        ({"attention": False}, "attention is a setting of arch v2"),
        ({"dropout_rate": 0.3}, "leave model.dropout_rate out"),
        ({"embedder_kwargs": {"depths": [1, 1, 1, 1]}}, "embedder_kwargs is a setting of arch v2"),
    ],
)
def test_what_only_v2_has_is_refused(switches: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_network("original", preset="nano", **switches)


def test_another_image_size_is_refused() -> None:
    with pytest.raises(UserError, match="image_size"):
        build_from_settings(ModelSettings(**TINY))(images(2, 96))
