"""From the scores of a clip's crops to its verdict."""

from __future__ import annotations

from itertools import groupby, pairwise
from statistics import fmean, median
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from genconvit.config import DecisionSettings
from genconvit.evaluate.clip_score import clip_score
from genconvit.evaluate.localisation.intervals import covers_little, find_intervals, spans_text
from genconvit.verdict import Interval, TimelinePoint, TrackSummary, Verdict
from genconvit.wording import plural

Word = Literal["FAKE", "REAL", "UNDECIDED"]


def decide(
    clip: str, points: list[TimelinePoint], frames_sampled: int, decision: DecisionSettings
) -> Verdict:
    """Judges one clip or still image.

    Args:
        clip: Name of the clip as the user gave it.
        points: One point a crop, in any order, scored for `decision`. Empty where no face was
            found.
        frames_sampled: Frames that were looked at, with or without a face.
        decision: Aggregation, threshold and margin.

    Returns:
        The verdict, its timeline ordered by frame, then track. Its reason says so where one person
        of the clip would be FAKE and another REAL, and where only a part of it looks manipulated.
    """
    timeline = sorted(points, key=lambda point: (point.frame_index, point.track))
    tracks = _summaries(timeline, decision)
    intervals = _intervals(timeline, decision)
    seen = len({point.frame_index for point in timeline})
    p_fake: float | None
    word: Word
    if not timeline:
        p_fake, word, reason = _without_face(frames_sampled, decision)
    else:
        p_fake, word = judge_points(timeline, decision)
        people = "1 person" if len(tracks) == 1 else f"{len(tracks)} people"
        basis = (
            f"over {plural(len(timeline), 'face')} "
            f"in {seen} of {plural(frames_sampled, 'frame')}; {people}"
        )
        if decision.aggregation == "original":
            for_fake, for_real = mean_sigmoids(timeline)
            reason = f"mean sigmoids {for_fake:.2f} fake and {for_real:.2f} real {basis}"
        elif word == "UNDECIDED":
            low, high = decision.band
            reason = f"P(fake) {p_fake:.2f} is between {low:.2f} and {high:.2f}, where it is unsure"
        else:
            reason = f"{_name(decision)} {p_fake:.2f} {basis}"
        reason += _disagreement(timeline, tracks, decision)
        if covers_little(intervals, tracks):
            reason += f"; looks manipulated {spans_text(intervals)}"
    return Verdict(
        clip=clip,
        verdict=word,
        probability_fake=p_fake,
        reason=reason,
        frames_sampled=frames_sampled,
        frames_with_face=seen,
        tracks=tracks,
        timeline=timeline,
        intervals=intervals,
    )


def crop_probability(
    rows_RK: NDArray[np.float64], decision: DecisionSettings, temperature: float = 1.0
) -> tuple[float, tuple[float, float] | None]:
    """P(fake) of one crop, and with `original` the sigmoids behind it.

    Args:
        rows_RK: Logits (R, 2) of the R networks that judge together.
        decision: `original`: each row's sigmoids, averaged. All others: softmax of the mean logits.
        temperature: Divides the logits before the softmax.
    """
    if decision.aggregation == "original":
        for_fake, for_real = (float(x) for x in expit(rows_RK).mean(axis=0))
        return larger_of(for_fake, for_real), (for_fake, for_real)
    fake, real = rows_RK.mean(axis=0) / temperature
    return float(expit(fake - real)), None


def judge_points(points: list[TimelinePoint], decision: DecisionSettings) -> tuple[float, Word]:
    """P(fake) of a clip or track, and its word. `points` is not empty.

    `original`: the mean sigmoids over all crops and networks; the larger wins, and P(fake) is that
    of fake where it does, else 1 minus that of real. All others: `clip_score`, through the isotonic
    map where there is one, against the band.
    """
    if decision.aggregation == "original":
        for_fake, for_real = mean_sigmoids(points)
        word: Word = "FAKE" if for_fake > for_real else "REAL"
        return larger_of(for_fake, for_real), word
    score = clip_score(
        [point.probability_fake for point in points],
        [point.frame_index for point in points],
        decision.aggregation,
        decision.top_k,
    )
    p_fake = calibrated(score, decision)
    return p_fake, judge(p_fake, decision)


def calibrated(score: float, decision: DecisionSettings) -> float:
    """P(fake) of a clip's score."""
    if decision.isotonic is None:
        return score
    scores, p_fakes = zip(*decision.isotonic, strict=True)
    return float(np.interp(score, scores, p_fakes))


