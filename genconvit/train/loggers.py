"""Where a run's curves go: TensorBoard, MLflow, Weights & Biases.

Every logger has a thread of its own, so that a slow or absent server never holds up the training
(nor the other workers, which would wait for this one until their group times out). A logger that
fails is switched off with a warning; the run goes on.
"""

from __future__ import annotations

import importlib.util
import math
import os
import textwrap
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any, Literal

from genconvit.config import Settings
from genconvit.errors import UserError

Axis = Literal["epoch", "update"]

PACKAGES = MappingProxyType(
    {
        "tensorboard": ("TensorBoard", "tensorboard"),
        "mlflow": ("MLflow", "'genconvit[mlflow]'"),
        "wandb": ("Weights & Biases", "'genconvit[wandb]'"),
    }
)
"""The title of each logger, and what pip installs for it."""
NO_CURVE = {"epoch", "epochs", "step", "steps", "update", "seconds_left", "gpu_total_bytes"}
PARAMS_A_REQUEST = 100  # MLflow servers refuse more
FLUSH_S = 30
CLOSE_S = 60.0
REASON_LENGTH = 200


def check_loggers(log_to: Sequence[str]) -> None:
    """Whether the packages of the chosen loggers are installed.

    Raises:
        UserError: One is not.
    """
    for name in log_to:
        spec = importlib.util.find_spec(name)
        # A folder of that name in the current folder, such as W&B's, is found too, without a file.
        if spec is None or spec.origin is None:
            title, package = PACKAGES[name]
            raise UserError(
                f"train.log_to={name} needs the package of {title}; run pip install {package}, "
                f"or leave {name} out of train.log_to."
            )


def build_loggers(
    settings: Settings,
    folder: Path,
    name: str,
    warn: Callable[[str], None],
) -> Loggers:
    """The loggers that `train.log_to` names; for the first worker alone.

    Args:
        settings: All settings; they are kept beside the curves where the logger can do that.
        folder: The run's folder. A run that is continued goes on with the curves there.
        name: The run's name.
        warn: Told in one sentence of a logger that failed. Called from the logger's thread.
    """
    flat = flat_settings(settings)
    makers: dict[str, Callable[[], _Logger]] = {
        "tensorboard": lambda: _TensorBoard(folder / "tensorboard"),
        "mlflow": lambda: _MLflow(folder, name, flat),
        "wandb": lambda: _WandB(folder, name, flat),
    }
    return Loggers([_Sender(PACKAGES[one][0], makers[one], warn) for one in settings.train.log_to])


class Loggers:
    """Passes numbers on to every logger of a run; never raises and never waits."""

    def __init__(self, senders: Sequence[_Sender]) -> None:
        self._senders = senders

    def epoch(self, entry: dict[str, Any]) -> None:
        """An epoch of the history, as `train/loss`, `val/clip_auc`, `lr` and so on."""
        values = flat_numbers({k: v for k, v in entry.items() if k != "epoch"})
        self._send(values, "epoch", entry["epoch"])

    def step(self, update: int, values: dict[str, Any]) -> None:
        """What a step measured, as `step/loss` and so on.

        Args:
            update: Updates of the network since the run began.
            values: A step event, or numbers by name; where the run is (`NO_CURVE`) is left out.
        """
        measured = {k: v for k, v in values.items() if k not in NO_CURVE}
        parts = measured.pop("parts", {})
        self._send(flat_numbers({"step": {**parts, **measured}}), "update", update)

    def close(self) -> None:
        """Ends the curves; waits for what is still to be sent, though not for ever."""
        for sender in self._senders:
            sender.end()
        deadline = time.monotonic() + CLOSE_S
        for sender in self._senders:
            sender.wait(deadline)

    def _send(self, values: dict[str, float], axis: Axis, position: int) -> None:
        for sender in self._senders:
            sender.send(values, axis, position)


