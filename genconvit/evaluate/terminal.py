"""Verdicts and metrics in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import Word, frame_step, judge_points
from genconvit.evaluate.pages import clock, percent, score
from genconvit.verdict import TimelinePoint, Verdict

if TYPE_CHECKING:
    from genconvit.evaluate.metrics import ClipMetrics

BLOCKS = "▁▂▃▄▅▆▇█"
MARKS: dict[Word, str] = {"FAKE": "▲", "REAL": "●", "UNDECIDED": "◆"}
STYLES: dict[Word, str] = {"FAKE": "red", "REAL": "cyan", "UNDECIDED": "yellow"}
MAX_ROWS = 12


@dataclass(frozen=True)
class Timeline:
    """P(fake) over time, one row a track, as wide as the terminal lets it be."""

    verdict: Verdict
    decision: DecisionSettings

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draws a column a sampled frame; where frames outnumber columns, a column is a mean."""
        tracks = self.verdict.tracks[:MAX_ROWS]
        heads = [f"track {track.track}  {score(track.probability_fake)}  " for track in tracks]
        indent = max(map(len, heads))
        columns = self._columns(options.max_width - indent)
        for track, head in zip(tracks, heads, strict=True):
            yield Text(head.rjust(indent), no_wrap=True) + self._row(track.track, columns)
        hidden = len(self.verdict.tracks) - len(tracks)
        if hidden:
            yield Text(f"and {hidden} more tracks", style="dim")
        first, last = (clock(self.verdict.timeline[end].time_s) for end in (0, -1))
        if columns >= len(first) + len(last) + 1:
            axis = " " * indent + first + last.rjust(columns - len(first))
            yield Text(axis, style="dim", no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """From a narrow terminal to all there is."""
        return Measurement(min(30, options.max_width), options.max_width)

    def _columns(self, room: int) -> int:
        timeline, step = self.verdict.timeline, frame_step(self.verdict.timeline)
        if step is None:
            return 1
        frames = round((timeline[-1].time_s - timeline[0].time_s) / step) + 1
        return max(1, min(room, frames, self.verdict.frames_sampled))

    def _row(self, track: int, columns: int) -> Text:
        first, last = (self.verdict.timeline[end].time_s for end in (0, -1))
        bins: list[list[TimelinePoint]] = [[] for _ in range(columns)]
        for point in self.verdict.timeline:
            if point.track == track:
                share = (point.time_s - first) / (last - first) if last > first else 0.0
                bins[round(share * (columns - 1))].append(point)
        row = Text(no_wrap=True)
        for points in bins:
            if not points:
                row.append(" ")
                continue
            p_fake, word = judge_points(points, self.decision)
            block = BLOCKS[min(int(p_fake * len(BLOCKS)), len(BLOCKS) - 1)]
            row.append(block, style=STYLES[word])
        return row


def verdict_panel(verdict: Verdict, decision: DecisionSettings) -> RenderableType:
    """A panel with the verdict's word, P(fake), reason and timeline."""
    style = STYLES[verdict.verdict]
    head = Text(f"{MARKS[verdict.verdict]} {verdict.verdict}", style=f"bold {style}")
    if verdict.probability_fake is not None:
        head.append(f"  P(fake) {score(verdict.probability_fake)}", style="not bold default")
    # Wrapped even where the console is told not to wrap: a panel would cut the end off.
    reason = Text(verdict.reason, no_wrap=False, overflow="fold")
    parts: list[RenderableType] = [head, reason]
    if verdict.timeline:
        parts += ["", Timeline(verdict, decision)]
    return Panel(
        Group(*parts), title=Text(verdict.clip), title_align="left", border_style=style, expand=True
    )


def metrics_table(metrics: ClipMetrics) -> Table:
    """A table of the figures over decided clips, and with UNDECIDED counted wrong."""
    from genconvit.evaluate.metrics import VERDICTS  # scikit-learn takes seconds to import

    table = Table(
        title=Text(f"{metrics.clips} clips, {metrics.fake} fake and {metrics.real} real"),
        caption=Text("\n".join(metrics.notes)) if metrics.notes else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("")
    table.add_column("decided clips", justify="right")
    table.add_column("UNDECIDED is wrong", justify="right")
    table.add_row("clips", str(metrics.decided.clips), str(metrics.undecided_wrong.clips))
    names = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "false_positive_rate")
    for name in names:
        values = (getattr(way, name) for way in (metrics.decided, metrics.undecided_wrong))
        table.add_row("F1" if name == "f1" else name.replace("_", " "), *map(percent, values))
    table.add_section()
    for label, counts in metrics.confusion.items():
        cells = ", ".join(f"{counts[word]} {word}" for word in VERDICTS)
        table.add_row(f"{label} clips", cells)
    return table
