"""One score of a clip, from those of its crops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genconvit.config import DecisionSettings
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import judge_points
from genconvit.evaluate.clip_score import AGGREGATIONS, clip_score
from genconvit.overrides import Assignment, resolve_settings
from genconvit.verdict import TimelinePoint

CROPS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9)), min_size=1, max_size=40)


@given(CROPS, st.sampled_from(sorted(AGGREGATIONS)), st.randoms())
def test_a_score_lies_among_those_of_the_crops_and_depends_on_no_order(
    crops: list[tuple[float, int]], aggregation: str, random: object
) -> None:
    score = clip_score(*zip(*crops, strict=True), aggregation)
    p_fakes = [p_fake for p_fake, _ in crops]
    assert min(p_fakes) - 1e-12 <= score <= max(p_fakes) + 1e-12
    random.shuffle(crops)  # type: ignore[attr-defined]
    assert clip_score(*zip(*crops, strict=True), aggregation) == score


@given(CROPS)
def test_max_is_the_mean_over_frames_of_the_fakest_face(crops: list[tuple[float, int]]) -> None:
    by_frame: dict[int, float] = {}
    for p_fake, frame in crops:
        by_frame[frame] = max(p_fake, by_frame.get(frame, 0.0))
    expected = np.mean(list(by_frame.values()))
    assert clip_score(*zip(*crops, strict=True), "max") == pytest.approx(expected)


def test_top_k_looks_at_the_highest_and_at_all_where_there_are_fewer() -> None:
    assert clip_score([0.1, 0.9, 0.7], [0, 1, 2], "top_k", 2) == pytest.approx(0.8)
    assert clip_score([0.1, 0.9], [0, 1], "top_k", 5) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("p_fakes", "expected"),
    [
        ([0.9] * 12 + [0.5] * 12, 0.9),  # half of them and 12 are sure
        ([0.9] * 11 + [0.5] * 11, 0.7),  # 11 are too few
        ([0.9] * 12 + [0.5] * 20, 0.65),  # 37 % are too few
        ([0.1] * 19 + [0.9], 0.1),  # 95 % are surely real
        ([0.1] * 18 + [0.9] * 2, 0.18),  # 90 % are not more than 90 %
    ],
)
def test_confident_heeds_the_sure_crops(p_fakes: list[float], expected: float) -> None:
    assert clip_score(p_fakes, range(len(p_fakes)), "confident") == pytest.approx(expected)


def points(*p_fakes: float) -> list[TimelinePoint]:
    return [
        TimelinePoint(time_s=i, frame_index=i, track=0, box=(0, 0, 9, 9), probability_fake=p_fake)
        for i, p_fake in enumerate(p_fakes)
    ]


def test_isotonic_maps_a_clips_score_and_the_band_judges_what_comes_out() -> None:
    decision = DecisionSettings(
        isotonic=((0.2, 0.0), (0.4, 0.5), (0.8, 1.0)), undecided_band=(0.3, 0.6)
    )
    assert judge_points(points(0.2, 0.4), decision) == (pytest.approx(0.25), "REAL")
    assert judge_points(points(0.4), decision) == (0.5, "UNDECIDED")
    assert judge_points(points(0.9), decision) == (1.0, "FAKE")


def test_what_was_fitted_for_one_aggregation_is_not_taken_over_to_another() -> None:
    fitted = DecisionSettings(threshold=0.4, undecided_band=(0.3, 0.6), isotonic=((0.0, 0.1),))
    base = resolve_settings().model_copy(update={"decision": fitted})
    median = resolve_settings(
        None, [Assignment("decision.aggregation", "median", "--aggregation median")], base
    )
    assert median.decision == DecisionSettings(aggregation="median")
    moved = resolve_settings(
        None, [Assignment("decision.threshold", "0.7", "--threshold 0.7")], base
    )
    assert moved.decision.band == (pytest.approx(0.65), pytest.approx(0.75))
    assert moved.decision.isotonic == fitted.isotonic


@pytest.mark.parametrize(
    ("name", "value"),
    [("undecided_band", "[0.6, 0.9]"), ("isotonic", "[[0.5, 0.2], [0.4, 0.3]]")],
)
def test_a_band_beside_its_threshold_and_a_falling_map_are_refused(name: str, value: str) -> None:
    with pytest.raises(UserError, match=name):
        resolve_settings(None, [Assignment(f"decision.{name}", value, name)])


def test_another_k_has_another_calibration() -> None:
    fitted = DecisionSettings(aggregation="top_k", threshold=0.4, undecided_band=(0.3, 0.6))
    base = resolve_settings().model_copy(update={"decision": fitted})

    def with_k(k: str) -> DecisionSettings:
        given = [Assignment("decision.top_k", k, f"--top-k {k}")]
        return resolve_settings(None, given, base).decision

    assert with_k("10") == fitted
    assert with_k("3") == DecisionSettings(aggregation="top_k", top_k=3)
