"""Training passes that are CUDA graphs compute what the network computes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from genconvit.models.registry import build_from_settings
from genconvit.train.graph import RecordedPasses, record_passes
from genconvit.train.precision import Precision
from tests.train import little

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
SETTINGS = little.settings("model.net=ed", "model.dropout_rate=0", "model.drop_path_rate=0")
PRECISION = Precision("cuda", torch.bfloat16)


def test_on_a_cpu_nothing_is_recorded() -> None:
    network = nn.Linear(1, 1)
    assert record_passes(network, SETTINGS.train, 4, 64, Precision("cpu")) is network


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_from_settings(SETTINGS.model).cuda().train()


def images(rows: int) -> Tensor:
    return torch.rand(rows, 3, 64, 64, device="cuda").to(memory_format=torch.channels_last)


def gradients(network: nn.Module, run: Callable[[Tensor], object], x: Tensor) -> Tensor:
    network.zero_grad(set_to_none=True)
    with PRECISION.autocast():
        run(x).logits.float().square().sum().backward()  # type: ignore[attr-defined]
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@needs_gpu
def test_gradients_are_those_of_the_network(network: nn.Module) -> None:
    recorded = RecordedPasses(network, images(6), PRECISION)
    for rows in (6, 6, 5):
        x = images(rows)
        expected, got = gradients(network, network, x), gradients(network, recorded, x)
        assert expected.norm() > 0
        torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2 * float(expected.std()))


@needs_gpu
def test_recording_leaves_the_network_and_its_random_numbers_alone(network: nn.Module) -> None:
    x, before = images(6), copy.deepcopy(network.state_dict())
    random = torch.cuda.get_rng_state()
    recorded = RecordedPasses(network, x, PRECISION)
    assert torch.equal(torch.cuda.get_rng_state(), random)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert "forward" not in vars(network)
    network.eval()
    with torch.inference_mode():
        torch.testing.assert_close(recorded(x).logits, network(x).logits)


@needs_gpu
def test_dropout_differs_from_pass_to_pass() -> None:
    settings = little.settings("model.net=ed", "model.dropout_rate=0.5")
    network = build_from_settings(settings.model).cuda().train()
    recorded, x = RecordedPasses(network, images(6), PRECISION), images(6)
    with PRECISION.autocast():
        first, second = (recorded(x).logits.clone() for _ in range(2))
    assert not torch.equal(first, second)
