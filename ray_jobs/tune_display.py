"""How a sweep is shown: a live table of its trials, or a line a trial without a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from genconvit.config import Settings
from genconvit.tune.report import score_text
from genconvit.tune.space_figures import short_text
from ray_jobs.output import Output
from ray_jobs.train_display import clock

Event = dict[str, Any]
REFRESH_PER_S = 2
MARKS = {"finished": "green", "stopped": "dim", "failed": "red", "interrupted": "yellow"}


@contextmanager
def tune_display(
    output: Output, settings: Settings, done: int, at_once: int
) -> Iterator[TuneDisplay]:
    """Shows a sweep while it lasts.

    Args:
        output: Where to show it.
        settings: Of the sweep.
        done: Trials that ended before.
        at_once: Trials at once.
    """
    display = TuneDisplay(output, settings, done, at_once)
    with output.showing(display, REFRESH_PER_S):
        yield display


class TuneDisplay:
    """Takes the events of a sweep and of its trials' runs, and shows them.

    Args:
        output: Where.
        settings: Of the sweep.
        done: Trials that ended before.
        at_once: Trials at once.
    """

    def __init__(self, output: Output, settings: Settings, done: int, at_once: int) -> None:
        self._output, self._at_once = output, at_once
        self._trials, self._epochs = settings.tune.trials, settings.train.epochs
        self._objectives = settings.tune.objectives
        self._done, self._before = done, done
        self._began = self._latest_end = time.monotonic()
        self._running: dict[str, Event] = {}
        self._ends_by: float | None = None
        self._best: tuple[float, int] | None = None

    def handle(self, event: Event) -> None:
        """Shows an event; those of no interest here are left out."""
        kind, run = event.get("event"), str(event.get("run"))
        if kind == "trial" and run not in self._running:
            self._running[run] = {"trial": event["trial"], "settings": event["settings"],
                                  "since": time.monotonic(), "epoch": 0, "score": None}  # fmt: skip
            self._output.emit(event)
        elif kind == "epoch" and run in self._running:
            trial = self._running[run]
            trial["epoch"], trial["score"] = event["epoch"], event["best_clip_auc"]
            self._output.emit({**event, "trial": trial["trial"]})
            if self._ends_by is None:
                self._estimate(event["seconds"], trial["since"])
        elif kind == "trial_end":
            self._end(event, self._running.pop(run, None))
        elif kind == "note":
            text = event["text"]
            if run in self._running:
                text = f"trial {self._running[run]['trial']}: {text}"
            self._output.note(text)
            self._output.emit(event)

    def _estimate(self, epoch_s: float, since: float) -> None:
        """After the first epoch: how long all trials take if each is as slow and none ends early.

        Args:
            epoch_s: What the epoch took.
            since: When its trial began; what else has passed since then, a trial takes twice: its
                workers start, and at the end they are stopped and the next trial's driver starts.
        """
        now = time.monotonic()
        start_s = max(now - since - epoch_s, 0.0)
        rounds = max(1, math.ceil((self._trials - self._done) / self._at_once))
        self._ends_by = since + rounds * (2 * start_s + self._epochs * epoch_s)
        left = self._ends_by - now
        if not self._output.live:  # else it is in the foot
            self._output.say(
                f"At most about {clock(left)} for all trials; those that end early shorten it."
            )
        self._output.emit({"event": "estimate", "seconds_at_most": round(left, 1)})

    def _end(self, event: Event, trial: Event | None) -> None:
        scores, state = event["scores"], event["state"]
        if state != "interrupted":
            self._done += 1
            self._latest_end = time.monotonic()
        if scores and state != "failed" and (self._best is None or scores[0] > self._best[0]):
            self._best = scores[0], event["trial"]
        parts = [f"trial {event['trial']:>3}", state]
        if trial:
            parts.append(f"{trial['epoch']} epochs in {clock(time.monotonic() - trial['since'])}")
        if scores:
            named = zip(self._objectives, scores, strict=True)
            parts.append(
                ", ".join(
                    f"{name.replace('_', ' ')} {score_text(name, each)}" for name, each in named
                )
            )
        parts.append(event["failure"] or (searched(trial["settings"]) if trial else ""))
        self._output.say(Text("  ".join(parts), style=MARKS[state]))
        self._output.emit(event)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table("trial", "epoch", "best AUC", "time", "settings", box=None, expand=False)
        for trial in self._running.values():
            score = trial["score"]
            table.add_row(
                str(trial["trial"]),
                f"{trial['epoch']}/{self._epochs}",
                "" if score is None else f"{score:.4f}",
                clock(time.monotonic() - trial["since"]),
                Text(searched(trial["settings"]), overflow="ellipsis", no_wrap=True),
            )
        yield table
        yield self._foot()

    def _foot(self) -> Text:
        text = f"{self._done} of {self._trials} trials"
        ended, waiting = self._done - self._before, self._trials - self._done
        if ended and waiting > 0:
            pace = (self._latest_end - self._began) / ended
            left = pace * waiting - (time.monotonic() - self._latest_end)
            text += f", about {clock(left)} left"
        elif self._ends_by is not None:
            text += f", at most about {clock(self._ends_by - time.monotonic())} left"
        if self._best:
            text += f"; best {self._best[0]:.4f} (trial {self._best[1]})"
        return Text(text, style="cyan")


def searched(config: dict[str, Any]) -> str:
    """A trial's settings in a line."""
    return ", ".join(f"{name.split('.')[-1]} {short_text(v)}" for name, v in config.items())