def mean_sigmoids(points: list[TimelinePoint]) -> tuple[float, float]:
    """Mean sigmoids (fake, real) of crops that were scored for the aggregation `original`."""
    pairs = [point.sigmoids for point in points if point.sigmoids is not None]
    return fmean(pair[0] for pair in pairs), fmean(pair[1] for pair in pairs)


def judge(p_fake: float, decision: DecisionSettings) -> Word:
    """The word for a P(fake): FAKE above the band, REAL below it, else UNDECIDED."""
    low, high = decision.band
    if p_fake > high:
        return "FAKE"
    if p_fake < low:
        return "REAL"
    return "UNDECIDED"


def unreachable(decision: DecisionSettings) -> list[str]:
    """In sentences, the words that no P(fake) leads to under this threshold and band."""
    if decision.aggregation == "original":
        return []
    low, high = decision.band
    least, most = (calibrated(score, decision) for score in (0.0, 1.0))
    advice = "move the threshold, or make what is UNDECIDED narrower"
    found = []
    if most <= high:
        found.append(
            f"No clip can be FAKE: up to {high:g} is UNDECIDED, and P(fake) is {most:g} at most; "
            f"{advice}."
        )
    if least >= low:
        found.append(
            f"No clip can be REAL: from {low:g} on is UNDECIDED, and P(fake) is {least:g} at "
            f"least; {advice}."
        )
    return found


def frame_step(timeline: list[TimelinePoint]) -> float | None:
    """Usual time between two sampled frames, seconds; None where there is only one.

    A pause in a track that is clearly longer than this is a gap: its face was not seen there.
    """
    times = sorted({point.time_s for point in timeline})
    return median(later - earlier for earlier, later in pairwise(times)) if times[1:] else None


def _without_face(
    frames_sampled: int, decision: DecisionSettings
) -> tuple[float | None, Word, str]:
    reason = f"no face was found in {plural(frames_sampled, 'sampled frame')}"
    if decision.aggregation == "original":
        return 0.5, "FAKE", reason + ", which the aggregation original counts as FAKE at 0.5"
    return None, "UNDECIDED", reason


def _name(decision: DecisionSettings) -> str:
    """What the number of a clip is, in words."""
    if decision.isotonic is not None:
        return "calibrated P(fake)"
    names = {
        "top_k": f"mean of the {decision.top_k} highest P(fake)",
        "max": "mean of each frame's highest P(fake)",
    }
    return names.get(decision.aggregation, f"{decision.aggregation} P(fake)")


def larger_of(for_fake: float, for_real: float) -> float:
    """P(fake) of two sigmoids, as the published program has it."""
    return for_fake if for_fake > for_real else 1 - for_real


def _summaries(timeline: list[TimelinePoint], decision: DecisionSettings) -> list[TrackSummary]:
    return [
        TrackSummary(
            track=points[0].track,
            first_s=points[0].time_s,
            last_s=points[-1].time_s,
            crops=len(points),
            probability_fake=judge_points(points, decision)[0],
        )
        for points in _by_track(timeline)
    ]


def _intervals(timeline: list[TimelinePoint], decision: DecisionSettings) -> list[Interval]:
    if decision.aggregation == "original":
        return []
    step = frame_step(timeline)
    return find_intervals(timeline, step, decision.band, lambda mean: calibrated(mean, decision))


def _by_track(timeline: list[TimelinePoint]) -> list[list[TimelinePoint]]:
    ordered = sorted(timeline, key=lambda point: point.track)  # stable: frames stay in order
    return [list(points) for _, points in groupby(ordered, key=lambda point: point.track)]


def _disagreement(
    timeline: list[TimelinePoint], tracks: list[TrackSummary], decision: DecisionSettings
) -> str:
    words = [judge_points(points, decision)[1] for points in _by_track(timeline)]
    fakes, reals = words.count("FAKE"), words.count("REAL")
    if not fakes or not reals:
        return ""
    top = max(tracks, key=lambda track: track.probability_fake)
    looks_fake = f"{fakes} of {len(tracks)} {'looks' if fakes == 1 else 'look'} fake"
    looks_real = f"{reals} {'looks' if reals == 1 else 'look'} real"
    which = f"track {top.track} with P(fake) {top.probability_fake:.2f}"
    return f"; the people disagree: {looks_fake} ({which}) and {looks_real}"
