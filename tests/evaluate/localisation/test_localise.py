from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from genconvit.config import DecisionSettings
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import decide
from genconvit.evaluate.localisation.localise import (
    iou,
    localisation_scores,
)
from genconvit.evaluate.localisation.splice import SplicedClip
from genconvit.verdict import TimelinePoint, Verdict

SPANS = st.lists(
    st.tuples(st.floats(0, 20), st.floats(0.1, 5)).map(lambda s: (s[0], s[0] + s[1])), max_size=4
)


@given(SPANS, SPANS)
def test_iou_is_symmetric_and_a_share(
    first: list[tuple[float, float]], second: list[tuple[float, float]]
) -> None:
    found = iou(first, second)
    assert 0 <= found <= 1 + 1e-9
    assert found == pytest.approx(iou(second, first))
    assert iou(first, first) == pytest.approx(1)


def test_iou_of_half_of_a_part() -> None:
    assert iou([(1, 2)], [(1, 3)]) == pytest.approx(0.5)
    assert iou([(1, 2), (1.5, 3)], [(2, 4)]) == pytest.approx(1 / 3)  # its own overlap counts once
    assert iou([], [(1, 2)]) == 0


def verdict_of(p_fakes: list[float], step_s: float = 0.2) -> Verdict:
    points = [
        TimelinePoint(
            time_s=i * step_s, frame_index=i, track=0, box=(0, 0, 9, 9), probability_fake=p_fake
        )
        for i, p_fake in enumerate(p_fakes)
    ]
    return decide("a.avi", points, len(points), DecisionSettings())


def truth(*forged: tuple[float, float], duration_s: float = 10.0) -> SplicedClip:
    return SplicedClip(Path("a.avi"), forged, duration_s)


def noisy(start: float, end: float, noise: float, rng: np.random.Generator) -> Verdict:
    times = np.arange(50) * 0.2
    clean = np.where((times >= start) & (times < end), 0.8, 0.2)
    return verdict_of(list(np.clip(clean + rng.normal(0, noise, 50), 0, 1)))


def test_who_sees_the_forged_part_scores_well_and_who_guesses_does_not() -> None:
    rng = np.random.default_rng(0)
    spans = [(float(s), float(s) + 4) for s in rng.uniform(0.5, 5, 20)]
    truths = [truth(span) for span in spans]
    good = localisation_scores(truths, [noisy(*span, 0.1, rng) for span in spans])
    assert good.frame_auc.value is not None and good.frame_auc.value > 0.95
    assert good.iou.value is not None and good.iou.value > 0.85
    assert good.detection_rate.value == 1.0
    assert good.iou_of_all == pytest.approx(0.4)
    guess = localisation_scores(
        truths, [verdict_of(list(rng.uniform(0, 1, 50))) for _ in spans], seed=1
    )
    assert guess.frame_auc.low is not None and guess.frame_auc.high is not None
    assert guess.frame_auc.low < 0.5 < guess.frame_auc.high
    assert guess.iou.high is not None and good.iou.low is not None
    assert guess.iou.high < good.iou.low


def test_frame_auc_is_that_of_scikit_learn_over_all_frames() -> None:
    rng = np.random.default_rng(1)
    truths = [truth((2.0, 5.0)), truth((4.0, 8.0))]
    verdicts = [noisy(2, 5, 0.5, rng), noisy(4, 8, 0.5, rng)]
    labels, scores = [], []
    for clip, verdict in zip(truths, verdicts, strict=True):
        [(start, end)] = clip.forged
        labels += [start <= point.time_s < end for point in verdict.timeline]
        scores += [point.probability_fake for point in verdict.timeline]
    found = localisation_scores(truths, verdicts)
    assert found.frames == 100
    assert found.frame_auc.value == pytest.approx(roc_auc_score(labels, scores))


def test_clips_of_one_group_are_drawn_together() -> None:
    """Ten copies of one clip promise no more than it does alone."""
    rng = np.random.default_rng(2)
    verdicts = [noisy(2, 6, 0.1, rng), noisy(2, 6, 0.6, rng)] * 10
    alone = localisation_scores([truth((2.0, 6.0))] * 20, verdicts)
    grouped = [replace(truth((2.0, 6.0)), group=f"g{i % 2}") for i in range(20)]
    together = localisation_scores(grouped, verdicts)
    assert together.iou.value == alone.iou.value
    widths = [
        found.iou.high - found.iou.low
        for found in (together, alone)
        if found.iou.low is not None and found.iou.high is not None
    ]
    assert widths[0] > 2 * widths[1]


def test_pooled_iou_and_detections_count_seconds_and_parts() -> None:
    truths = [truth((2.0, 6.0)), truth((1.0, 2.0), (5.0, 9.0))]
    verdicts = [verdict_of([0.0] * 50), verdict_of([0.0] * 25 + [1.0] * 20 + [0.0] * 5)]
    scores = localisation_scores(truths, verdicts)
    [(start, end)] = scores.results[1].found
    shared = min(end, 9) - max(start, 5)
    union_s = (end - start) + 5 - shared
    assert scores.iou.value == pytest.approx((0 + shared / union_s) / 2)
    assert scores.iou_pooled.value == pytest.approx(shared / (4 + union_s))
    assert scores.detection_rate.value == pytest.approx(1 / 3)


def test_clips_that_were_not_searched_are_counted() -> None:
    scores = localisation_scores([truth((2.0, 6.0))], [verdict_of([0.9] * 5, 2.0)])
    assert scores.not_searched == 1
    assert scores.iou.value == 0.0


def test_a_clip_without_a_face_found_nothing() -> None:
    verdict = decide("sky.mp4", [], 50, DecisionSettings())
    scores = localisation_scores([truth((2.0, 6.0))], [verdict])
    assert (scores.frames, scores.frame_auc.value, scores.iou.value) == (0, None, 0.0)


def test_no_clip_at_all_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match=r"no spliced clip.*damaged"):
        localisation_scores([], [], ["a.mp4 is damaged"])
