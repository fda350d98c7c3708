"""What it takes to continue a run, and the files that hold it.

RUN/states/epoch-0003-batch-000120-8f14e45fceea.pt holds a run's state after 3 epochs and 120
batches of the fourth. The name ends with the digest of the content: a file that was cut short, or
changed, is told from a whole one and never read. The newest `KEPT` are kept.
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
from genconvit.files import replaced_file
from genconvit.train.batches import BatchPlan
from genconvit.train.distributed import gather_from_workers, rank_and_world, seed_everything
from genconvit.train.ema import build_ema
from genconvit.train.optim import Schedule, build_optimizer
from genconvit.train.precision import Precision
from genconvit.train.stopping import EarlyStopping
from genconvit.train.sums import Sums

STATES = "states"
KEPT = 2
_NAME = re.compile(r"epoch-(\d+)-batch-(\d+)-([0-9a-f]{12})\.pt")


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
        batches: Batches of the epoch under way that are done.
        updates: Optimiser steps of the whole run.
        skipped: Those of them that changed nothing, since a gradient was not finite.
        skipped_in_a_row: Those since the last one that changed something.
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
    batches: int = 0
    updates: int = 0

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
            Sums(device),
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
            "batches": self.batches,
            "updates": self.updates,
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
        self.updates = state["updates"]
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
        if rank < len(workers):
            self.sums.load_state_dict(workers[rank]["sums"])
        seed_everything(seed, self.epoch + 1, self.batches)


def save_state(folder: Path, state: dict[str, Any]) -> Path:
    """Writes a state whole, or not at all, and drops old ones.

    Raises:
        UserError: It cannot be written; those that are there stay.
    """
    target = folder / STATES
    digest = hashlib.sha256()
    place = f"epoch-{len(state['history']):04d}-batch-{state['batches']:06d}"
    try:
        with replaced_file(target / place) as aside, aside.open("wb") as file:
            torch.save(state, _Hashed(file, digest))  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        path = target / f"{place}-{digest.hexdigest()[:12]}.pt"
        (target / place).replace(path)
    except (OSError, RuntimeError) as error:
        # Where a write fails, torch raises an error of its own over it.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"the run's state cannot be written to {target} ({cause.strerror}); make room or mend "
            "the disk, then continue with --resume."
        ) from error
    for old in sorted(_states(folder), key=_place, reverse=True)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def newest_state(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole state of a run, if it has one, and the names of damaged newer ones.

    Raises:
        UserError: There are states, and none is whole.
    """
    damaged: list[str] = []
    for path in sorted(_states(folder), key=_place, reverse=True):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
        if digest == path.stem.rsplit("-", 1)[1]:
            try:
                return torch.load(path, weights_only=True, map_location="cpu"), damaged
            except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
                raise UserError(
                    f"{path} holds more than numbers and is not read; remove it, or start a new "
                    "run."
                ) from error
        damaged.append(path.name)
    if damaged:
        raise UserError(f"{folder / STATES}: no state there is whole; start a new run.")
    return None, []


class _Hashed:
    """A file that digests what is written to it."""

    def __init__(self, file: IO[bytes], digest: Any) -> None:
        self._file, self._digest = file, digest

    def write(self, content: bytes) -> int:
        self._digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def _states(folder: Path) -> list[Path]:
    target = folder / STATES
    return [p for p in target.iterdir() if _NAME.fullmatch(p.name)] if target.is_dir() else []


def _place(path: Path) -> tuple[int, int, int]:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2]), path.stat().st_mtime_ns


def _random_state() -> dict[str, Tensor | None]:
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if cuda else None}


def _restore_random_state(state: dict[str, Tensor | None]) -> None:
    assert state["cpu"] is not None
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
