from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import decide
from genconvit.evaluate.localisation.intervals import (
    LEAST_S,
    find_intervals,
    smoothed,
    spans_text,
    union,
)
from genconvit.verdict import Interval, TimelinePoint, Verdict

STEP_S = 0.25
BAND = (0.45, 0.55)
SCORES = st.floats(0.0, 1.0)
TRACKS = st.dictionaries(
    st.integers(0, 2),
    st.dictionaries(st.integers(0, 40), SCORES, min_size=1),
    min_size=1,
)
"""Scores by frame by track."""


def points_of(tracks: dict[int, dict[int, float]], step_s: float = STEP_S) -> list[TimelinePoint]:
    points = [
        TimelinePoint(
            time_s=frame * step_s,
            frame_index=frame,
            track=track,
            box=(0, 0, 9, 9),
            probability_fake=p_fake,
        )
        for track, scores in tracks.items()
        for frame, p_fake in scores.items()
    ]
    return sorted(points, key=lambda point: (point.frame_index, point.track))


def verdict_of(scores: list[float], step_s: float = STEP_S, **decision: object) -> Verdict:
    points = points_of({0: dict(enumerate(scores))}, step_s)
    return decide("c.mp4", points, len(scores), DecisionSettings(**decision))


@given(TRACKS)
def test_intervals_lie_in_the_clip_apart_from_each_other_and_are_long_enough(
    tracks: dict[int, dict[int, float]],
) -> None:
    points = points_of(tracks)
    found = find_intervals(points, STEP_S, BAND)
    for track in tracks:
        times = [point.time_s for point in points if point.track == track]
        own = [each for each in found if each.track == track]
        last = -1.0
        for each in own:
            assert times[0] <= each.start_s < each.end_s <= times[-1]
            assert each.end_s - each.start_s >= LEAST_S
            assert each.start_s > last
            assert each.peak >= each.probability_fake - 1e-9
            last = each.end_s


@given(TRACKS, st.floats(0.0, 1.0))
def test_what_looks_manipulated_still_does_where_scores_rise(
    tracks: dict[int, dict[int, float]], share: float
) -> None:
    raised = {
        track: {frame: p + share * (1 - p) for frame, p in scores.items()}
        for track, scores in tracks.items()
    }
    before = find_intervals(points_of(tracks), STEP_S, BAND)
    # A hair's breadth lower, so that rounding alone moves nothing over an edge of the band.
    after = find_intervals(points_of(raised), STEP_S, (BAND[0] - 1e-9, BAND[1] - 1e-9))
    for each in before:
        assert any(
            wide.track == each.track and wide.start_s <= each.start_s and each.end_s <= wide.end_s
            for wide in after
        )


@given(SCORES, st.lists(st.floats(0.01, 3.0), min_size=1, max_size=30))
def test_smoothing_keeps_a_constant(p_fake: float, steps: list[float]) -> None:
    times = np.cumsum(steps)
    assert smoothed(times, np.full(len(times), p_fake)) == pytest.approx(p_fake)


@given(st.lists(SCORES, min_size=1, max_size=200))
def test_smoothing_is_the_weighted_mean_of_all_frames(scores: list[float]) -> None:
    times = np.arange(len(scores)) * 0.1
    weights = np.exp(-0.5 * ((times[:, None] - times) / 0.4) ** 2)
    np.testing.assert_allclose(
        smoothed(times, scores), weights @ scores / weights.sum(axis=1), atol=1e-3
    )


def test_a_forged_part_is_found_and_the_reason_tells_of_it() -> None:
    verdict = verdict_of([0.05] * 12 + [0.95] * 8 + [0.05] * 12)
    [interval] = verdict.intervals
    assert (interval.start_s, interval.end_s) == pytest.approx((2.875, 4.875), abs=STEP_S)
    assert interval.peak == 0.95
    assert verdict.verdict == "REAL"
    assert verdict.reason.endswith("1 person; looks manipulated from 2.9 s to 4.9 s")


def test_hysteresis_holds_an_interval_over_what_is_not_surely_real() -> None:
    wavering = [0.1] * 8 + [0.9] * 6 + [0.5] * 6 + [0.9] * 6 + [0.1] * 8
    assert len(verdict_of(wavering).intervals) == 1
    assert len(verdict_of(wavering, undecided_margin=0.0, threshold=0.55).intervals) == 2
    assert verdict_of([0.1] * 8 + [0.5] * 8 + [0.1] * 8).intervals == []


def test_one_frame_is_no_interval() -> None:
    assert verdict_of([0.05] * 10 + [1.0] + [0.05] * 10, step_s=0.9).intervals == []


def test_a_gap_is_not_bridged() -> None:
    scores = dict.fromkeys((*range(8), *range(20, 28)), 0.9)
    found = find_intervals(points_of({0: scores}), STEP_S, BAND)
    assert [(each.start_s, each.end_s) for each in found] == [(0.0, 1.75), (5.0, 6.75)]


def test_a_clip_that_looks_manipulated_throughout_needs_no_times_in_its_reason() -> None:
    verdict = verdict_of([0.9] * 20)
    [interval] = verdict.intervals
    assert (interval.start_s, interval.end_s) == (0.0, 4.75)
    assert "looks manipulated" not in verdict.reason


@pytest.mark.parametrize("step_s", [1.01, 5.0])
def test_none_are_made_up_between_frames_that_lie_far_apart(step_s: float) -> None:
    assert verdict_of([0.9] * 20, step_s).intervals == []


def test_still_images_and_the_published_aggregation_have_none() -> None:
    assert verdict_of([0.9]).intervals == []
    points = [
        point.model_copy(update={"sigmoids": (0.9, 0.1)})
        for point in points_of({0: dict.fromkeys(range(20), 0.9)})
    ]
    assert decide("c", points, 20, DecisionSettings(aggregation="original")).intervals == []


def test_scores_are_read_through_the_isotonic_map() -> None:
    """0.3 means surely fake here."""
    scores = [0.1] * 10 + [0.3] * 10
    assert verdict_of(scores).intervals == []
    [interval] = verdict_of(scores, isotonic=((0.1, 0.0), (0.3, 1.0))).intervals
    assert interval.peak == 1.0


def test_a_verdict_that_was_stored_before_there_were_intervals_still_loads() -> None:
    stored = verdict_of([0.9] * 20).model_dump()
    del stored["intervals"]
    assert Verdict.model_validate(stored).intervals == []


SPANS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 9)).map(lambda s: (s[0], s[0] + s[1]))
)


@given(SPANS)
def test_a_union_is_the_same_time_without_overlap(spans: list[tuple[int, int]]) -> None:
    joined = union(spans)
    covered = {t for start, end in spans for t in range(start, end)}
    assert sorted(t for start, end in joined for t in range(int(start), int(end))) == sorted(
        covered
    )
    assert all(a[1] < b[0] for a, b in pairwise(joined))


def test_many_intervals_are_counted() -> None:
    found = [
        Interval(start_s=s, end_s=s + 1, track=0, probability_fake=0.9, peak=0.9)
        for s in (1, 3, 5, 7, 65)
    ]
    assert spans_text(found[:1]) == "from 1.0 s to 2.0 s"
    assert spans_text(found[:2]) == "from 1.0 s to 2.0 s and from 3.0 s to 4.0 s"
    assert spans_text(found) == (
        "from 1.0 s to 2.0 s, from 3.0 s to 4.0 s, from 5.0 s to 6.0 s and in 2 more intervals"
    )
