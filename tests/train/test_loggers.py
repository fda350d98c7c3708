from __future__ import annotations

import importlib.util
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from genconvit.config import Settings
from genconvit.errors import UserError
from genconvit.overrides import parse_assignment, resolve_settings
from genconvit.train import loggers
from genconvit.train.loggers import build_loggers, check_loggers, flat_numbers, flat_settings


def settings_with(log_to: str) -> Settings:
    return resolve_settings(assignments=[parse_assignment(f"train.log_to={log_to}")])


def entry(epoch: int, clip_auc: float | None = 0.9) -> dict[str, Any]:
    return {
        "event": "epoch",
        "epoch": epoch,
        "lr": 1e-4,
        "train": {"loss": 1 / epoch, "classification": 0.4},
        "val": {"loss": 0.41, "clip_auc": clip_auc, "frame_auc": 0.8, "clip_accuracy": 0.75},
        "best": True,
        "crops_per_s": 1510.0,
    }


def log_epochs(folder: Path, log_to: str, epochs: tuple[int, ...]) -> list[str]:
    """Three updates an epoch; returns the warnings."""
    warnings: list[str] = []
    curves = build_loggers(settings_with(log_to), folder, "a run", warnings.append)
    for epoch in epochs:
        for update in range(3 * epoch - 2, 3 * epoch + 1):
            curves.step(
                update,
                {
                    "event": "step",
                    "epoch": epoch,
                    "update": update,
                    "loss": 1 / update,
                    "parts": {"aux": 0.2},
                    "lr": 1e-4,
                    "data_wait": 0.1,
                },
            )
        curves.epoch(entry(epoch))
    curves.close()
    return warnings


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(point.step, point.value) for point in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_numbers_get_flat_names_and_what_is_no_number_is_left_out() -> None:
    assert flat_numbers(
        {**entry(2, clip_auc=None), "seconds": math.inf, "detail": {"deep": {"er": 1}}}
    ) == {
        "epoch": 2.0,
        "lr": 1e-4,
        "train/loss": 0.5,
        "train/classification": 0.4,
        "val/loss": 0.41,
        "val/frame_auc": 0.8,
        "val/clip_accuracy": 0.75,
        "crops_per_s": 1510.0,
        "detail/deep/er": 1.0,
    }


def test_settings_get_dotted_names() -> None:
    flat = flat_settings(Settings())
    assert flat["train.lr"] == 1e-4
    assert flat["seed"] == 0


def test_tensorboard_has_every_point_of_a_continued_run_once(tmp_path: Path) -> None:
    assert log_epochs(tmp_path, "tensorboard", (1, 2)) == []
    # Its last saved state was that after the first epoch.
    assert log_epochs(tmp_path, "tensorboard", (2, 3)) == []
    epochs = read_scalars(tmp_path / "tensorboard")
    steps = read_scalars(tmp_path / "tensorboard" / "steps")
    assert [step for step, _ in epochs["val/clip_auc"]] == [1, 2, 3]
    assert [value for _, value in epochs["train/loss"]] == pytest.approx([1, 1 / 2, 1 / 3])
    assert {"train/classification", "val/loss", "val/frame_auc", "lr", "crops_per_s"} <= set(epochs)
    assert "epoch" not in epochs
    assert [step for step, _ in steps["step/loss"]] == list(range(1, 10))
    assert set(steps) == {"step/loss", "step/aux", "step/lr", "step/data_wait"}


def test_a_run_that_logs_nowhere_writes_nothing(tmp_path: Path) -> None:
    assert log_epochs(tmp_path, "none", (1,)) == []
    assert list(tmp_path.iterdir()) == []


def test_a_logger_that_cannot_start_is_switched_off_with_one_warning(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    (warning,) = log_epochs(tmp_path, "tensorboard", (1, 2))
    assert warning.startswith("curves no longer go to TensorBoard: ")


class Breaks(loggers._Logger):
    """Fails from the second epoch on, as when the disk is full."""

    def log(self, values: dict[str, float], axis: loggers.Axis, position: int) -> None:
        if (axis, position) == ("epoch", 2):
            raise OSError("No space left on device\n" + "a long story " * 99)

    def close(self) -> None:
        raise AssertionError("it was switched off")


class Hangs(loggers._Logger):
    """Never returns, as when a server takes a request and does not answer."""

    def __init__(self, released: threading.Event) -> None:
        self.released = released

    def log(self, values: dict[str, float], axis: loggers.Axis, position: int) -> None:
        self.released.wait()

    def close(self) -> None:
        pass


def test_a_logger_that_fails_later_warns_once_and_the_others_go_on(tmp_path: Path) -> None:
    warnings: list[str] = []
    curves = loggers.Loggers(
        [
            loggers._Sender("One", Breaks, warnings.append),
            loggers._Sender("Two", lambda: loggers._TensorBoard(tmp_path), warnings.append),
        ]
    )
    for epoch in (1, 2, 3):
        curves.epoch(entry(epoch))
    curves.close()
    (warning,) = warnings
    assert warning.startswith("curves no longer go to One: No space left on device")
    assert "\n" not in warning
    assert len(warning) < 250
    assert [step for step, _ in read_scalars(tmp_path)["train/loss"]] == [1, 2, 3]


def test_a_logger_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "CLOSE_S", 0.2)
    released, warnings = threading.Event(), list[str]()
    curves = loggers.Loggers(
        [loggers._Sender("One", lambda: Hangs(released), warnings.append) for _ in range(3)]
    )
    started = time.monotonic()
    for epoch in range(1, 100):
        curves.epoch(entry(epoch))
    curves.close()
    released.set()
    assert time.monotonic() - started < 5
    assert warnings == ["One has not taken all of the curves in 0 s"] * 3


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("mlflow", "'genconvit[mlflow]'"), ("wandb", "'genconvit[wandb]'")],
)
def test_a_package_that_is_not_installed_is_named(
    name: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=rf"train.log_to={name} .* pip install {remedy}".replace("[", r"\[")
    ):
        check_loggers([name])


def test_a_folder_of_the_packages_name_is_not_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="wandb"):
        check_loggers(["wandb"])


def test_what_is_installed_is_fine() -> None:
    check_loggers(settings_with("tensorboard").train.log_to)


def test_mlflow_keeps_settings_and_curves_in_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    mlflow = pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path / 'store.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert log_epochs(tmp_path, "mlflow", (1, 2)) == []
    run_id = (tmp_path / "mlflow_run.txt").read_text().strip()
    assert log_epochs(tmp_path, "mlflow", (3,)) == []
    assert (tmp_path / "mlflow_run.txt").read_text().strip() == run_id
    assert capfd.readouterr().out == ""
    client = mlflow.MlflowClient(store)
    run = client.get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("a run", "FINISHED")
    assert run.data.params["train.lr"] == "0.0001"
    points = client.get_metric_history(run_id, "val/clip_auc")
    assert [point.step for point in points] == [1, 2, 3]
    assert len(client.get_metric_history(run_id, "step/loss")) == 9


def test_wandb_continues_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert log_epochs(tmp_path, "wandb", (1, 2)) == []
    run_id = (tmp_path / "wandb_run.txt").read_text().strip()
    assert log_epochs(tmp_path, "wandb", (3,)) == []
    assert (tmp_path / "wandb_run.txt").read_text().strip() == run_id
    assert capfd.readouterr().out == ""
    written = list(tmp_path.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"))
    assert written
    assert all(b"val/clip_auc" in path.read_bytes() for path in written)
