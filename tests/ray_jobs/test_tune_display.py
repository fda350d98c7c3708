"""What is shown of a sweep."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from ray_jobs.output import Output
from ray_jobs.tune_display import TuneDisplay
from tests.conftest import small_settings

BEGIN = {"event": "trial", "run": "r/0000", "trial": 0, "settings": {"train.lr": 0.00123456}}
EPOCH = {"event": "epoch", "run": "r/0000", "epoch": 2, "best_clip_auc": 0.75, "seconds": 300.0}
END = {"event": "trial_end", "run": "r/0000", "trial": 0, "state": "finished", "scores": [0.75]}
FAILED = {**END, "state": "failed", "scores": None, "failure": "out of memory."}


def display(*, as_json: bool = False, live: bool = True) -> tuple[TuneDisplay, Console]:
    output = Output(as_json)
    if live and not as_json:
        output.console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    settings = small_settings("tune.trials=3", "train.epochs=4")
    return TuneDisplay(output, settings, 0, 2), output.console


def test_trials_at_work_are_a_table_and_ended_ones_lines_that_stay() -> None:
    shown, console = display()
    shown.handle(BEGIN)
    shown.handle(EPOCH)
    console.print(shown)
    text = console.export_text()
    assert "2/4" in text and "0.7500" in text and "lr 0.001235" in text and "0 of 3 trials" in text
    shown.handle({**END, "failure": None})
    console.print(shown)
    text = console.export_text()
    assert "finished  2 epochs" in text and "clip auc 0.7500" in text
    assert "1 of 3 trials, about" in text and "best 0.7500 (trial 0)" in text


def test_a_trial_that_failed_says_why_and_is_not_the_best() -> None:
    shown, console = display()
    shown.handle(BEGIN)
    shown.handle(FAILED)
    console.print(shown)
    text = console.export_text()
    assert "out of memory." in text
    assert "best" not in text.split("out of memory.")[1].replace("best AUC", "")


def test_a_driver_that_starts_again_goes_on_with_the_same_row() -> None:
    shown, console = display()
    for event in (BEGIN, EPOCH, BEGIN):
        shown.handle(event)
    console.print(shown)
    assert "2/4" in console.export_text()


def test_programs_get_the_events(capsys: pytest.CaptureFixture[str]) -> None:
    shown, _ = display(as_json=True)
    for event in (BEGIN, EPOCH, {**END, "failure": None}):
        shown.handle(event)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["event"] for each in events] == ["trial", "epoch", "estimate", "trial_end"]
    assert [each.get("trial") for each in events] == [0, 0, None, 0]
    assert events[2]["seconds_at_most"] == pytest.approx(2 * 4 * 300, abs=2)


def test_the_first_epoch_tells_how_long_it_takes_at_most(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Three trials of four epochs of five minutes, two at once."""
    shown, console = display()
    shown.handle(BEGIN)
    console.print(shown)
    assert "left" not in console.export_text()
    shown.handle(EPOCH)
    console.print(shown)
    assert "0 of 3 trials, at most about 40:00 left" in console.export_text()
    lines, _ = display(live=False)
    for event in (BEGIN, EPOCH, EPOCH):
        lines.handle(event)
    told = capsys.readouterr().out
    assert told == "At most about 40:00 for all trials; those that end early shorten it.\n"
