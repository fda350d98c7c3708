"""What a network costs: the same on paper as for real, and as worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genconvit.config import LossSettings, ModelSettings
from genconvit.footprint import (
    Footprint,
    LiveMemory,
    footprint,
    training_cost,
    verdict_cost,
)
from genconvit.models.output import NetworkOutput
from genconvit.models.registry import build_from_settings

LOSS = LossSettings()
TINY: dict[str, Any] = {
    "preset": "nano",
    "backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [4, 4, 8, 16]},
    "embedder_kwargs": {"embed_dim": 4, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
}


class ByHand(nn.Module):
    """A network that can be worked out by hand: 3 -> 6 channels in 3 groups, then 6 -> 2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, groups=3)
        self.head = nn.Linear(6, 2)
        self.unused = nn.Linear(6, 2)

    def forward(self, images_BCHW: Tensor, *, verdict_only: bool = False) -> NetworkOutput:
        return NetworkOutput(logits=self.head(self.conv(images_BCHW).mean(dim=(2, 3))))


def nano(**switches: Any) -> ModelSettings:
    return ModelSettings(**TINY, **switches)


def on_meta(model: ModelSettings, batch_size: int = 2) -> tuple[nn.Module, Tensor]:
    with torch.device("meta"):
        images = torch.empty(batch_size, 3, model.image_size, model.image_size)
        return build_from_settings(model), images


@pytest.fixture(scope="module")
def whole() -> Footprint:
    return footprint(nano(), LOSS, batch_size=2)


def test_operations_of_a_network_worked_out_by_hand() -> None:
    network, images = ByHand(), torch.rand(2, 3, 8, 8)
    conv, head = 2 * 8 * 8 * (3 * 3) * 6, 2 * 6 * 2
    verdict = verdict_cost(network, images)
    assert verdict.flops == 2 * (conv + head)
    assert verdict.flops_by_part == {"conv": 2 * conv, "head": 2 * head, "unused": 0}
    # Backward: the weights' gradients and that of the head's input; nobody asks for the images'.
    training = training_cost(network, images, nano(net="ed"), LOSS)
    assert training.flops == 2 * (conv + head) + 2 * (conv + 2 * head)
    live = {*network.conv.parameters(), *network.head.parameters()}
    assert training.reached == verdict.reached == live


def test_live_memory_is_that_of_tensors_held() -> None:
    known = torch.zeros(1000)
    with LiveMemory({known.untyped_storage()}) as memory:
        one = torch.zeros(100)
        two = one + 1
        view = two[:50]
        del one, two
        three = known[:10] * 2
    assert (memory.peak, memory.alive) == (4 * 200, 4 * 110)
    del view, three
    assert memory.alive == 0


def test_parts_sum_to_the_network(whole: Footprint) -> None:
    network = build_from_settings(nano())
    assert whole.parameters == sum(p.numel() for p in network.parameters())
    assert whole.buffer_bytes == sum(b.numel() * b.element_size() for b in network.buffers())
    for name in ("parameters", "trained", "needed", "verdict_flops"):
        assert sum(getattr(part, name) for part in whole.parts) == getattr(whole, name), name
    children = [name for name, child in network.named_children() if [*child.parameters()]]
    assert [part.name for part in whole.parts] == children


def test_meta_tensors_cost_what_real_ones_do(whole: Footprint) -> None:
    assert_costs(whole, nano())
    original = ModelSettings(arch="original", preset="nano")
    assert_costs(footprint(original, LOSS, batch_size=2), original)


def assert_costs(expected: Footprint, model: ModelSettings) -> None:
    network, images = build_from_settings(model), torch.rand(2, 3, 64, 64)
    training, verdict = training_cost(network, images, model, LOSS), verdict_cost(network, images)
    assert training.flops == 2 * expected.training_flops
    assert training.activation_bytes == expected.training_memory.activations
    assert verdict.flops == 2 * expected.verdict_flops
    assert verdict.activation_bytes == expected.inference_memory.activations


@pytest.mark.parametrize(
    "switches",
    [
        {"net": "genconvit"},
        {"net": "ed", "backbone_fusion": "concat"},
        {"net": "vae", "backbone_input": "reconstruction"},
        {"attention": False, "fusion": "sum"},
        {"residual": False, "fusion": "concat", "aux_heads": False},
    ],
    ids=str,
)
def test_the_loss_trains_every_parameter(switches: dict[str, Any]) -> None:
    model = nano(**switches)
    network, images = on_meta(model)
    assert training_cost(network, images, model, LOSS).reached == {*network.parameters()}


def test_a_verdict_needs_neither_aux_heads_nor_the_variance(whole: Footprint) -> None:
    parts = {part.name: part for part in whole.parts}
    assert whole.trained == whole.parameters
    assert (parts["branch_heads"].trained, parts["branch_heads"].needed) == (2 * 514, 0)
    assert 0 < parts["vae"].needed < parts["vae"].parameters
    assert whole.needed == whole.parameters - 2 * 514 - (192 * 64 + 64)


def test_one_branch_costs_less(whole: Footprint) -> None:
    ed = verdict_cost(*on_meta(nano(net="ed")))
    assert ed.flops < 2 * whole.verdict_flops
    assert ed.activation_bytes < whole.inference_memory.activations


def test_a_larger_batch_costs_memory_and_no_operations(whole: Footprint) -> None:
    twice = footprint(nano(), LOSS, batch_size=4)
    assert twice.verdict_flops == whole.verdict_flops
    assert twice.training_flops == whole.training_flops
    for name in ("training_memory", "inference_memory"):
        few, many = getattr(whole, name), getattr(twice, name)
        assert many.weights == few.weights
        assert 1.9 < many.activations / few.activations <= 2


def test_training_holds_weights_gradients_and_two_moments(whole: Footprint) -> None:
    weights = 4 * whole.parameters
    memory = whole.training_memory
    assert (memory.gradients, memory.optimizer) == (weights, 2 * weights)
    assert memory.weights == whole.parameter_bytes + whole.buffer_bytes
    assert memory.total == memory.weights + 3 * weights + memory.activations
    assert whole.inference_memory.gradients == 0


def test_the_base_network_is_as_large_as_documented() -> None:
    network, images = on_meta(ModelSettings(), batch_size=1)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(82.3e6, rel=1e-3)
    verdict = verdict_cost(network, images)
    assert verdict.flops == pytest.approx(55.5e9, rel=1e-3)
    tokens, dim = 7 * 7, 768
    one_way = 4 * 2 * tokens * dim**2 + 2 * 2 * tokens**2 * dim
    assert verdict.flops_by_part["attention"] == 2 * one_way
