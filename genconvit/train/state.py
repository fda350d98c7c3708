"""What it takes to continue a run, and the files that hold it.

RUN/states/update-00000512-8f14e45fceea.pt holds a run's state after 512 optimiser steps. The name
ends with the digest of the content: a file that was cut short, or changed, is told from a whole one
and never read. The newest `KEPT` are kept.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from genconvit.config import TrainSettings
from genconvit.errors import UserError
from genconvit.reference import Reference
from genconvit.train.batches import BatchPlan
from genconvit.train.distributed import gather_from_workers, rank_and_world, seed_everything
from genconvit.train.ema import build_ema
from genconvit.train.optim import Schedule, build_optimizer
from genconvit.train.precision import Precision
from genconvit.train.run_folder import STATES
from genconvit.train.stopping import EarlyStopping
from genconvit.train.sums import Sums

KEPT = 2
_ASIDE = ".writing-"
_NAME = re.compile(r"update-(\d+)-([0-9a-f]{12})\.pt")


@dataclass
class RunState:
    """Everything of a run that changes.

    Attributes:
        network: Not wrapped.
        optimizer: Of all its parameters, frozen ones too.
        schedule: Of the optimiser's rates.
        scaler: Of float16 gradients; idle otherwise.
        average: The moving average of the weights, if one is kept.
        stopping: Best epoch and patience.
        sums: Of the epoch under way.
        history: An entry for each epoch that is done.
        reference: Of the last epoch that was validated.
        batches: Batches of the epoch under way that are done.
        updates: Optimiser steps of the whole run.
        skipped: Those of them that changed nothing, since a gradient was not finite.
        skipped_in_a_row: Those since the last one that changed something.
        seconds: Of the epoch under way, before this process.
    """

    network: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    scaler: GradScaler
    average: ModelEmaV3 | None
    stopping: EarlyStopping
    sums: Sums
    skipped: Tensor
    skipped_in_a_row: Tensor
    history: list[dict[str, Any]] = field(default_factory=list)
    reference: Reference | None = None
    batches: int = 0
    updates: int = 0
    seconds: float = 0.0

    @classmethod
    def new(
        cls,
        network: nn.Module,
        settings: TrainSettings,
        device: torch.device,
        precision: Precision,
        updates_per_epoch: int,
    ) -> RunState:
        """The state at the start of a run.

        Args:
            network: On `device`, not wrapped and not yet accelerated: it may be copied.
            settings: Of the run.
            device: Where it is trained.
            precision: What it is trained in.
            updates_per_epoch: Optimiser steps in an epoch.
        """
        optimizer = build_optimizer(network, settings)
        return cls(
            network,
            optimizer,
            Schedule(optimizer, settings, updates_per_epoch),
            precision.scaler(),
            build_ema(network, settings),
            EarlyStopping(settings.early_stopping_patience, settings.early_stopping_min_delta),
            Sums(device, finite=True),
            skipped=torch.zeros((), device=device),
            skipped_in_a_row=torch.zeros((), device=device),
        )

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return len(self.history)

    @property
    def judge(self) -> nn.Module:
        """The network that is validated and kept."""
        return self.network if self.average is None else self.average.module

    def state_dict(self, plan: BatchPlan) -> dict[str, Any]:
        """What `load_state_dict` takes. All workers call it together.

        Args:
            plan: How the crops of a step are shared out.
        """
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "stopping": self.stopping.state_dict(),
            "history": self.history,
            "reference": self.reference and self.reference.model_dump(),
            "batches": self.batches,
            "updates": self.updates,
            "seconds": self.seconds,
            "skipped": self.skipped.cpu(),
            "skipped_in_a_row": self.skipped_in_a_row.cpu(),
            "batch_size": plan.batch_size,
            "step_rows": plan.step_rows,
            "worker_rows": plan.rows,
            "workers": gather_from_workers(
                {"random": _random_state(), "sums": self.sums.state_dict()}
            ),
        }

    def load_state_dict(self, state: dict[str, Any], plan: BatchPlan, seed: int) -> None:
        """Continues from `state_dict`, exactly where there are as many workers as before.

        With another number the epoch goes on after as many crops, up to one step; its order is
        another one then.

        Args:
            state: From `state_dict`.
            plan: How the crops of a step are shared out now.
            seed: Of the run.
        """
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.stopping.load_state_dict(state["stopping"])
        self.history = list(state["history"])
        if state.get("reference") is not None:  # states of earlier versions have none
            self.reference = Reference.model_validate(state["reference"])
        self.updates, self.seconds = state["updates"], state["seconds"]
        self.skipped.copy_(state["skipped"])
        self.skipped_in_a_row.copy_(state["skipped_in_a_row"])
        rank, world = rank_and_world()
        workers = state["workers"]
        if len(workers) == world and state["worker_rows"] == plan.rows:
            self.batches = state["batches"]
            self.sums.load_state_dict(workers[rank]["sums"])
            _restore_random_state(workers[rank]["random"])
            return
        seen = state["batches"] * state["worker_rows"] * len(workers)
        self.batches = seen // (plan.rows * world * plan.passes) * plan.passes
        for worker in workers[rank::world]:
            self.sums.load_state_dict(worker["sums"])
        seed_everything(seed, self.epoch + 1, self.batches)


def save_state(folder: Path, state: dict[str, Any]) -> Path:
    """Writes a state whole, or not at all, and drops old ones.

    Raises:
        UserError: It cannot be written; those that are there stay.
    """
    target = folder / STATES
    try:
        target.mkdir(parents=True, exist_ok=True)
        aside = target / f"{_ASIDE}{os.getpid()}"
        try:
            with aside.open("wb") as file:
                hashed = _Hashed(file)
                torch.save(state, hashed)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            path = target / f"update-{state['updates']:08d}-{hashed.digest}.pt"
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        for old in _newest_first(folder)[KEPT:]:
            old.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        # Where a write fails, torch raises an error of its own over it.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"the run's state cannot be written to {target} ({cause.strerror}); make room or mend "
            "the disk, then continue with --resume."
        ) from error
    return path


def newest_state(folder: Path) -> tuple[Path | None, list[str]]:
    """The file of a run's newest whole state, if it has one; clears what is of no use.

    For the first worker alone: it removes damaged states, and what a writer left that was killed.

    Returns:
        The file, and the names of damaged newer ones.

    Raises:
        UserError: There are states, and none is whole.
    """
    for left in (folder / STATES).glob(f"{_ASIDE}*"):
        left.unlink(missing_ok=True)
    damaged: list[Path] = []
    found: Path | None = None
    for path in _newest_first(folder):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
        if digest == path.stem.rsplit("-", 1)[1]:
            found = path
            break
        damaged.append(path)
    if found is None and damaged:
        raise UserError(f"{folder / STATES}: no state there is whole; start a new run.")
    for path in damaged:
        path.unlink(missing_ok=True)
    return found, [path.name for path in damaged]


def read_state(path: Path) -> dict[str, Any]:
    """A state.

    Raises:
        UserError: It is not there, or holds more than numbers.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); the run's folder must be one that all "
            "nodes share."
        ) from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than numbers and is not read; remove it, or start a new run."
        ) from error
    return state


class _Hashed:
    """A file that digests what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest = file, hashlib.sha256()

    @property
    def digest(self) -> str:
        """Twelve hex digits."""
        return self._digest.hexdigest()[:12]

    def write(self, content: bytes) -> int:
        self._digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def _newest_first(folder: Path) -> list[Path]:
    target = folder / STATES
    found = (
        [path for path in target.iterdir() if _NAME.fullmatch(path.name)] if target.is_dir() else []
    )
    # A state may be written twice: after a fall back, and by a run that was resumed elsewhere.
    return sorted(found, key=lambda path: (path.name.split("-")[1], path.stat().st_mtime_ns))[::-1]


def _random_state() -> dict[str, Tensor | None]:
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if cuda else None}


def _restore_random_state(state: dict[str, Tensor | None]) -> None:
    assert state["cpu"] is not None
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
