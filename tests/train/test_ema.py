from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from genconvit.config import TrainSettings
from genconvit.train.ema import build_ema

SETTINGS = TrainSettings(model_ema=True, model_ema_decay=0.6)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()


def build(of: nn.Module, settings: TrainSettings = SETTINGS) -> ModelEmaV3:
    ema = build_ema(of, settings)
    assert ema is not None
    return ema


def learn(net: nn.Module, update: int) -> None:
    """Stands for a step: other weights, and another batch's statistics."""
    generator = torch.Generator().manual_seed(update)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    net(torch.randn(8, 4, generator=generator))


def run(net: nn.Module, ema: ModelEmaV3, updates: range) -> None:
    for update in updates:
        learn(net, update)
        ema.update(net, step=update + 1)


def copies(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def test_there_is_no_average_unless_asked_for() -> None:
    assert build_ema(network(), TrainSettings()) is None


def test_the_average_forgets_by_a_decay_that_rises_to_the_one_asked_for() -> None:
    net = network()
    ema = build(net)
    expected = {name: value.double().numpy() for name, value in copies(net).items()}
    decays = [0.0, 1 - 2 ** (-2 / 3), 1 - 3 ** (-2 / 3), 0.6, 0.6]
    for update, decay in enumerate(decays, start=1):
        learn(net, update)
        ema.update(net, step=update)
        for name, value in copies(net).items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double().numpy()
    for name, value in ema.module.state_dict().items():
        if value.is_floating_point():
            assert value.dtype == torch.float32
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)
    assert ema.module.get_buffer("1.num_batches_tracked") == len(decays)


def test_the_average_validates_while_the_network_trains_on() -> None:
    net = network()
    ema = build(net)
    before = copies(net)
    ema.update(net, step=1)
    assert net.training and not any(module.training for module in ema.module.modules())
    learn(net, 1)
    for name, value in ema.module.state_dict().items():
        assert torch.equal(value, before[name])


def test_no_random_number_is_drawn() -> None:
    net = network()
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    ema = build(net)
    ema.update(net, step=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.get_state()[1].tolist() == numpy_state


@pytest.mark.parametrize("cut", [0, 1, 4])
def test_a_restored_average_goes_on_as_if_never_stopped(cut: int) -> None:
    whole = network()
    ema = build(whole)
    run(whole, ema, range(6))
    net = network()
    first = build(net)
    run(net, first, range(cut))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = build(net)
    second.load_state_dict(torch.load(file, weights_only=True))
    run(net, second, range(cut, 6))
    for name, value in ema.module.state_dict().items():
        assert torch.equal(value, second.module.state_dict()[name]), name