def flat_numbers(tree: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of nested dicts, by names such as `train/loss`."""
    flat: dict[str, float] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update(flat_numbers(value, f"{prefix}{name}/"))
        elif (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        ):
            flat[f"{prefix}{name}"] = float(value)
    return flat


def flat_settings(settings: Settings) -> dict[str, Any]:
    """All settings by dotted name, such as `train.lr`."""
    flat: dict[str, Any] = {}
    for section, value in settings.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat.update({f"{section}.{name}": inner for name, inner in value.items()})
        else:
            flat[section] = value
    return flat


class _Logger(ABC):
    """A place for curves. All of it runs in one thread, and may fail."""

    @abstractmethod
    def log(self, values: dict[str, float], axis: Axis, position: int) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class _TensorBoard(_Logger):
    """Epochs in the folder itself, updates below it: each has an axis of its own to purge."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._make = SummaryWriter
        self._folders: dict[Axis, Path] = {"epoch": folder, "update": folder / "steps"}
        self._writers: dict[Axis, Any] = {}

    def log(self, values: dict[str, float], axis: Axis, position: int) -> None:
        if axis not in self._writers:
            folder = self._folders[axis]
            # A continued run trains again what came after its last saved state; the curves of
            # that are dropped, so that no point is there twice.
            again = position if any(folder.glob("events.out.*")) else None
            self._writers[axis] = self._make(str(folder), purge_step=again, flush_secs=FLUSH_S)
        for name, value in values.items():
            self._writers[axis].add_scalar(name, value, position)
        if axis == "epoch":
            for writer in self._writers.values():
                writer.flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class _MLflow(_Logger):
    def __init__(self, folder: Path, name: str, settings: dict[str, Any]) -> None:
        import mlflow

        self._mlflow = mlflow
        # MLflow writes the run's address to stdout, which belongs to the command's own output.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            # MLflow's default is the current folder, which for a worker is a temporary one.
            mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        note = folder / "mlflow_run.txt"
        known = note.read_text().strip() if note.is_file() else None
        run = mlflow.start_run(run_id=known, run_name=name)
        self._run_id = run.info.run_id
        if known is None:
            note.write_text(self._run_id + "\n")
            params = list(settings.items())
            for start in range(0, len(params), PARAMS_A_REQUEST):
                mlflow.log_params(dict(params[start : start + PARAMS_A_REQUEST]))

    def log(self, values: dict[str, float], axis: Axis, position: int) -> None:
        self._mlflow.log_metrics(values, step=position, run_id=self._run_id)

    def close(self) -> None:
        self._mlflow.end_run()


class _WandB(_Logger):
    def __init__(self, folder: Path, name: str, settings: dict[str, Any]) -> None:
        import wandb

        self._wandb = wandb
        note = folder / "wandb_run.txt"
        known = note.read_text().strip() if note.is_file() else None
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "genconvit"),
            name=name,
            dir=str(folder),
            id=known,
            resume="allow",
            config=settings,
            settings=wandb.Settings(console="off", silent=True),
        )
        note.write_text(self._run.id + "\n")
        self._defined: set[str] = set()

    def log(self, values: dict[str, float], axis: Axis, position: int) -> None:
        for metric in values.keys() - self._defined:
            self._run.define_metric(metric, step_metric=axis)
            self._defined.add(metric)
        self._run.log({**values, axis: position})

    def close(self) -> None:
        self._run.finish()
        # Without this the last points may not be in the file yet when the worker is killed.
        self._wandb.teardown()


class _Sender:
    """Runs one logger in a thread of its own, until it fails."""

    def __init__(
        self, title: str, make: Callable[[], _Logger], warn: Callable[[str], None]
    ) -> None:
        self._title = title
        self._make = make
        self._warn = warn
        self._queue: SimpleQueue[tuple[dict[str, float], Axis, int] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"log to {title}", daemon=True)
        self._thread.start()

    def send(self, values: dict[str, float], axis: Axis, position: int) -> None:
        if self._thread.is_alive():
            self._queue.put((values, axis, position))

    def end(self) -> None:
        self._queue.put(None)

    def wait(self, deadline: float) -> None:
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        if self._thread.is_alive():
            self._warn(f"{self._title} has not taken all of the curves in {CLOSE_S:.0f} s")

    def _run(self) -> None:
        try:
            logger = self._make()
            while (item := self._queue.get()) is not None:
                logger.log(*item)
            logger.close()
        except Exception as error:
            reason = textwrap.shorten(str(error) or type(error).__name__, REASON_LENGTH)
            self._warn(f"curves no longer go to {self._title}: {reason}")
