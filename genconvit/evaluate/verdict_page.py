"""The page that `genconvit predict` writes: one HTML file with everything inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import frame_step, judge_points
from genconvit.evaluate.pages import clock, data_uri, facts, render, score
from genconvit.files import replaced_file
from genconvit.verdict import TimelinePoint, TrackSummary, Verdict

COLOURS, SHAPES = 6, 5
"""Ways to draw a track in templates/style.css and templates/base.html; 5 and 6 share no factor."""
PLOT_HEIGHT = 180


@dataclass(frozen=True)
class JudgedClip:
    """A verdict and the crops that it rests on, parallel to `verdict.timeline`, as JPEG bytes."""

    verdict: Verdict
    thumbnails: Sequence[bytes]

    def __post_init__(self) -> None:
        if len(self.thumbnails) != len(self.verdict.timeline):
            raise ValueError(
                f"{len(self.thumbnails)} thumbnails for {len(self.verdict.timeline)} crops "
                f"of {self.verdict.clip}"
            )


def write_verdict_page(
    path: Path,
    items: Sequence[JudgedClip],
    detector_info: dict[str, Any],
    decision: DecisionSettings,
) -> None:
    """Writes the page; an existing one is replaced when the new one is complete.

    Args:
        path: The HTML file. Its folder is made.
        items: Clips in the order in which they are shown.
        detector_info: What says which detector this was; shown as a table.
        decision: Threshold and margin behind the verdicts.

    Raises:
        OSError: The file cannot be written.
    """
    page = render(
        "verdict.html",
        clips=[_view(item, decision) for item in items],
        counts={
            word: sum(item.verdict.verdict == word for item in items)
            for word in ("FAKE", "REAL", "UNDECIDED")
        },
        band=_band(decision),
        decision=decision,
        facts=facts(detector_info),
        height=PLOT_HEIGHT,
    )
    with replaced_file(path) as aside:
        aside.write_text(page, encoding="utf-8")


def _band(decision: DecisionSettings) -> dict[str, float]:
    """The undecided band and the threshold, as shares of 0 to 1."""
    low, high = decision.band
    return {"low": low, "high": high, "threshold": decision.threshold}


def _view(item: JudgedClip, decision: DecisionSettings) -> dict[str, Any]:
    """What the template shows of one clip."""
    timeline = item.verdict.timeline
    step = frame_step(timeline)
    tracks = []
    for place, summary in enumerate(item.verdict.tracks):
        points = [point for point in timeline if point.track == summary.track]
        tracks.append(
            {
                "summary": summary,
                "word": judge_points(points, decision)[1],
                "colour": place % COLOURS,
                "shape": place % SHAPES,
                "marks": [_mark(point, timeline) for point in points] if step else [],
                "lines": _lines(points, timeline, step) if step else [],
                "crops": [
                    {
                        "image": data_uri(image, "image/jpeg"),
                        "point": point,
                        "word": judge_points([point], decision)[1],
                    }
                    for point, image in zip(timeline, item.thumbnails, strict=True)
                    if point.track == summary.track
                ],
            }
        )
    return {
        "verdict": item.verdict,
        "tracks": tracks,
        "ticks": _ticks(timeline) if step else [],
        "alt": _alt(item.verdict.tracks),
    }


def _x(point: TimelinePoint, timeline: list[TimelinePoint]) -> float:
    """Place of a frame between the first and the last one with a face, percent."""
    first, last = timeline[0].time_s, timeline[-1].time_s
    return round(100 * (point.time_s - first) / (last - first), 3)


def _y(point: TimelinePoint) -> float:
    return round(PLOT_HEIGHT * (1 - point.probability_fake), 1)


def _mark(point: TimelinePoint, timeline: list[TimelinePoint]) -> dict[str, Any]:
    title = (
        f"{clock(point.time_s)}, frame {point.frame_index}, track {point.track}: "
        f"P(fake) {score(point.probability_fake)}"
    )
    return {"x": _x(point, timeline), "y": _y(point), "title": title}


def _lines(
    points: list[TimelinePoint], timeline: list[TimelinePoint], step: float
) -> list[tuple[float, float, float, float]]:
    """Lines between neighbours (x1, y1, x2, y2); none across a gap, where no face was seen."""
    return [
        (_x(a, timeline), _y(a), _x(b, timeline), _y(b))
        for a, b in pairwise(points)
        if b.time_s - a.time_s <= 1.5 * step
    ]


def _ticks(timeline: list[TimelinePoint]) -> list[tuple[float, str]]:
    """Five places (percent) on the time axis and what they say."""
    first, last = timeline[0].time_s, timeline[-1].time_s
    return [(25.0 * i, clock(first + (last - first) * i / 4)) for i in range(5)]


def _alt(tracks: list[TrackSummary]) -> str:
    parts = [
        f"track {track.track}: P(fake) {score(track.probability_fake)} on average "
        f"from {clock(track.first_s)} to {clock(track.last_s)}"
        for track in tracks
    ]
    return "P(fake) over time. " + "; ".join(parts)
