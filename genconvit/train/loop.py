"""The training loop: plain PyTorch, one process or one of several in a DDP group."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genconvit.config import Settings
from genconvit.data.match import factors_of
from genconvit.errors import RunEndedError, UserError
from genconvit.models.seams import fit_seams
from genconvit.reference import CropSample
from genconvit.train.batches import BatchPlan
from genconvit.train.distributed import (
    gather_from_workers,
    largest_of_workers,
    rank_and_world,
    seed_everything,
    share_batch_statistics,
)
from genconvit.train.feed import Batch, Feed
from genconvit.train.graph import record_passes
from genconvit.train.optim import freeze_backbones, set_training
from genconvit.train.precision import Precision
from genconvit.train.run_writer import RunWriter
from genconvit.train.state import RunState
from genconvit.train.step import Objective, Preparation, TrainStep
from genconvit.train.sums import Sums
from genconvit.train.validate import labels_of, validate
from genconvit.train.watch import Ask, Event, Watch

REFERENCE_CROPS = 2000
"""Of the validation split, whose looks are kept with the detector; a small share of a pass."""


@dataclass(frozen=True)
class Data:
    """Where the loop gets its crops.

    Attributes:
        train: Batches of this worker for an epoch (counted from 1) without the first so many; every
            worker gets as many.
        validate: This worker's share of the validation crops; the shares may differ in length. Not
            called with `train.train_on_val`.
        rows: Training crops of this worker in an epoch.
        class_counts: Training crops that are (fake, real), over all workers.
        plan: How the crops of an optimiser step are shared out.
        resident: Images come as tensors that are on the device already.
    """

    train: Callable[[int, int], Iterable[Batch]]
    validate: Callable[[], Iterable[Batch]]
    rows: int
    class_counts: tuple[int, int]
    plan: BatchPlan
    resident: bool = False

    @property
    def batches(self) -> int:
        """Batches in a training epoch; the last one may be smaller."""
        return -(-self.rows // self.plan.rows)


class Trainer:
    """A run's state and the parts of its steps, and its epochs one after another.

    Args:
        settings: All settings of the run.
        network: On `device`, the same on every worker.
        data: The crops.
        device: Where to compute.
        resumed: The state to go on from, of `genconvit.train.state.read_state`.
        wrap: Makes the network's distributed form, such as DDP.
        accelerate: Makes a network faster, in place.
        compiled: It compiles the network, whose passes are recorded where that is possible.

    Attributes:
        state: What changes in the run.
        objective: Its loss.
    """

    def __init__(
        self,
        settings: Settings,
        network: nn.Module,
        data: Data,
        device: torch.device,
        *,
        resumed: dict[str, Any] | None = None,
        wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
        accelerate: Callable[[nn.Module], nn.Module] = lambda network: network,
        compiled: bool = False,
    ) -> None:
        train, plan = settings.train, data.plan
        precision = Precision.of(train, device)
        self.state = RunState.new(
            network, train, device, precision, updates_per_epoch=-(-data.batches // plan.passes)
        )
        seed_everything(settings.seed, 1)
        if resumed is not None:
            self.state.load_state_dict(resumed, plan, settings.seed)
        for one in {network, self.state.judge}:
            accelerate(one)
        counts = blended_counts(data.class_counts, settings.augment.self_blend)
        weights = class_weights(counts).to(device) if train.class_balance else None
        self.objective = Objective(settings.loss, settings.model, precision, weights, compiled)
        self._settings, self._data, self._device, self._wrap = settings, data, device, wrap
        self._preparation = Preparation(settings, device)
        self._step: TrainStep | None = None

    def train_epoch(self, watch: Watch) -> dict[str, Any]:
        """The rest of the epoch under way; means as of `train_epoch`.

        Raises:
            RunEndedError: The watch ends the run, or the workers have come apart.
        """
        train, plan, network = self._settings.train, self._data.plan, self.state.network
        epoch = self.state.epoch + 1
        if self._step is None or epoch == train.freeze_epochs + 1:
            # DDP has to know from the start which parameters get a gradient.
            freeze_backbones(network, epoch <= train.freeze_epochs)
            self._step = None  # its graphs hold memory
            passes, objective = network, self.objective
            if objective.compiled and plan.passes == 1:
                size = self._settings.model.image_size
                passes = record_passes(network, train, plan.rows, size, objective.precision)
            self._step = TrainStep(
                self._wrap(passes), objective, self._preparation, self.state, train.clip_grad
            )
        means = train_epoch(self._step, self._data, epoch, self._device, watch)
        for one in {network, self.state.judge}:
            share_batch_statistics(one)
        fit_seams(network, self.state.judge)
        _refuse_different(network, self._device)
        return means

    def end_epoch(self, entry: dict[str, Any], loss: float) -> None:
        """The epoch is done, and the next one begins.

        Args:
            entry: Of the history.
            loss: The cross entropy that the epoch is judged by.
        """
        state = self.state
        state.schedule.after_epoch(state.epoch + 1, loss)
        state.history.append(entry)
        state.batches, state.sums = 0, Sums(self._device, finite=True)
        seed_everything(self._settings.seed, state.epoch + 1)


def fit(
    settings: Settings,
    network: nn.Module,
    data: Data,
    folder: RunWriter,
    *,
    device: torch.device,
    resumed: dict[str, Any] | None = None,
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
    accelerate: Callable[[nn.Module], nn.Module] = lambda network: network,
    compiled: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
    ask: Ask = lambda: "",
) -> None:
    """Trains until the epochs or the patience end.

    With `train.train_on_val` nothing is validated: all epochs are run, and the last one is kept.

    Args:
        settings: All settings of the run.
        network: On `device`, the same on every worker.
        data: The crops.
        folder: Where the first worker writes the detectors, the results and the log.
        device: Where to compute.
        resumed: The state to go on from, of `genconvit.train.state.read_state`.
        wrap: Makes the network's distributed form, such as DDP.
        accelerate: Makes a network faster, in place.
        compiled: It compiles the network, whose passes are recorded where that is possible.
        on_event: Told of steps (first worker only, now and then) and of every epoch (all workers).
        ask: Whether someone wants the run saved or stopped.

    Raises:
        RunEndedError: The loss is no longer finite, the state cannot be written, or someone asked
            the run to stop (`RunStoppedError`).
    """
    train, plan = settings.train, data.plan
    trainer = Trainer(
        settings,
        network,
        data,
        device,
        resumed=resumed,
        wrap=wrap,
        accelerate=accelerate,
        compiled=compiled,
    )
    state = trainer.state
    started = time.monotonic()

    def save() -> None:
        state.seconds = time.monotonic() - started
        content = state.state_dict(plan)
        _by_the_first(partial(folder.save_state, content))

    if state.history and state.batches == 0:
        # Whoever was cut off between a state and what is told of it tells it now.
        _by_the_first(partial(folder.save_epoch, state))
    watch = Watch(settings, state, device, save, on_event, ask)
    sample = CropSample(max(1, REFERENCE_CROPS // rank_and_world()[1]))
    while state.epoch < train.epochs and not state.stopping.should_stop:
        epoch, started = state.epoch + 1, time.monotonic() - state.seconds
        means = trainer.train_epoch(watch)
        val: dict[str, Any] | None = None
        if not train.train_on_val:
            on_event({"event": "phase", "title": "validating"})
            val = validate(state.judge, data.validate(), trainer.objective, device, sample)
            state.reference = val.pop("reference")
        judged = means if val is None else val
        refuse_nan(epoch, means["loss"], judged["loss"])
        seconds = time.monotonic() - started
        crops = {"train": means["crops"], "val": 0 if val is None else val["crops"]}
        entry = {
            "epoch": epoch,
            "lr": state.schedule.lr,
            "train": _without_crops(means),
            "val": None if val is None else _without_crops(val),
            "crops": crops,
            "best": val is not None
            and state.stopping.update(epoch, val["clip_auc"], val["classification"]),
            "seconds": round(seconds, 3),
            "crops_per_s": round(sum(crops.values()) / seconds, 1),
            "skipped": int(state.skipped.item()),
        }
        trainer.end_epoch(entry, judged["classification"])
        started = time.monotonic()
        stopping = state.stopping
        over = stopping.should_stop or state.epoch == train.epochs
        if entry["best"] or over or watch.may_save():
            with watch.saving():
                # The state first: what is in `best/` can be made of it, not the other way round.
                save()
                _by_the_first(partial(folder.save_epoch, state))
        else:
            _by_the_first(partial(folder.save_history, state))
        state.seconds = 0.0
        watch.epoch_done()
        best = {"best_epoch": stopping.best_epoch or None, "best_clip_auc": stopping.best_auc}
        on_event({"event": "epoch", **best, **entry})
    early = state.stopping.should_stop and state.epoch < train.epochs
    _by_the_first(partial(folder.finish, state, stopped_early=early))


def _without_crops(means: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in means.items() if name != "crops"}


def _by_the_first(write: Callable[[], None]) -> None:
    """Has the first worker write something; where it cannot, all workers end.

    Raises:
        RunEndedError: It cannot be written.
    """
    problem = ""
    if rank_and_world()[0] == 0:
        try:
            write()
        except UserError as error:
            problem = str(error)
    [problem, *_] = gather_from_workers(problem)
    if problem:
        raise RunEndedError(problem)


def train_epoch(
    step: TrainStep, data: Data, epoch: int, device: torch.device, watch: Watch
) -> dict[str, Any]:
    """The rest of an epoch's batches; the means over all its crops, and the number of `crops`."""
    state, plan = step.state, data.plan
    set_training(state.network)
    feed = Feed(data.train(epoch, state.batches), device, resident=data.resident)
    watch.begin(feed, data.batches, plan.rows)
    for crops_BHWC, batch in feed:
        state.batches += 1
        last = state.batches % plan.passes == 0 or state.batches == data.batches
        with step.objective.stance(len(crops_BHWC), plan.rows):
            parts = step.forward(crops_BHWC, labels_of(batch), factors_of(batch), last=last)
            step.backward(parts["loss"], _share_of_step(state.batches, data), last=last)
        state.sums.add(parts, len(crops_BHWC))
        if last:
            step.update()
            watch.look()
    if state.batches < data.batches:
        raise UserError(
            f"epoch {epoch} ended after {state.batches} of {data.batches} batches; the shards were "
            "changed or a decoding task was lost: continue with --resume."
        )
    return state.sums.means()


