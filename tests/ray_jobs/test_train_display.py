from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from genconvit.config import Settings
from genconvit.train.run_folder import epoch_line
from ray_jobs.output import Output
from ray_jobs.train_display import TrainDisplay, clock, train_display

GIB = 2**30
STEP: dict[str, Any] = {
    "event": "step",
    "epoch": 3,
    "epochs": 100,
    "step": 240,
    "steps": 3125,
    "loss": 0.43123,
    "parts": {"classification": 0.3821, "ae": 0.0123, "vae_mse": 0.02, "kl": 0.003, "aux": 0.1421},
    "lr": 1e-4,
    "crops_per_s": 1523.2,
    "data_wait": 0.034,
    "gpu_bytes": 34.2 * GIB,
    "gpu_total_bytes": 79.6 * GIB,
    "skipped": 0,
    "seconds_left": 3852.0,
    "workers": 2,
}
EPOCH: dict[str, Any] = {
    "event": "epoch",
    "epoch": 2,
    "train": {"loss": 0.45, "classification": 0.4},
    "val": {"loss": 0.41, "classification": 0.38, "clip_auc": 0.9123, "clip_accuracy": 0.9},
    "lr": 1e-4,
    "best": True,
    "best_epoch": 2,
    "best_clip_auc": 0.9123,
    "seconds": 600,
    "crops_per_s": 1510.0,
}
LOST = "worker 1 was lost; going on from epoch 3, step 120 with 1 worker"


def terminal(width: int = 80) -> Output:
    output = Output()
    output.console = Console(
        file=io.StringIO(), force_terminal=True, width=width, highlight=False, markup=False
    )
    return output


def written(output: Output) -> str:
    file = output.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def picture(*events: dict[str, Any], width: int = 80) -> list[str]:
    """The lines of the live display after these events."""
    display = TrainDisplay(terminal(width), epochs=100)
    for event in events:
        display.handle(event)
    console = Console(file=io.StringIO(), record=True, force_terminal=True, width=width)
    console.print(display)
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_everything_is_there_at_every_width(width: int) -> None:
    lines = picture(EPOCH, {**STEP, "skipped": 3}, width=width)
    text = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= width
    assert 4 <= len(lines) <= 6
    for part in (
        "epoch 3 of 100, 1:04:12 left",
        " 240/3125 steps loss",
        "loss 0.4312 classification 0.3821 ae 0.0123 vae_mse 0.0200 kl 0.0030 aux 0.1421",
        "val AUC 0.9123 best 0.9123 (epoch 2) 3 steps skipped",
        "1523 crops/s data wait 3% GPU 34.2 of 79.6 GiB lr 1.0e-04 2 workers",
    ):
        assert part in text


def test_what_an_event_lacks_is_not_shown() -> None:
    (line,) = picture({"event": "step", "epoch": 1, "step": 5, "steps": 10, "data_wait": None})
    assert line.rstrip().endswith("5/10 steps")
    assert "epoch 1 of 100" in line
    (line,) = picture({"event": "step"})
    assert len(line.strip()) == 1  # the spinner
    assert "GPU" not in " ".join(picture({**STEP, "gpu_total_bytes": 0}))
    assert "skipped" not in " ".join(picture(STEP))
    assert "val AUC" not in " ".join(picture({"event": "epoch", "epoch": 1, "val": {}}))
    without = picture({**EPOCH, "val": {"clip_auc": None}, "best_clip_auc": None})
    assert "AUC" not in " ".join(without)


def test_a_phase_stands_in_place_of_the_bar_until_the_next_step() -> None:
    assert "starting workers 0:00" in picture()[0]
    assert (
        "epoch 3 of 100 validating 0:00"
        in picture(STEP, {"event": "phase", "title": "validating"})[0]
    )
    assert "compiling" not in picture({"event": "phase", "title": "compiling"}, STEP)[0]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_stay_above_the_live_display(width: int) -> None:
    output = terminal(width)
    with train_display(output, Settings()) as display:
        assert display.live
        for event in (
            STEP,
            EPOCH,
            {"event": "note", "text": LOST},
            {"event": "batch_size", "batch_size": 48},
        ):
            display.handle(event)
    screen = Console(file=io.StringIO(), record=True, width=200)
    screen.print(Text.from_ansi(written(output)))
    lines = screen.export_text()
    (epoch,) = [line for line in lines.splitlines() if "epoch   2" in line]
    assert "loss 0.4500  clip AUC 0.9123 best  accuracy 0.900" in epoch
    assert "warning: worker 1 was lost;" in lines
    assert "Batch size: 48 crops a pass and worker." in lines


def test_the_live_display_is_gone_at_the_end() -> None:
    output = terminal()
    with train_display(output, Settings()) as display:
        display.handle(STEP)
    assert written(output).endswith("\x1b[2K")


def test_without_a_terminal_there_is_a_line_an_epoch(capfd: pytest.CaptureFixture[str]) -> None:
    with train_display(Output(), Settings()) as display:
        for event in (
            {"event": "phase", "title": "compiling"},
            STEP,
            EPOCH,
            {"event": "note", "text": LOST},
            {"event": "batch_size", "batch_size": 48},
            {"event": "something new"},
        ):
            display.handle(event)
    shown = capfd.readouterr()
    assert shown.out.splitlines() == [
        epoch_line(EPOCH, parts=False),
        "Batch size: 48 crops a pass and worker.",
    ]
    assert shown.err == f"warning: {LOST}\n"


def test_an_epoch_that_was_not_validated_shows_no_figure(
    capfd: pytest.CaptureFixture[str],
) -> None:
    event = {**EPOCH, "val": None, "best": False, "best_epoch": None, "best_clip_auc": None}
    output = terminal(width=100)
    display = TrainDisplay(output, 100)
    display.handle(event)
    output.console.print(display)
    with train_display(Output(), Settings()) as lines:
        lines.handle(event)
    for text in (written(output), capfd.readouterr().out):
        assert "0.4500" in text
        assert "AUC" not in text and "accuracy" not in text and "best" not in text


def test_programs_get_objects_alone(capfd: pytest.CaptureFixture[str]) -> None:
    events = [EPOCH, {"event": "note", "text": LOST}, {"event": "batch_size", "batch_size": 48}]
    with train_display(Output(as_json=True), Settings()) as display:
        for event in (STEP, {"event": "phase", "title": "compiling"}, *events):
            display.handle(event)
    assert [json.loads(line) for line in capfd.readouterr().out.splitlines()] == events


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (-3, "0:00"),
        (59.7, "1:00"),
        (252, "4:12"),
        (3852, "1:04:12"),
        (200_000, "2 d 7 h"),
        (float("inf"), "?"),
    ],
)
def test_time_is_short(seconds: float, text: str) -> None:
    assert clock(seconds) == text
