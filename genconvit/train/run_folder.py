"""A training run's folder: the detectors, the results and what it takes to continue.

RUN/best/            the detector of the best epoch
RUN/last/            the detector of the last epoch, and training_state.pt to continue from it
RUN/results.json     history, best epoch, settings, data
RUN/settings.yaml    the settings, to repeat or continue the run
RUN/training.log     a line an epoch
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from genconvit.checkpoint import WEIGHTS, DetectorInfo, save_detector
from genconvit.config import Settings
from genconvit.errors import UserError
from genconvit.files import read_json, replaced_file, write_json
from genconvit.overrides import resolve_settings
from genconvit.train.stopping import EarlyStopping

STATE = "training_state.pt"
RESULTS = "results.json"
SETTINGS = "settings.yaml"
MAY_CHANGE = {
    "train.epochs",
    "train.early_stopping_patience",
    "train.early_stopping_min_delta",
    "train.num_workers",
    "train.device",
    "stream.cache",
}
"""The settings that a resumed run may change: those that the saved state does not hold."""


@dataclass
class Progress:
    """Everything of a run that changes, beside the weights."""

    optimizer: Optimizer
    scheduler: ReduceLROnPlateau
    stopping: EarlyStopping
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return len(self.history)

    def add(self, entry: dict[str, Any]) -> None:
        """Ends an epoch."""
        self.history.append(entry)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "stopping": self.stopping.state_dict(),
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.stopping.load_state_dict(state["stopping"])
        self.history = list(state["history"])


@dataclass(frozen=True)
class RunFolder:
    """Writes and reads a run's folder.

    Attributes:
        path: The folder.
        settings: All settings of the run.
        data: What it trains on: path, digest, crops by split and label.
    """

    path: Path
    settings: Settings
    data: dict[str, Any]

    @property
    def best(self) -> Path:
        """The detector of the best epoch."""
        return self.path / "best"

    @property
    def last(self) -> Path:
        """The detector of the last epoch."""
        return self.path / "last"

    def start(self) -> None:
        """Makes the folder and writes the settings."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_settings(self.path / SETTINGS, self.settings)

    def check(self) -> None:
        """Whether the run can start, or go on, in this folder with these settings and data.

        Raises:
            UserError: It was begun with other settings or data, or its last detector is lost.
        """
        if not (self.path / RESULTS).is_file():
            return
        if not (self.last / STATE).is_file():
            raise UserError(f"{self.path} has lost its last/{STATE}; start a new run.")
        begun = resolve_settings(self.path / SETTINGS)
        for name, value in _flat(self.settings).items():
            if name not in MAY_CHANGE and value != _flat(begun)[name]:
                raise UserError(
                    f"{self.path} was begun with {name}={_flat(begun)[name]}; resume it without "
                    f"changing that, or start a new run."
                )
        trained_on = read_results(self.path)["data"]
        if trained_on["digest"] != self.data["digest"]:
            raise UserError(
                f"{self.path} was trained on other data ({trained_on.get('path')}); resume it with "
                f"that."
            )

    def restore(self, network: nn.Module, progress: Progress) -> bool:
        """Continues from `last/`; returns whether there was one.

        Raises:
            UserError: The saved state is damaged or was exchanged.
        """
        if not (self.last / STATE).is_file():
            return False
        network.load_state_dict(load_file(self.last / WEIGHTS))
        try:
            state = torch.load(self.last / STATE, weights_only=True, map_location="cpu")
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise UserError(
                f"{self.last / STATE} is damaged, or holds more than numbers and is not read; "
                "start a new run."
            ) from error
        progress.load_state_dict(state)
        return True

    def save(
        self, network: nn.Module, progress: Progress, *, train_crops: int, val_crops: int
    ) -> None:
        """Ends an epoch: detectors, results and a line in the log."""
        entry = progress.history[-1]
        info = DetectorInfo(
            model=self.settings.model.model_copy(update={"weights": None}),
            preprocess=self.settings.preprocess,
            sampling=self.settings.sampling,
            decision=self.settings.decision,
            training={
                "seed": self.settings.seed,
                "epoch": entry["epoch"],
                "train_crops": train_crops,
                "val_crops": val_crops,
                "loss": self.settings.loss.model_dump(),
            },
            metrics=entry["val"],
            data_digest=self.data["digest"],
        )
        weights = network.state_dict()
        if entry["best"]:
            save_detector(self.best, weights, info)
        buffer = io.BytesIO()
        torch.save(progress.state_dict(), buffer)
        save_detector(self.last, weights, info, extra={STATE: buffer.getvalue()})
        self._write_results(progress, finished=False)
        with (self.path / "training.log").open("a", encoding="utf-8") as log:
            log.write(epoch_line(entry) + "\n")

    def finish(self, progress: Progress, *, stopped_early: bool) -> None:
        """Marks the run as finished."""
        self._write_results(progress, finished=True, stopped_early=stopped_early)

    def _write_results(
        self, progress: Progress, *, finished: bool, stopped_early: bool = False
    ) -> None:
        best = progress.stopping.best_epoch
        write_json(
            self.path / RESULTS,
            {
                "finished": finished,
                "stopped_early": stopped_early,
                "epochs": progress.epoch,
                "best_epoch": best,
                "best": progress.history[best - 1]["val"] if best else None,
                "seconds": round(sum(entry["seconds"] for entry in progress.history), 1),
                "data": self.data,
                "settings": self.settings.model_dump(mode="json"),
                "history": progress.history,
            },
        )