def _share_of_step(batch: int, data: Data) -> float:
    """Of the crops of an optimiser step, what a batch (counted from 1) has."""
    rows, passes = data.plan.rows, data.plan.passes
    before = (batch - 1) // passes * passes * rows
    of_step = min(data.rows - before, passes * rows)
    return min(data.rows - (batch - 1) * rows, rows) / of_step


def blended_counts(counts: tuple[int, int], share: float) -> tuple[float, float]:
    """How many of (fake, real) crops to expect when a share of the real ones become fakes."""
    fake, real = counts
    return fake + share * real, (1 - share) * real


def class_weights(counts: tuple[float, float]) -> Tensor:
    """Weights (fake, real) that give both classes the same say, 1 where they are equally many.

    The weight of a class without crops is 1; nothing is weighted with it.
    """
    whole = sum(counts)
    return torch.tensor([whole / (2 * count) if count else 1.0 for count in counts])


def _refuse_different(network: nn.Module, device: torch.device) -> None:
    """All workers must have one network; gradients that are not exchanged would not be seen."""
    own = float(sum(p.detach().double().norm() for p in network.parameters()))
    largest, smallest = largest_of_workers([own, -own], device)
    if np.isfinite(own) and largest + smallest > 1e-6 * abs(largest):
        raise RunEndedError("the workers' networks have come apart; this is a bug: report it.")


def refuse_nan(epoch: int, *losses: float) -> None:
    """Ends a run whose losses are no longer numbers.

    Raises:
        RunEndedError: One is not finite.
    """
    if not np.isfinite(losses).all():
        raise RunEndedError(
            f"the loss is no longer finite in epoch {epoch}; lower train.lr or train.clip_grad "
            "and start again."
        )
