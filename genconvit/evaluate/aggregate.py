"""From the scores of a clip's crops to its verdict."""

from __future__ import annotations

from itertools import groupby, pairwise
from statistics import fmean, median
from typing import Literal

from genconvit.config import DecisionSettings
from genconvit.verdict import TimelinePoint, TrackSummary, Verdict

Word = Literal["FAKE", "REAL", "UNDECIDED"]


def decide(
    clip: str, points: list[TimelinePoint], frames_sampled: int, decision: DecisionSettings
) -> Verdict:
    """Judges one clip or still image.

    Args:
        clip: Name of the clip as the user gave it.
        points: One point a crop, in any order. Empty where no face was found.
        frames_sampled: Frames that were looked at, with or without a face.
        decision: Threshold and margin.

    Returns:
        The verdict, its timeline ordered by frame, then track. Its reason says so where one person
        of the clip would be FAKE and another REAL.
    """
    timeline = sorted(points, key=lambda point: (point.frame_index, point.track))
    tracks = _summaries(timeline)
    seen = len({point.frame_index for point in timeline})
    if not timeline:
        word: Word = "UNDECIDED"
        p_fake = None
        reason = f"no face was found in {_count(frames_sampled, 'sampled frame')}"
    else:
        p_fake = clip_probability(timeline)
        word = judge(p_fake, decision)
        if word == "UNDECIDED":
            reason = (
                f"P(fake) {p_fake:.2f} is within {decision.undecided_margin:.2f} "
                f"of the threshold {decision.threshold:.2f}"
            )
        else:
            people = "1 person" if len(tracks) == 1 else f"{len(tracks)} people"
            reason = (
                f"mean P(fake) {p_fake:.2f} over {_count(len(timeline), 'face')} "
                f"in {seen} of {_count(frames_sampled, 'frame')}; {people}"
            )
        reason += _disagreement(tracks, decision)
    return Verdict(
        clip=clip,
        verdict=word,
        probability_fake=p_fake,
        reason=reason,
        frames_sampled=frames_sampled,
        frames_with_face=seen,
        tracks=tracks,
        timeline=timeline,
    )


def judge(p_fake: float, decision: DecisionSettings) -> Word:
    """The word for one score: FAKE above the margin, REAL below it, else UNDECIDED."""
    if p_fake > decision.threshold + decision.undecided_margin:
        return "FAKE"
    if p_fake < decision.threshold - decision.undecided_margin:
        return "REAL"
    return "UNDECIDED"


def clip_probability(points: list[TimelinePoint]) -> float:
    """P(fake) of a clip: the mean over all its crops. `points` is not empty."""
    return fmean(point.probability_fake for point in points)


def frame_step(timeline: list[TimelinePoint]) -> float | None:
    """Usual time between two sampled frames, seconds; None where there is only one.

    A pause in a track that is clearly longer than this is a gap: its face was not seen there.
    """
    times = sorted({point.time_s for point in timeline})
    return median(later - earlier for earlier, later in pairwise(times)) if times[1:] else None


def _summaries(timeline: list[TimelinePoint]) -> list[TrackSummary]:
    by_track = sorted(timeline, key=lambda point: point.track)  # stable: frames stay in order
    summaries = []
    for track, group in groupby(by_track, key=lambda point: point.track):
        points = list(group)
        summaries.append(
            TrackSummary(
                track=track,
                first_s=points[0].time_s,
                last_s=points[-1].time_s,
                crops=len(points),
                probability_fake=clip_probability(points),
            )
        )
    return summaries


def _disagreement(tracks: list[TrackSummary], decision: DecisionSettings) -> str:
    words = [judge(track.probability_fake, decision) for track in tracks]
    fakes, reals = words.count("FAKE"), words.count("REAL")
    if not fakes or not reals:
        return ""
    top = max(tracks, key=lambda track: track.probability_fake)
    looks_fake = f"{fakes} of {len(tracks)} {'looks' if fakes == 1 else 'look'} fake"
    looks_real = f"{reals} {'looks' if reals == 1 else 'look'} real"
    which = f"track {top.track} with P(fake) {top.probability_fake:.2f}"
    return f"; the people disagree: {looks_fake} ({which}) and {looks_real}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
