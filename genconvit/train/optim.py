"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from genconvit.config import TrainSettings

WARMUP_START = 0.01
"""Share of the rate at which a warm-up starts."""

_BACKBONES = {"backbone", "embedder"}
_FIRST = {"stem", "patch_embed", "conv_stem", "conv1", "bn1"}
# timm's names in a ConvNeXt, a Swin, an EfficientNet (`blocks.3.1`) and a ResNet (`layer3.1`).
_BLOCK = re.compile(
    r"\b(?:backbone|embedder)\.(?:stages\.|layers\.|blocks\.|layer)(\d+)\.(?:(?:blocks\.)?(\d+)\.)?"
)


def build_optimizer(network: nn.Module, settings: TrainSettings) -> Optimizer:
    """AdamW over all parameters of `network`, frozen ones too, so that they may be freed later.

    Biases, norms and what timm's backbones name in `no_weight_decay` are not decayed. With
    `layer_decay` groups have an `lr_scale`, 1 next to the verdict, which `Schedule` applies; `lr`
    is not scaled before its first `before_update`.

    The update is torch's fused one: where `optimizer.found_inf` is a float32 tensor on the
    parameters' device, 1 leaves parameters and state as they are and 0 does not, and the host never
    waits for it.
    """
    optimizer: Optimizer = create_optimizer_v2(
        network,
        opt="adamw",
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        param_group_fn=lambda network: _groups(network, settings),
        fused=True,
    )
    return optimizer


def freeze_backbones(network: nn.Module, frozen: bool) -> None:
    """Whether ConvNeXt and Swin learn: sets `requires_grad` of their parameters, of no others."""
    for name, parameter in network.named_parameters():
        if not _BACKBONES.isdisjoint(name.split(".")):
            parameter.requires_grad_(not frozen)


def set_training(network: nn.Module) -> None:
    """Training mode, but for frozen backbones: they give what they give when a face is judged.

    Neither do they drop paths then, nor do their batch norms learn the statistics of these crops.
    """
    network.train()
    for name, module in network.named_modules():
        frozen = not any(parameter.requires_grad for parameter in module.parameters())
        if frozen and name.rpartition(".")[2] in _BACKBONES:
            module.eval()


class Schedule:
    """The learning rate over a run, with a linear warm-up from a hundredth of `lr`.

    cosine: after the warm-up it falls from `lr` to `min_lr`, which it reaches when all epochs are
    over. plateau: `lr` until the validation loss (where nothing is validated, the training loss)
    stands still, then less, but not less than `min_lr`; epochs that end within the warm-up do not
    count, and the number of epochs has no part in it. A group's `lr_scale` multiplies all of this,
    `min_lr` too.

    Args:
        optimizer: Its groups' rates are set; what they are before has no effect.
        settings: The rates.
        updates_per_epoch: Optimiser steps in an epoch.
    """

    def __init__(
        self, optimizer: Optimizer, settings: TrainSettings, updates_per_epoch: int
    ) -> None:
        self._optimizer = optimizer
        self._warmup_epochs = settings.warmup_epochs
        self._warmup = int(settings.warmup_epochs * updates_per_epoch)
        self._lr = settings.lr
        # Schedulers work on a group of their own: torch's would compare each scaled rate with its
        # eps, and timm's start from the rates that a resumed optimiser happens to have.
        base = SGD([torch.zeros(())], lr=settings.lr)
        self._base: dict[str, Any] = base.param_groups[0]
        self._cosine: CosineLRScheduler | None = None
        self._plateau: ReduceLROnPlateau | None = None
        if settings.sched == "cosine":
            updates = settings.epochs * updates_per_epoch - self._warmup
            self._cosine = CosineLRScheduler(
                base,
                t_initial=max(2, updates),  # timm warns of a single update, which is as with 2
                lr_min=min(settings.min_lr, settings.lr),
                t_in_epochs=False,
            )
        else:
            self._plateau = ReduceLROnPlateau(
                base,
                factor=settings.lr_gamma,
                patience=settings.lr_patience,
                min_lr=settings.min_lr,
                threshold=settings.early_stopping_min_delta,
                threshold_mode="abs",
            )

    @property
    def lr(self) -> float:
        """The rate of the latest update, of a group that is not scaled; at first `train.lr`."""
        return self._lr

    def before_update(self, update: int) -> None:
        """Sets all groups' rates for an optimiser step, counted from 0 over the whole run."""
        if self._cosine is not None:
            self._cosine.step_update(max(0, update - self._warmup))
        share = 1.0
        if update < self._warmup:
            share = WARMUP_START + (1 - WARMUP_START) * update / self._warmup
        self._lr = share * self._base["lr"]
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr * group.get("lr_scale", 1.0)

    def after_epoch(self, epoch: int, loss: float) -> None:
        """Takes note of the loss that an epoch, counted from 1, is judged by."""
        if self._plateau is not None and epoch > self._warmup_epochs:
            self._plateau.step(loss)

    def state_dict(self) -> dict[str, float]:
        """What has happened so far, as plain numbers; the settings are not part of it."""
        state = {"lr": self._lr}
        if self._plateau is not None:
            state["reduced_lr"] = self._base["lr"]
            state["best"] = self._plateau.best
            state["bad_epochs"] = self._plateau.num_bad_epochs
        return state

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Goes on from a `state_dict`; later rates are the same to the last bit.

        Raises:
            KeyError: The state is that of a cosine, and `sched` is plateau.
        """
        self._lr = state["lr"]
        if self._plateau is not None:
            self._base["lr"] = state["reduced_lr"]
            self._plateau.best = state["best"]
            self._plateau.num_bad_epochs = int(state["bad_epochs"])


def _groups(network: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    undecayed = {
        f"{prefix}.{name}"
        for prefix, module in network.named_modules()
        if hasattr(module, "no_weight_decay")
        for name in module.no_weight_decay()
    }
    common = {"weight_decay": settings.weight_decay, "no_weight_decay_list": undecayed}
    # timm leaves frozen parameters out.
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    groups: list[dict[str, Any]]
    if settings.layer_decay is None:
        groups = param_groups_weight_decay(network, **common)
    else:
        layered = SimpleNamespace(
            named_parameters=network.named_parameters, group_matcher=lambda coarse: _depth
        )
        groups = param_groups_layer_decay(layered, layer_decay=settings.layer_decay, **common)
    for parameter in frozen:
        parameter.requires_grad_(False)
    return groups


def _depth(name: str) -> tuple[int, ...]:
    """Sorts parameters by depth, as timm's `group_matcher` would: equal tuples are one layer.

    Stems come first. Then each block of a stage, those of ConvNeXt and of Swin
    with the same number side by side, and with the first of them what halves the map before it.
    All that follows the last blocks is one layer, and so are the autoencoders: what starts from
    random weights learns at the full rate.
    """
    block = _BLOCK.search(name)
    if block:
        return 1, int(block[1]), int(block[2] or 0)
    return (2,) if _FIRST.isdisjoint(name.split(".")) else (0,)
