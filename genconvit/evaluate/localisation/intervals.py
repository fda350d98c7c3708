"""Where in a clip a face looks manipulated: smoothed scores of a track, and two thresholds.

A clip is seldom forged throughout. Scores of single frames jump, so each is first averaged with its
neighbours in time; then an interval begins and ends by hysteresis (Canny,
https://doi.org/10.1109/TPAMI.1986.4767851): it must somewhere be surely fake, and reaches as far as
the score is not surely real.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genconvit.evaluate.pages import clock
from genconvit.verdict import Interval, TimelinePoint, TrackSummary
from genconvit.wording import plural

SMOOTHING_S = 0.4
"""Standard deviation of the weights, seconds: with a step of 0.3 s the mean rests on about three
frames. Half as much lets single frames through; twice as much blurs a second of forgery away."""
LEAST_S = 0.5
"""Shorter intervals are left out: a blink, a turn or a cut is that long, a forged word is longer.
So are those of a single frame."""
MAX_STEP_S = 1.0
"""Where sampled frames lie farther apart, an interval between two of them could be missed or would
be made up, and none is looked for."""
GAP = 1.5
"""A pause in a track of more usual steps than this is a gap: the face was not seen there."""
THROUGHOUT = 0.9
"""A track that looks manipulated for this share of its time looks so throughout."""
NAMED = 3
"""Intervals that a sentence tells of."""


def find_intervals(
    timeline: Sequence[TimelinePoint],
    step_s: float | None,
    band: tuple[float, float],
    calibrate: Callable[[float], float] = float,
) -> list[Interval]:
    """The intervals of each track in which it looks manipulated.

    Args:
        timeline: The points of a clip, ordered by frame.
        step_s: Usual time between two sampled frames; None for a still image.
        band: What is UNDECIDED. An interval reaches above it, and ends where it is left downwards.
        calibrate: From a mean score to P(fake); rises.

    Returns:
        Ordered by time, then track; those of a track do not touch. None where `why_not_searched`
        says something. An edge lies midway between two sampled frames, or at the first or last one
        of a stretch in which the face is seen without a gap.
    """
    if step_s is None or step_s > MAX_STEP_S:
        return []
    found: list[Interval] = []
    for track in sorted({point.track for point in timeline}):
        points = [point for point in timeline if point.track == track]
        for stretch in stretches(points, step_s):
            found += _in_stretch(stretch, band, calibrate)
    return sorted(found, key=lambda interval: (interval.start_s, interval.track))


def why_not_searched(step_s: float | None) -> str:
    """Why a clip has no intervals though it may look manipulated; empty where they were sought."""
    if step_s is None:
        return "a single frame has no intervals"
    if step_s > MAX_STEP_S:
        return (
            f"the sampled frames lie {step_s:.1f} s apart; intervals need {MAX_STEP_S:g} s or "
            "less: sample more frames"
        )
    return ""


def stretches(points: Sequence[TimelinePoint], step_s: float) -> list[list[TimelinePoint]]:
    """A track's points, in order of time, cut where there is a gap."""
    parts: list[list[TimelinePoint]] = [[point] for point in points[:1]]
    for before, after in pairwise(points):
        if after.time_s - before.time_s > GAP * step_s:
            parts.append([])
        parts[-1].append(after)
    return parts


def smoothed(time_s_N: ArrayLike, p_fake_N: ArrayLike) -> NDArray[np.float64]:
    """Each score averaged with its neighbours, weighted by a Gaussian of their distance in time.

    Args:
        time_s_N: Times of N frames, rising.
        p_fake_N: Their scores.
    """
    times, scores = (np.asarray(values, np.float64) for values in (time_s_N, p_fake_N))
    reach = 4 * SMOOTHING_S  # what lies farther has less than a thousandth of the weight
    starts, ends = np.searchsorted(times, times - reach), np.searchsorted(times, times + reach)
    means = []
    for time_s, start, end in zip(times, starts, ends, strict=True):
        weights = np.exp(-0.5 * ((times[start:end] - time_s) / SMOOTHING_S) ** 2)
        means.append(weights @ scores[start:end] / weights.sum())
    return np.array(means)


def spans_text(intervals: Sequence[Interval]) -> str:
    """Times of a clip in words, such as "from 3.2 s to 5.0 s and from 7.0 s to 8.1 s"."""
    spans = union([(interval.start_s, interval.end_s) for interval in intervals])
    parts = [f"from {clock(start)} to {clock(end)}" for start, end in spans[:NAMED]]
    if len(spans) > NAMED:
        parts.append(f"in {plural(len(spans) - NAMED, 'more interval')}")
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)


def covers_little(intervals: Sequence[Interval], tracks: Sequence[TrackSummary]) -> bool:
    """Whether the intervals say more than that a track looks manipulated from end to end."""
    for track in tracks:
        own = [each.end_s - each.start_s for each in intervals if each.track == track.track]
        if own and sum(own) < THROUGHOUT * (track.last_s - track.first_s):
            return True
    return False


def union(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same stretch of time as spans that neither touch nor overlap, in order."""
    joined: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def _in_stretch(
    points: list[TimelinePoint], band: tuple[float, float], calibrate: Callable[[float], float]
) -> list[Interval]:
    low, high = band
    times = [point.time_s for point in points]
    scores = [point.probability_fake for point in points]
    p_fakes = [calibrate(float(mean)) for mean in smoothed(times, scores)]
    edges = [times[0], *((a + b) / 2 for a, b in pairwise(times)), times[-1]]
    found = []
    first = 0
    for place in range(len(points) + 1):
        # What is not below the band goes on; one without width is left at the threshold itself.
        if place < len(points) and (p_fakes[place] > high or p_fakes[place] >= low < high):
            continue
        start, end, inside = edges[first], edges[place], range(first, place)
        sure = any(p_fakes[i] > high for i in inside)
        if sure and len(inside) > 1 and end - start >= LEAST_S:
            found.append(
                Interval(
                    start_s=round(start, 3),
                    end_s=round(end, 3),
                    track=points[0].track,
                    probability_fake=calibrate(fmean(scores[i] for i in inside)),
                    peak=calibrate(max(scores[i] for i in inside)),
                )
            )
        first = place + 1
    return found