def write_settings(path: Path, settings: Settings) -> None:
    """Writes settings as a YAML file that `--config` takes."""
    with replaced_file(path) as aside:
        text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
        aside.write_text(text, encoding="utf-8")


def _flat(settings: Settings) -> dict[str, Any]:
    """Settings that matter for training, by dotted name."""
    sections = ("model", "preprocess", "augment", "loss", "train", "stream", "decision")
    tree = settings.model_dump(mode="json", include={"seed", *sections})
    flat = {f"{s}.{name}": value for s in sections for name, value in tree[s].items()}
    return {"seed": tree["seed"], **flat}


def read_results(path: Path) -> dict[str, Any]:
    """The results of a run.

    Raises:
        UserError: There are none, or they are damaged.
    """
    results: dict[str, Any] = read_json(path / RESULTS, "the run's results")
    return results


def find_run(name: str, runs: Path) -> Path:
    """The folder of a run that is to be resumed.

    Args:
        name: The run's folder, or its name below `runs`.
        runs: Where runs are kept by default.

    Raises:
        UserError: It is a checkpoint file of another program, or there is no such run.
    """
    given = Path(name)
    if given.is_file() or given.suffix in (".pth", ".pt", ".ckpt"):
        raise UserError(
            f"--resume {name}: a weights file has no optimiser state that this program could "
            "continue from; give the "
            f"name or the folder of a run, or start from the file's backbones with "
            f"model.weights={name}."
        )
    for path in (given, runs / name):
        if (path / SETTINGS).is_file():
            return path
    raise UserError(
        f"--resume {name}: there is no run there nor at {runs / name} (no {SETTINGS}); check the "
        "name."
    )


def epoch_line(entry: dict[str, Any], *, parts: bool = True) -> str:
    """An epoch in one line.

    Args:
        entry: An epoch of the history.
        parts: With each part of the training loss, as in the log; without, it fits a terminal.
    """
    train, val = entry["train"], entry["val"]
    auc = "none" if val["clip_auc"] is None else f"{val['clip_auc']:.4f}"
    best = "  best" if entry["best"] else ""
    detail = " ".join(f"{name} {value:.4f}" for name, value in train.items() if name != "loss")
    return (
        f"epoch {entry['epoch']:>3}  loss {train['loss']:.4f}{f' ({detail})' if parts else ''}  "
        f"val loss {val['loss']:.4f}  clip AUC {auc}  accuracy {val['clip_accuracy']:.3f}  "
        f"lr {entry['lr']:.1e}  {entry['crops_per_s']:.0f} crops/s{best}"
    )
