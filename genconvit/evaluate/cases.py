"""Single clips in an evaluation's page: the ones it was worst at, with faces and timelines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import calibrated, frame_step
from genconvit.evaluate.evaluated import EvaluatedClip
from genconvit.evaluate.pages import data_uri
from genconvit.verdict import TimelinePoint, Verdict

WORST = 10
"""So many are shown; the CSV file has all of them."""
FACES = 6
"""Crops that are shown of a clip."""
WIDTH, HEIGHT = 320, 64
"""Of a timeline, in its own units."""

Faces = Callable[[Mapping[str, Sequence[TimelinePoint]]], Mapping[str, Sequence[bytes]]]
"""Finds the crops (JPEG) at the given points of clips, in their order; of clips that it cannot read
any more it has none."""


@dataclass(frozen=True)
class Evidence:
    """What explains a crop.

    Attributes:
        png: A picture.
        findings: The clip, the place of the crop, and the numbers of `genconvit.explain`.
    """

    png: bytes
    findings: dict[str, Any]


Explain = Callable[[Sequence[tuple[Verdict, Sequence[bytes]]]], Sequence[Sequence[Evidence]]]
"""Explains clips, each given by a verdict with some points of its timeline and the crops there."""


@dataclass(frozen=True)
class Case:
    """A clip as the page shows it.

    Attributes:
        row: The clip.
        faces: Address of an image and P(fake), a crop.
        lines: Of the timeline: x1, y1, x2, y2 and the place of the track.
        dots: x, y and the place of the track.
        band: Top and bottom of what is undecided, in the timeline's units from above.
        evidence: What explains some of its crops.
    """

    row: EvaluatedClip
    faces: Sequence[tuple[str, float]]
    lines: Sequence[tuple[float, float, float, float, int]]
    dots: Sequence[tuple[float, float, int]]
    band: tuple[float, float]
    evidence: Sequence[Evidence]

    @property
    def pictures(self) -> list[str]:
        """Addresses of the pictures of the evidence."""
        return [data_uri(each.png, "image/png") for each in self.evidence]


def worst_clips(rows: Sequence[EvaluatedClip]) -> list[EvaluatedClip]:
    """The clips whose P(fake) is farthest from their label: the surest mistakes come first."""
    scored = [
        (abs((row.label == "fake") - row.verdict.probability_fake), row)
        for row in rows
        if row.label and row.verdict and row.verdict.probability_fake is not None
    ]
    return [row for _, row in sorted(scored, key=lambda pair: -pair[0])[:WORST]]


def cases(
    rows: Sequence[EvaluatedClip],
    decision: DecisionSettings,
    faces: Faces | None,
    explain: Explain | None = None,
) -> list[Case]:
    """Clips with what is to be shown of them.

    Args:
        rows: The clips, each with a verdict.
        decision: Its band is marked.
        faces: Finds crops; without it none are shown.
        explain: Explains them; without it none are.
    """
    chosen = {row.name: _telling(row) for row in rows}
    found = faces(chosen) if faces else {}
    evidence: dict[str, Sequence[Evidence]] = {}
    whole = [row for row in rows if len(found.get(row.name, ())) == len(chosen[row.name]) > 0]
    if explain and whole:
        asked = [
            (row.verdict.model_copy(update={"timeline": chosen[row.name]}), found[row.name])
            for row in whole
            if row.verdict
        ]
        evidence = dict(zip((row.name for row in whole), explain(asked), strict=True))
    return [
        Case(
            row,
            [
                (data_uri(jpeg, "image/jpeg"), point.probability_fake)
                for jpeg, point in zip(found.get(row.name, ()), chosen[row.name], strict=False)
            ],
            *_timeline(row, decision),
            band=(_y(decision.band[1]), _y(decision.band[0])),
            evidence=evidence.get(row.name, ()),
        )
        for row in rows
    ]


def _telling(row: EvaluatedClip) -> list[TimelinePoint]:
    """Points spread evenly over the timeline."""
    assert row.verdict is not None
    points = row.verdict.timeline
    if len(points) <= FACES:
        return list(points)
    step = (len(points) - 1) / (FACES - 1)
    return [points[round(place * step)] for place in range(FACES)]


def _timeline(
    row: EvaluatedClip, decision: DecisionSettings
) -> tuple[list[tuple[float, float, float, float, int]], list[tuple[float, float, int]]]:
    assert row.verdict is not None
    points, step = row.verdict.timeline, frame_step(row.verdict.timeline)
    if step is None:
        return [], []
    first, last = points[0].time_s, points[-1].time_s
    tracks = {track: place for place, track in enumerate(sorted({p.track for p in points}))}

    def x(point: TimelinePoint) -> float:
        return round(WIDTH * (point.time_s - first) / (last - first), 1)

    def y(point: TimelinePoint) -> float:
        return _y(calibrated(point.probability_fake, decision))  # as the band, which is shown too

    dots = [(x(point), y(point), tracks[point.track]) for point in points]
    lines = []
    for track, place in tracks.items():
        own = [point for point in points if point.track == track]
        lines += [
            (x(a), y(a), x(b), y(b), place)
            for a, b in pairwise(own)
            if b.time_s - a.time_s <= 1.5 * step  # none across a gap
        ]
    return lines, dots


def _y(p_fake: float) -> float:
    return round(HEIGHT * (1 - p_fake), 1)
