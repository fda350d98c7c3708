"""How a training run is shown: one live display, or plain lines where there is no terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from genconvit.config import Settings
from genconvit.train.run_folder import epoch_line
from ray_jobs.output import Output

Event = dict[str, Any]
REFRESH_PER_S = 4
WIDEST = 100
GIB = 2**30


@contextmanager
def train_display(output: Output, settings: Settings) -> Iterator[TrainDisplay]:
    """Shows a training run while it lasts.

    Args:
        output: Where to show it. It is live on a terminal; else there is a line an epoch, and for
            programs an object.
        settings: The run's settings.
    """
    display = TrainDisplay(output, settings.train.epochs)
    with output.showing(display, REFRESH_PER_S):
        yield display


class TrainDisplay:
    """Takes the events of a training run and shows them.

    Args:
        output: Where.
        epochs: Epochs at most, for events that do not say it.
    """

    def __init__(self, output: Output, epochs: int) -> None:
        self.live = output.live
        self._output = output
        self._epochs = epochs
        self._phase = "starting workers"
        self._since = time.monotonic()
        self._step: Event = {}
        self._epoch: Event = {}
        self._spinner = Spinner("dots")

    def handle(self, event: Event) -> None:
        """Shows an event; what it lacks is not shown.

        `step` and `phase` change the live display. `epoch`, `batch_size` and `note` are lines
        that stay, and are passed on to programs. Others are ignored.
        """
        kind = event.get("event")
        if kind == "step":
            self._step = {name: value for name, value in event.items() if value is not None}
            self._phase = ""
        elif kind == "phase":
            self._phase, self._since = event.get("title", ""), time.monotonic()
        elif kind == "epoch":
            self._epoch, self._phase = event, ""
            if self.live:  # one line, also where the terminal is narrow
                self._output.say(flowing(epoch_items(event), self._output.console.width)[0])
            else:
                self._output.say(epoch_line(event, parts=False))
            self._output.emit(event)
        elif kind == "batch_size":
            self._output.say(f"Batch size: {event.get('batch_size')} crops a pass and worker.")
            self._output.emit(event)
        elif kind == "note":
            self._output.note(event.get("text", ""))
            self._output.emit(event)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, WIDEST)
        yield self._head(width)
        for items in (self._losses(), self._validation(), self._speed()):
            for line in flowing(items, width - 2):
                yield Text("  ").append_text(line)

    def _head(self, width: int) -> Table:
        step = self._step
        epoch, epochs = step.get("epoch"), step.get("epochs", self._epochs)
        head = Table.grid(padding=(0, 1))
        cells: list[Any] = [self._spinner]
        if epoch is not None:
            cells.append(Text(f"epoch {epoch} of {epochs}"))
        if self._phase:
            cells += [Text(self._phase), Text(clock(time.monotonic() - self._since), style="dim")]
        elif step.get("steps"):
            head = Table.grid(padding=(0, 1), expand=True)
            head.width = width
            if epoch is not None and "seconds_left" in step:  # of the run, if it does not end early
                cells[-1].append(f", {clock(step['seconds_left'])} left", style="cyan")
            cells.append(ProgressBar(total=step["steps"], completed=step.get("step", 0)))
            done = str(step.get("step", 0)).rjust(len(str(step["steps"])))
            cells.append(Text(f"{done}/{step['steps']} steps", style="green"))
        for cell in cells:
            head.add_column(no_wrap=True, ratio=1 if isinstance(cell, ProgressBar) else None)
        head.add_row(*cells)
        return head

    def _losses(self) -> list[Text]:
        items = [named("loss", self._step.get("loss"), ".4f", "bold")]
        for name, value in self._step.get("parts", {}).items():
            if name != "loss":
                items.append(named(name, value, ".4f"))
        return [item for item in items if item]

    def _validation(self) -> list[Text]:
        last, items = self._epoch, []
        val = last.get("val") or {}
        if "clip_auc" in val:
            items.append(named("val AUC", val["clip_auc"], ".4f", "bold"))
        if last.get("best_epoch"):
            best = named("best", last.get("best_clip_auc"), ".4f", "bold")
            items.append(best.append(f" (epoch {last['best_epoch']})", style="dim"))
        if skipped := self._step.get("skipped"):
            items.append(Text(f"{skipped} step{'s' * (skipped > 1)} skipped", style="yellow"))
        return [item for item in items if item]

    def _speed(self) -> list[Text]:
        step, items = self._step, []
        if "crops_per_s" in step:
            items.append(Text(f"{step['crops_per_s']:.0f} crops/s"))
        if "data_wait" in step:
            items.append(named("data wait", step["data_wait"], ".0%"))
        if step.get("gpu_total_bytes"):
            used, whole = step.get("gpu_bytes", 0) / GIB, step["gpu_total_bytes"] / GIB
            items.append(named("GPU", used, ".1f").append(f" of {whole:.1f} GiB"))
        items.append(named("lr", step.get("lr"), ".1e"))
        if workers := step.get("workers"):
            items.append(Text(f"{workers} worker{'s' * (workers > 1)}"))
        return [item for item in items if item]


def epoch_items(entry: Event) -> list[Text]:
    """An epoch for one line, what matters least last."""
    train, val = entry.get("train", {}), entry.get("val") or {}
    auc = named("clip AUC", val.get("clip_auc"), ".4f")
    if entry.get("best"):
        auc.append(" best" if auc else "best", style="green")
    items = [
        Text(f"epoch {entry.get('epoch', ''):>3}"),
        named("loss", train.get("loss"), ".4f"),
        auc,
        named("accuracy", val.get("clip_accuracy"), ".3f"),
        named("val loss", val.get("loss"), ".4f"),
        named("lr", entry.get("lr"), ".1e"),
    ]
    if "crops_per_s" in entry:
        items.append(Text(f"{entry['crops_per_s']:.0f} crops/s"))
    return [item for item in items if item]


def flowing(items: Sequence[Text], width: int) -> list[Text]:
    """The items in as many lines as they need; none is broken."""
    lines: list[Text] = []
    for item in items:
        if lines and lines[-1].cell_len + 2 + item.cell_len <= width:
            lines[-1].append("  ").append_text(item)
        else:
            lines.append(Text(no_wrap=True, overflow="ellipsis").append_text(item))
    return lines


def named(name: str, value: float | None, form: str, style: str = "") -> Text:
    """`loss 0.4312`; empty without a value."""
    if value is None:
        return Text()
    return Text.assemble((f"{name} ", "dim"), (format(value, form), style))


def clock(seconds: float) -> str:
    """`4:12`, `1:04:12`, `2 d 3 h`."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(max(round(seconds), 0), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
