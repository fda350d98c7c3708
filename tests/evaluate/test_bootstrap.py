from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genconvit.evaluate.bootstrap import METRICS, Estimate, compare_variants
from genconvit.evaluate.metrics import clip_metrics
from genconvit.verdict import Verdict

# Two decimals: scores tie often. Words follow no threshold: they are given beside the score.
SCORE = st.integers(0, 100).map(lambda step: step / 100)
ANSWER = st.tuples(st.sampled_from(("FAKE", "REAL", "UNDECIDED")), st.none() | SCORE)
CLIP = st.tuples(st.sampled_from(("fake", "real")), ANSWER, ANSWER, ANSWER)


def verdict_of(word: str, p_fake: float | None) -> Verdict:
    return Verdict.model_validate(
        {
            "clip": "clip.mp4",
            "verdict": word,
            "probability_fake": p_fake,
            "reason": "",
            "frames_sampled": 1,
            "frames_with_face": 1,
            "tracks": [],
            "timeline": [],
        }
    )


def made_up(labels: list[str], gain: float, seed: int) -> list[Verdict]:
    """Verdicts that are the better, the higher `gain`."""
    rng = np.random.default_rng(seed)
    scores = [
        float(1 / (1 + np.exp(-gain * (1 if label == "fake" else -1) - rng.normal())))
        for label in labels
    ]
    return [verdict_of("FAKE" if score > 0.5 else "REAL", score) for score in scores]


def numbers(estimate: Estimate) -> tuple[float, float, float]:
    """Low end, value and high end of an estimate that is defined."""
    assert estimate.low is not None and estimate.value is not None and estimate.high is not None
    return estimate.low, estimate.value, estimate.high


LABELS = ["fake", "real"] * 60


@settings(max_examples=30, deadline=None)
@given(st.lists(CLIP, max_size=30))
def test_values_are_those_of_an_evaluation(clips: list) -> None:
    labels = [clip[0] for clip in clips]
    runs = [[verdict_of(*clip[run]) for clip in clips] for run in (1, 2, 3)]
    first, second = compare_variants(labels, [runs[:2], runs[2:]], draws=20)
    both = [clip_metrics(labels, run) for run in runs]
    for name in METRICS:
        decision = name in ("accuracy", "f1")
        values = [getattr(m.undecided_wrong if decision else m, name) for m in both]
        known = None not in values[:2]
        assert first.metrics[name].value == (fmean(values[:2]) if known else None)
        assert second.metrics[name].value == values[2]
        difference = second.differences[name].value
        if known and values[2] is not None:
            assert difference == values[2] - fmean(values[:2])
        else:
            assert difference is None


def test_intervals_lie_around_their_values_and_repeat() -> None:
    variants = [[made_up(LABELS, gain, seed) for seed in (0, 1)] for gain in (0.5, 0.8)]
    results = compare_variants(LABELS, variants)
    for result in results:
        for name in METRICS:
            low, value, high = numbers(result.metrics[name])
            assert low <= value <= high
            if name != "coverage":  # every clip is decided
                assert 0.01 < high - low < 0.3
    assert compare_variants(LABELS, variants) == results
    assert compare_variants(LABELS, variants, seed=1) != results


def test_more_clips_narrow_the_interval_as_theory_says() -> None:
    labels = ["fake", "real"] * 200
    verdicts = [verdict_of("FAKE" if i % 4 else "REAL", 0.5) for i in range(400)]
    (result,) = compare_variants(labels, [[verdicts]])
    low, value, high = numbers(result.metrics.accuracy)
    half = 1.96 * (value * (1 - value) / 400) ** 0.5
    assert high - low == pytest.approx(2 * half, rel=0.1)


def test_copies_of_clips_in_one_group_tell_nothing_new() -> None:
    labels = ["fake", "real"] * 30
    run = made_up(labels, 0.5, 0)
    (once,) = compare_variants(labels, [[run]])
    groups = [str(place) for place in range(60)]
    (grouped,) = compare_variants(labels * 4, [[run * 4]], groups * 4)
    (alone,) = compare_variants(labels * 4, [[run * 4]])
    assert grouped == once
    low, _, high = numbers(grouped.metrics.accuracy)
    alone_low, _, alone_high = numbers(alone.metrics.accuracy)
    assert high - low > 1.7 * (alone_high - alone_low)


def test_a_variant_does_not_differ_from_itself() -> None:
    run = made_up(LABELS, 0.5, 0)
    for result in compare_variants(LABELS, [[run], [run]]):
        for name in METRICS:
            difference = result.differences[name]
            assert difference == Estimate(value=0.0, low=0.0, high=0.0)
            assert not difference.excludes_zero


def test_a_clearly_better_variant_is_shown_to_be_better() -> None:
    good, poor = made_up(LABELS, 1.5, 0), made_up(LABELS, 0.1, 1)
    _, result = compare_variants(LABELS, [[poor], [good]])
    assert numbers(result.differences.auc)[0] > 0
    assert numbers(result.differences.eer)[2] < 0
    assert result.differences.auc.excludes_zero and result.differences.eer.excludes_zero


def test_pairs_make_differences_surer_than_their_parts() -> None:
    run = made_up(LABELS, 0.5, 0)
    nearly = [*run[:-4], *made_up(LABELS, 0.5, 3)[-4:]]
    first, second = compare_variants(LABELS, [[run], [nearly]])
    low, _, high = numbers(first.metrics.auc)
    difference_low, _, difference_high = numbers(second.differences.auc)
    assert difference_high - difference_low < (high - low) / 2


@pytest.mark.parametrize("labels", [["real"] * 5, ["fake"] * 5])
def test_one_class_has_no_auc(labels: list[str]) -> None:
    run = [verdict_of("REAL", score) for score in (0.1, 0.2, 0.3, 0.4, 0.5)]
    (result,) = compare_variants(labels, [[run]])
    assert result.metrics.auc == result.metrics.eer == result.differences.auc == Estimate()
    assert result.metrics.accuracy.value == (1.0 if labels[0] == "real" else 0.0)
    assert result.metrics.auc.text() == result.differences.auc.difference() == "undefined"


def test_draws_of_one_class_are_left_out() -> None:
    run = [verdict_of("FAKE", 0.9), verdict_of("REAL", 0.1)]
    (result,) = compare_variants(["fake", "real"], [[run]], draws=200)
    assert result.metrics.auc == Estimate(value=1.0, low=1.0, high=1.0)


def test_no_clips_and_no_scores_are_undefined() -> None:
    assert compare_variants([], [[[]]])[0].metrics.accuracy == Estimate()
    run = [verdict_of("UNDECIDED", None)] * 2
    (result,) = compare_variants(["fake", "real"], [[run]], draws=50)
    assert result.metrics.auc == Estimate()
    assert result.metrics.coverage == Estimate(value=0.0, low=0.0, high=0.0)


def test_estimates_are_short_to_read() -> None:
    assert Estimate(value=0.8432, low=0.79, high=0.894).text() == "0.843 [0.79, 0.89]"
    assert Estimate(value=0.8432).text() == "0.843"
    assert Estimate(value=0.03, low=-0.01, high=0.07).difference() == "+0.030 [-0.010, +0.070]"


def test_clips_of_one_group_show_no_difference() -> None:
    labels = ["fake", "real"] * 5
    variants = [[made_up(labels, gain, seed)] for seed, gain in enumerate((0.0, 1.0))]
    _, second = compare_variants(labels, variants, ["g"] * 10)
    assert second.differences.auc.value is not None
    assert not second.differences.auc.excludes_zero
    assert second.differences.auc.low is None
