"""A training run's folder: the detectors, the results and what it takes to continue.

RUN/best/            the detector of the best epoch; of the last one where nothing is validated
RUN/last/            the detector of the last epoch that was saved
RUN/states/          what it takes to continue (genconvit.train.state)
RUN/results.json     history, best epoch, settings, data
RUN/settings.yaml    the settings, to repeat or continue the run
RUN/data.json        what it trains on
RUN/training.log     a line an epoch
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from genconvit.config import Settings
from genconvit.errors import UserError
from genconvit.files import read_json, replaced_file, write_json
from genconvit.overrides import resolve_settings

RESULTS = "results.json"
STATES = "states"
SETTINGS = "settings.yaml"
DATA = "data.json"
MAY_CHANGE = {
    "train.epochs",
    "train.early_stopping_patience",
    "train.early_stopping_min_delta",
    "train.num_workers",
    "train.device",
    "train.compile",
    "train.checkpoint_minutes",
    "train.max_failures",
    "train.max_skipped_steps",
    "train.log_to",
    "stream.cache",
}
"""The settings that a resumed run may change: those that the saved state does not hold."""


@dataclass(frozen=True)
class RunFolder:
    """What a run is begun with, and where. It needs no PyTorch: many processes only wait for a run.

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
        """The detector of the best epoch; of the last one where nothing is validated."""
        return self.path / "best"

    @property
    def last(self) -> Path:
        """The detector of the last epoch that was saved, at the end of the run the last of all."""
        return self.path / "last"

    def start(self) -> None:
        """Makes the folder and writes the settings and what it trains on.

        Raises:
            UserError: Nothing can be written there.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_settings(self.path / SETTINGS, self.settings)
            write_json(self.path / DATA, self.data)
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written to ({error.strerror}); choose another --out."
            ) from error

    def check(self) -> None:
        """Whether the run in this folder, if there is one, can go on with these settings and data.

        Raises:
            UserError: It was begun with others.
        """
        if not (self.path / SETTINGS).is_file():
            return
        before = flat_settings(resolve_settings(self.path / SETTINGS))
        for name, value in flat_settings(self.settings).items():
            if name not in MAY_CHANGE and value != before[name]:
                raise UserError(
                    f"{self.path} was begun with {name}={before[name]}; resume it without "
                    "changing that (and without --config: it keeps its settings), or start a new "
                    "run."
                )
        trained_on = read_json(self.path / DATA, "what the run was trained on")
        if trained_on["digest"] != self.data["digest"]:
            raise UserError(
                f"{self.path} was trained on other data ({trained_on.get('path')}); resume it with "
                f"that."
            )


def write_settings(path: Path, settings: Settings) -> None:
    """Writes settings as a YAML file that `--config` takes."""
    with replaced_file(path) as aside:
        text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
        aside.write_text(text, encoding="utf-8")


def flat_settings(settings: Settings, *more: str) -> dict[str, Any]:
    """Settings that matter for training, and those of more sections, by dotted name."""
    sections = ("model", "preprocess", "augment", "loss", "train", "stream", "decision", *more)
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


def finished(out: Path, settings: Settings) -> bool:
    """Whether a run has come to the end of its epochs or of its patience, and has said so."""
    if not (out / RESULTS).is_file():
        return False
    results = read_results(out)
    if not results["finished"]:
        return False
    if results["epochs"] >= settings.train.epochs:
        return True
    if results["best_epoch"] is None:  # nothing is validated, and there is no patience
        return False
    waited = results["epochs"] - results["best_epoch"]
    return bool(waited >= settings.train.early_stopping_patience)


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
    validation = ""
    if val is not None:
        auc = "none" if val["clip_auc"] is None else f"{val['clip_auc']:.4f}"
        validation = f"val loss {val['loss']:.4f}  clip AUC {auc}  "
        validation += f"accuracy {val['clip_accuracy']:.3f}  "
    best = "  best" if entry["best"] else ""
    detail = " ".join(f"{name} {value:.4f}" for name, value in train.items() if name != "loss")
    return (
        f"epoch {entry['epoch']:>3}  loss {train['loss']:.4f}{f' ({detail})' if parts else ''}  "
        f"{validation}lr {entry['lr']:.1e}  {entry['crops_per_s']:.0f} crops/s{best}"
    )
