from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from genconvit.config import TrainSettings
from genconvit.models.registry import build_network
from genconvit.train.optim import Schedule, build_optimizer, freeze_backbones


@pytest.fixture(scope="module", params=["v2", "original"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return build_network(request.param, preset="nano")


def options(network: nn.Module, **settings: Any) -> dict[str, dict[str, Any]]:
    """The optimiser's group of each parameter, by the parameter's name."""
    optimizer = build_optimizer(network, TrainSettings(**settings))
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(groups)
    return {name: groups.pop(id(p)) for name, p in network.named_parameters()}


@pytest.mark.parametrize("layer_decay", [None, 0.7])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_all_parameters_are_optimised_once_even_frozen_ones(
    network: nn.Module, layer_decay: float | None, weight_decay: float
) -> None:
    freeze_backbones(network, True)
    learns = [parameter.requires_grad for parameter in network.parameters()]
    found = options(network, layer_decay=layer_decay, weight_decay=weight_decay)
    assert found.keys() == dict(network.named_parameters()).keys()
    assert [parameter.requires_grad for parameter in network.parameters()] == learns
    freeze_backbones(network, False)


@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_biases_and_norms_are_not_decayed(network: nn.Module, layer_decay: float | None) -> None:
    found = options(network, layer_decay=layer_decay, weight_decay=0.05)
    for name, parameter in network.named_parameters():
        free = parameter.ndim == 1 or "bias" in name  # Swin's tables of biases too
        assert found[name]["weight_decay"] == (0.0 if free else 0.05), name


def test_layers_learn_the_slower_the_farther_they_are_from_the_verdict() -> None:
    found = options(build_network("v2", preset="nano"), layer_decay=0.7)
    scale = {name: group["lr_scale"] for name, group in found.items()}

    def of(*prefixes: str) -> float:
        [value] = {
            value for name, value in scale.items() for prefix in prefixes if name.startswith(prefix)
        }
        return value

    # The nano backbones have stages of 1, 1, 2 and 1 blocks.
    layers = [
        of("backbone.stem", "embedder.patch_embed"),
        of("backbone.stages.0", "embedder.layers.0"),
        of("backbone.stages.1", "embedder.layers.1"),
        of(
            "backbone.stages.2.downsample",
            "backbone.stages.2.blocks.0",
            "embedder.layers.2.downsample",
            "embedder.layers.2.blocks.0",
        ),
        of("backbone.stages.2.blocks.1", "embedder.layers.2.blocks.1"),
        of("backbone.stages.3", "embedder.layers.3"),
        of(
            *("backbone.head", "embedder.norm", "backbone_fusion", "projection"),
            *("attention", "fusion", "head", "branch_heads", "ed.", "vae."),
        ),
    ]
    assert layers == pytest.approx([0.7**n for n in range(6, -1, -1)])
    assert set(scale.values()) == set(layers)


def test_the_published_networks_have_the_same_order() -> None:
    found = options(build_network("original", preset="nano"), layer_decay=0.5)
    for part in ("ed", "vae"):
        rising = ["stem.0", "stages.0.blocks.0.norm", "stages.3.blocks.0.norm"]
        scales = [found[f"{part}.backbone.{name}.weight"]["lr_scale"] for name in rising]
        assert scales == sorted(set(scales))
        assert scales[0] == 0.5**6
        assert found[f"{part}.decoder.0.weight"]["lr_scale"] == 1
        assert found[f"{part}.head.1.weight"]["lr_scale"] == 1
        assert found[f"{part}.backbone.head.fc.weight"]["lr_scale"] == 1
    assert found["vae.mu.weight"]["lr_scale"] == 1


@pytest.mark.parametrize(
    ("role", "name", "kwargs"),
    [
        ("backbone", "convnext_tiny", {"dims": (8, 8, 8, 8)}),
        ("backbone", "convnextv2_tiny", {"dims": (8, 8, 8, 8)}),
        ("backbone", "convnext_base", {"dims": (8, 8, 8, 8), "depths": (3, 3, 9, 3)}),
        ("embedder", "swin_tiny_patch4_window7_224", {"embed_dim": 12, "depths": (3, 3, 9, 3)}),
        ("embedder", "swinv2_tiny_window8_256", {"embed_dim": 12, "depths": (3, 3, 9, 3)}),
    ],
)
def test_all_of_timms_families_have_their_blocks_found(
    role: str, name: str, kwargs: dict[str, Any]
) -> None:
    backbone = timm.create_model(name, num_classes=0, **kwargs)
    found = options(nn.ModuleDict({role: backbone}), layer_decay=0.9)
    last = [name for name, group in found.items() if group["lr_scale"] == 1]
    assert last and all("norm" in name for name in last)
    assert len({group["lr_scale"] for group in found.values()}) == 1 + 18 + 1


def state(network: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    tensors = [*network.parameters()]
    tensors += [value for values in optimizer.state.values() for value in values.values()]
    return [tensor.detach().clone() for tensor in tensors]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def test_a_step_that_found_inf_changes_nothing() -> None:
    torch.manual_seed(0)
    network, twin = nn.Linear(4, 3), nn.Linear(4, 3)
    twin.load_state_dict(network.state_dict())
    settings = TrainSettings(lr=0.1, weight_decay=0.1)
    optimizer, undisturbed = build_optimizer(network, settings), build_optimizer(twin, settings)

    def step(factor: float, found_inf: float) -> None:
        generator = torch.Generator().manual_seed(0)
        for parameter in network.parameters():
            parameter.grad = factor * torch.randn(parameter.shape, generator=generator)
        optimizer.found_inf = torch.tensor(found_inf)  # type: ignore[attr-defined]
        optimizer.step()

    weights = [parameter.detach().clone() for parameter in network.parameters()]
    step(1.0, 1.0)  # the very first, which also creates the state
    assert equal(weights, list(network.parameters()))
    step(1.0, 0.0)
    after = state(network, optimizer)
    assert not equal(weights, after[: len(weights)])
    for factor in (1.0, float("nan"), float("inf")):
        step(factor, 1.0)
        assert equal(after, state(network, optimizer))
    step(2.0, 0.0)
    assert all(values["step"] == 2 for values in optimizer.state.values())

    for factor in (1.0, 2.0):
        generator = torch.Generator().manual_seed(0)
        for parameter in twin.parameters():
            parameter.grad = factor * torch.randn(parameter.shape, generator=generator)
        undisturbed.step()
    assert equal(state(network, optimizer), state(twin, undisturbed))


def test_frozen_backbones_stay_as_they_began_and_learn_later(network: nn.Module) -> None:
    optimizer = build_optimizer(network, TrainSettings(lr=0.01, weight_decay=0.1))
    backbones = {"backbone", "embedder"}
    inside = [not backbones.isdisjoint(name.split(".")) for name, _ in network.named_parameters()]
    assert any(inside) and not all(inside)

    def changed() -> list[bool]:
        before = [parameter.detach().clone() for parameter in network.parameters()]
        learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
        torch.stack([parameter.sum() for parameter in learning]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        return [not torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True)]

    freeze_backbones(network, True)
    assert changed() == [not within for within in inside]
    freeze_backbones(network, False)
    assert all(changed())


SCALES = [0.25, 1.0, None]


def scaled_groups() -> Optimizer:
    groups = [
        {"params": [torch.zeros(())], **({} if scale is None else {"lr_scale": scale})}
        for scale in SCALES
    ]
    return SGD(groups, lr=123.0)  # which no schedule may rest on


def rates(
    schedule: Schedule, optimizer: Optimizer, updates: range, per_epoch: int, losses: list[float]
) -> list[float]:
    """The unscaled rate of each update; there is a loss for every epoch."""
    found = []
    for update in updates:
        schedule.before_update(update)
        found.append(schedule.lr)
        for group, scale in zip(optimizer.param_groups, SCALES, strict=True):
            assert group["lr"] == schedule.lr * (scale or 1.0)
        if (update + 1) % per_epoch == 0:
            epoch = (update + 1) // per_epoch
            schedule.after_epoch(epoch, losses[epoch - 1])
    return found


@st.composite
def runs(draw: st.DrawFn) -> tuple[TrainSettings, int, list[float]]:
    """Settings, updates an epoch, and the validation loss of each epoch."""
    epochs, lr = draw(st.integers(1, 8)), draw(st.floats(1e-6, 1.0))
    settings = TrainSettings(
        epochs=epochs,
        lr=lr,
        min_lr=draw(st.sampled_from([0.0, 0.01, 1.0])) * lr,
        sched=draw(st.sampled_from(["cosine", "plateau"])),
        warmup_epochs=draw(st.sampled_from([0.0, 0.1, 0.5, 0.9])) * epochs,
        lr_gamma=draw(st.floats(0.1, 0.9)),
        lr_patience=draw(st.integers(0, 2)),
    )
    losses = draw(st.lists(st.floats(0, 2), min_size=epochs, max_size=epochs))
    return settings, draw(st.integers(1, 6)), losses


@given(runs())
def test_rates_rise_to_the_one_asked_for_and_fall_from_it(
    run: tuple[TrainSettings, int, list[float]],
) -> None:
    settings, per_epoch, losses = run
    optimizer = scaled_groups()
    schedule = Schedule(optimizer, settings, per_epoch)
    updates = settings.epochs * per_epoch
    found = rates(schedule, optimizer, range(updates), per_epoch, losses)
    warmup = int(settings.warmup_epochs * per_epoch)
    rounding = 1 + 1e-12
    assert all(0 < rate <= settings.lr * rounding for rate in found)
    assert found[:warmup] == sorted(set(found[:warmup]))
    assert found[0] == pytest.approx(settings.lr * (0.01 if warmup else 1))
    assert found[warmup] == pytest.approx(settings.lr)
    later = found[warmup:]
    assert all(after <= before * rounding for before, after in pairwise(later))
    assert min(later) >= settings.min_lr / rounding
    if settings.sched == "cosine":
        schedule.before_update(updates)  # the one after the last
        assert schedule.lr == pytest.approx(settings.min_lr, abs=settings.lr / 2)
        if updates - warmup > 1:
            assert schedule.lr == pytest.approx(settings.min_lr)
            share = (found[-1] - settings.min_lr) / (settings.lr - settings.min_lr or 1)
            assert share <= (1.6 / (updates - warmup)) ** 2 + 1e-9


@given(runs(), st.integers(0, 48), st.integers(0, 3))
def test_a_restored_schedule_goes_on_as_if_never_stopped(
    run: tuple[TrainSettings, int, list[float]], cut: int, more_epochs: int
) -> None:
    settings, per_epoch, losses = run
    updates = settings.epochs * per_epoch
    cut = min(cut, updates)
    optimizer = scaled_groups()
    whole = Schedule(optimizer, settings, per_epoch)
    expected = rates(whole, optimizer, range(updates), per_epoch, losses)

    optimizer = scaled_groups()
    first = Schedule(optimizer, settings, per_epoch)
    got = rates(first, optimizer, range(cut), per_epoch, losses)
    file = io.BytesIO()
    torch.save({"schedule": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    if settings.sched == "plateau":  # a cosine follows the epochs
        settings = settings.model_copy(update={"epochs": settings.epochs + more_epochs})
    optimizer = scaled_groups()
    optimizer.load_state_dict(saved["optimizer"])
    second = Schedule(optimizer, settings, per_epoch)
    second.load_state_dict(saved["schedule"])
    assert second.lr == first.lr
    got += rates(second, optimizer, range(cut, updates), per_epoch, losses)
    assert got == expected
    assert second.state_dict() == whole.state_dict()


@given(st.lists(st.floats(0, 2), min_size=1, max_size=12), st.integers(0, 2))
def test_a_plateau_is_what_torch_takes_for_one(losses: list[float], patience: int) -> None:
    settings = TrainSettings(lr=0.1, lr_patience=patience, lr_gamma=0.3, min_lr=0.002)
    optimizer, reference = scaled_groups(), SGD([torch.zeros(())], lr=0.1)
    schedule = Schedule(optimizer, settings, 1)
    torchs = ReduceLROnPlateau(
        reference, factor=0.3, patience=patience, min_lr=0.002, threshold=1e-3, threshold_mode="abs"
    )
    for number, loss in enumerate(losses):
        schedule.before_update(number)
        assert schedule.lr == reference.param_groups[0]["lr"]
        schedule.after_epoch(number + 1, loss)
        torchs.step(loss)


@pytest.mark.parametrize(("warmup", "full"), [(3.0, 4), (2.5, 3), (0.0, 1)])
def test_losses_of_the_warm_up_reduce_nothing(warmup: float, full: int) -> None:
    """`full` is the first epoch whose loss counts, after which each standstill halves the rate."""
    epochs, per_epoch = 8, 4
    settings = TrainSettings(lr=0.1, lr_patience=0, warmup_epochs=warmup, epochs=epochs)
    optimizer = scaled_groups()
    found = rates(
        Schedule(optimizer, settings, per_epoch),
        optimizer,
        range(epochs * per_epoch),
        per_epoch,
        [0.0] + [1.0] * (epochs - 1),
    )
    last_of_epoch = found[per_epoch - 1 :: per_epoch]
    expected = [0.1 * 0.5 ** max(0, epoch - full - 1) for epoch in range(full, epochs + 1)]
    assert last_of_epoch[full - 1 :] == pytest.approx(expected)
