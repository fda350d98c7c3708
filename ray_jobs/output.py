"""What a command shows: one display for people, one JSON object a line for programs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


def runs_folder() -> Path:
    """Where runs are kept that were given no folder."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        # Under `ray job submit` the current folder is a copy that Ray deletes.
        return Path.home() / "genconvit-runs"
    return Path("runs")


def new_out_folder(job: str) -> Path:
    """A folder of its own for every run of a job."""
    return runs_folder() / time.strftime(f"{job}-%Y%m%d-%H%M%S")


class Output:
    """Where a job tells what it does.

    Args:
        as_json: Programs read it: only `emit` writes, one JSON object a line.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.console = Console(
            quiet=as_json, soft_wrap=not sys.stdout.isatty(), highlight=False, markup=False
        )

    def say(self, message: RenderableType) -> None:
        """For people."""
        self.console.print(message)

    def warn(self, message: str) -> None:
        """For people, on stderr so that JSON stays clean."""
        line = Text.assemble(("warning: ", "yellow"), message)
        Console(stderr=True, soft_wrap=True).print(line)

    @property
    def live(self) -> bool:
        """Whether there is a terminal for what changes in place."""
        return self.console.is_terminal and not (self.as_json or self.console.is_dumb_terminal)

    def note(self, text: str) -> None:
        """A warning that goes above a live display, which stderr would write into."""
        if self.live:
            self.say(Text.assemble(("warning: ", "yellow"), text))
        else:
            self.warn(text)

    @contextmanager
    def showing(self, display: RenderableType, refresh_per_s: int) -> Iterator[None]:
        """Keeps a display on the terminal meanwhile, where there is one."""
        if not self.live:
            yield
            return
        with Live(display, console=self.console, refresh_per_second=refresh_per_s, transient=True):
            yield

    def emit(self, item: dict[str, Any]) -> None:
        """For programs."""
        if self.as_json:
            sys.stdout.write(json.dumps(item, allow_nan=False, default=str) + "\n")
            sys.stdout.flush()

    @contextmanager
    def bar(self, title: str, total: int | None = None) -> Iterator[Bar]:
        """A progress bar; nothing where there is no terminal."""
        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=self.as_json or not self.console.is_terminal,
            transient=True,
        )
        with progress:
            yield Bar(progress, title, total)


class Bar:
    """A progress bar that is shown."""

    def __init__(self, progress: Progress, title: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, note="")

    def advance(self, note: str = "", count: int = 1) -> None:
        """So many more are done."""
        self._progress.update(self._task, advance=count, note=note)

    def set(self, completed: int, total: int, title: str, note: str = "") -> None:
        """Shows another state."""
        self._progress.update(
            self._task, completed=completed, total=total, description=title, note=note
        )
