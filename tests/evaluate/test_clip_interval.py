from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import judge_points
from genconvit.evaluate.clip_interval import clip_interval
from genconvit.verdict import TimelinePoint


def points_of(scores: list[float], faces: int = 1) -> list[TimelinePoint]:
    return [
        TimelinePoint(
            time_s=i // faces,
            frame_index=i // faces,
            track=i % faces,
            box=(0, 0, 9, 9),
            probability_fake=score,
            sigmoids=(score, 1 - score),
        )
        for i, score in enumerate(scores)
    ]


@pytest.mark.parametrize("aggregation", ["mean", "median", "top_k", "max", "confident", "original"])
@given(scores=st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_it_lies_within_what_single_frames_say(aggregation: str, scores: list[float]) -> None:
    low, high = clip_interval(points_of(scores), DecisionSettings(aggregation=aggregation))
    assert min(scores) - 1e-9 <= low <= high <= max(scores) + 1e-9 or aggregation == "original"
    assert 0 <= low <= high <= 1


def test_equal_frames_leave_no_doubt() -> None:
    assert clip_interval(points_of([0.25] * 8), DecisionSettings()) == (0.25, 0.25)


def test_one_frame_says_nothing_of_others() -> None:
    assert clip_interval(points_of([0.2, 0.9], faces=2), DecisionSettings()) is None
    assert clip_interval([], DecisionSettings()) is None


def test_it_is_as_wide_as_theory_has_it() -> None:
    scores = np.random.default_rng(1).uniform(0.2, 0.8, 400).tolist()
    low, high = clip_interval(points_of(scores), DecisionSettings())
    expected = 2 * 1.96 * np.std(scores) / np.sqrt(len(scores))
    assert high - low == pytest.approx(expected, rel=0.25)


def test_it_contains_the_verdict_of_the_frames_there_are() -> None:
    scores = np.random.default_rng(2).beta(2, 2, 60).tolist()
    for aggregation in ("mean", "median", "max"):
        decision = DecisionSettings(aggregation=aggregation)
        points = points_of(scores, faces=2)
        low, high = clip_interval(points, decision)
        assert low < judge_points(points, decision)[0] < high


@given(scores=st.lists(st.floats(0, 1), min_size=4, max_size=20))
def test_the_short_way_for_the_mean_is_the_long_way_for_all_crops(scores: list[float]) -> None:
    points = points_of(scores, faces=2)
    every = DecisionSettings(aggregation="top_k", top_k=100_000)
    assert clip_interval(points, DecisionSettings()) == pytest.approx(
        clip_interval(points, every), abs=1e-9
    )
