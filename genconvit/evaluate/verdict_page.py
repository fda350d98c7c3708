"""The page that `genconvit predict` writes: one HTML file with everything inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import calibrated, frame_step, judge_points
from genconvit.evaluate.evidence.figure import (
    error_name,
    error_picture,
    error_scale,
    jpeg,
    legend_strip,
    overlay,
)
from genconvit.evaluate.localisation.intervals import why_not_searched
from genconvit.evaluate.pages import clock, data_uri, facts, render, score
from genconvit.explain import ClipEvidence
from genconvit.files import replaced_file
from genconvit.verdict import TimelinePoint, TrackSummary, Verdict

COLOURS, SHAPES = 6, 5
"""Ways to draw a track in templates/style.css and templates/base.html; 5 and 6 share no factor."""
PLOT_HEIGHT = 180
SPAN_HEIGHT = 9
"""Of the row below the plot that marks a track's intervals."""


@dataclass(frozen=True)
class JudgedClip:
    """A verdict and the crops that it rests on, parallel to `verdict.timeline`, as JPEG bytes."""

    verdict: Verdict
    thumbnails: Sequence[bytes]
    evidence: ClipEvidence | None = None

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
        span_height=SPAN_HEIGHT,
        strips={kind: _jpeg_uri(legend_strip(kind)) for kind in ("heat", "error")},
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
                "marks": [_mark(point, timeline, decision) for point in points] if step else [],
                "lines": _lines(points, timeline, step, decision) if step else [],
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
        "spans": _spans(item.verdict, tracks),
        "no_spans": why_not_searched(step) if decision.aggregation != "original" else "",
        "evidence": _evidence(item.evidence) if item.evidence is not None else None,
    }


def _spans(verdict: Verdict, tracks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The intervals below the time axis, a row for each track that has any."""
    rows = {track: row for row, track in enumerate(sorted({i.track for i in verdict.intervals}))}
    look = {track["summary"].track: track for track in tracks}
    spans = []
    for interval in verdict.intervals:
        left, right = (_at(time, verdict.timeline) for time in (interval.start_s, interval.end_s))
        spans.append(
            {
                "interval": interval,
                "track": look[interval.track],
                "x": left,
                "width": round(right - left, 3),
                "y": PLOT_HEIGHT + 4 + SPAN_HEIGHT * rows[interval.track],
                "row": rows[interval.track],
            }
        )
    return spans


def _evidence(evidence: ClipEvidence) -> dict[str, Any]:
    """Pictures and findings of the explained crops."""
    scale = error_scale(evidence.crops)
    crops = [
        {
            "point": point,
            "findings": crop.findings,
            "image": _jpeg_uri(crop.crop_HWC),
            "heat": _jpeg_uri(overlay(crop.crop_HWC, crop.heat_HW)),
            "errors": [
                {
                    "image": _jpeg_uri(error_picture(error_HW, scale)),
                    "name": error_name(name),
                    "mean": crop.findings.reconstruction_error[name],
                }
                for name, error_HW in crop.errors.items()
            ],
        }
        for point, crop in zip(evidence.points, evidence.crops, strict=True)
    ]
    return {"crops": crops, "scale": scale, "sentence": evidence.sentence()}


def _jpeg_uri(image_HWC: NDArray[np.uint8]) -> str:
    return data_uri(jpeg(image_HWC), "image/jpeg")


def _x(point: TimelinePoint, timeline: list[TimelinePoint]) -> float:
    return _at(point.time_s, timeline)


def _at(time_s: float, timeline: list[TimelinePoint]) -> float:
    """Place of a time between the first and the last frame with a face, percent."""
    first, last = timeline[0].time_s, timeline[-1].time_s
    return round(100 * (time_s - first) / (last - first), 3)


def _y(point: TimelinePoint, decision: DecisionSettings) -> float:
    """Calibrated, as the band is that it is drawn over."""
    return round(PLOT_HEIGHT * (1 - calibrated(point.probability_fake, decision)), 1)


def _mark(
    point: TimelinePoint, timeline: list[TimelinePoint], decision: DecisionSettings
) -> dict[str, Any]:
    title = (
        f"{clock(point.time_s)}, frame {point.frame_index}, track {point.track}: "
        f"P(fake) {score(point.probability_fake)}"
    )
    return {"x": _x(point, timeline), "y": _y(point, decision), "title": title}


def _lines(
    points: list[TimelinePoint],
    timeline: list[TimelinePoint],
    step: float,
    decision: DecisionSettings,
) -> list[tuple[float, float, float, float]]:
    """Lines between neighbours (x1, y1, x2, y2); none across a gap, where no face was seen."""
    return [
        (_x(a, timeline), _y(a, decision), _x(b, timeline), _y(b, decision))
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
