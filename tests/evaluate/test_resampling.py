from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import binom, spearmanr

from genconvit.evaluate.metrics import binary_scores
from genconvit.evaluate.resampling import (
    DRAWN,
    drawn_counts,
    group_index,
    measured_scores,
    measured_share,
    resampled_figures,
    resampled_scores,
    resampled_spearman,
)
from genconvit.evaluate.score_metrics import score_metrics

# Two decimals: scores tie often.
SCORE = st.integers(0, 100).map(lambda step: step / 100)
PAIRS = st.lists(st.tuples(st.booleans(), SCORE), min_size=1, max_size=30)


@settings(max_examples=40)
@given(st.lists(st.tuples(SCORE, SCORE), min_size=2, max_size=30), st.integers(0, 2**32))
def test_a_draw_is_correlated_like_the_clips_in_it(pairs: list, seed: int) -> None:
    x, y = np.array(pairs, dtype=float).T
    counts = np.random.default_rng(seed).integers(0, 4, (5, len(pairs)))
    for count, found in zip(counts, resampled_spearman(x, y, counts), strict=True):
        drawn = np.repeat(x, count), np.repeat(y, count)
        if min(len(set(values)) for values in drawn) < 2:
            assert np.isnan(found)
        else:
            assert found == pytest.approx(spearmanr(*drawn).statistic, abs=1e-9)


@settings(max_examples=40)
@given(PAIRS, st.integers(0, 2**32))
def test_a_draw_is_scored_like_the_clips_in_it(pairs: list, seed: int) -> None:
    is_fake = np.array([pair[0] for pair in pairs], dtype=bool)
    p_fake = np.array([pair[1] for pair in pairs], dtype=float)
    counts = np.random.default_rng(seed).integers(0, 4, (5, len(pairs)))
    auc, eer = resampled_scores(is_fake, p_fake, counts)
    figures = resampled_figures(is_fake, p_fake, counts, 0.4)
    for draw, count in enumerate(counts):
        labels, scores = np.repeat(is_fake, count), np.repeat(p_fake, count)
        whole = score_metrics(labels, scores, 0.4)
        known = binary_scores(labels, scores)
        pairs_found = [(figures[name][draw], getattr(whole, name)) for name in DRAWN]
        for ours, expected in [*pairs_found, (auc[draw], known["auc"]), (eer[draw], known["eer"])]:
            if expected is None:
                assert np.isnan(ours)
            else:
                assert ours == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=12))
def test_groups_are_drawn_whole(groups: list[str]) -> None:
    index = group_index(groups)
    total = len(set(groups) - {""}) + groups.count("")
    assert index.max() + 1 == total
    for counts in drawn_counts(groups, draws=20):
        for row in counts:
            kept = {(number, count) for number, count in zip(index, row, strict=True)}
            assert len(kept) == total  # all clips of a group as often
            assert sum(count for _, count in kept) == total


def clips(
    rng: np.random.Generator, groups: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64], list[str]]:
    """Scores of groups of four, real or fake as a whole, that are alike in what makes them hard."""
    is_fake = (np.arange(groups) % 2 == 0).repeat(4)
    shift = rng.normal(0, 1, groups).repeat(4)
    scores = expit(1.2 * (2 * is_fake - 1) + shift + rng.normal(0, 0.7, is_fake.size))
    return is_fake, scores, [str(group) for group in np.arange(groups).repeat(4)]


NAMES = ("auc", "average_precision", "eer", "accuracy", "log_loss", "brier", "mcc")


def test_intervals_cover_at_their_rate_if_groups_are_drawn_whole() -> None:
    rng = np.random.default_rng(5)
    is_fake, p_fake, _ = clips(rng, 50_000)
    truth = score_metrics(is_fake, p_fake)
    runs, covered, naive = 100, dict.fromkeys(NAMES, 0), 0
    for run in range(runs):
        is_fake, p_fake, groups = clips(rng, 60)
        found = measured_scores(is_fake, p_fake, groups, draws=200, seed=run)
        alone = measured_scores(is_fake, p_fake, [""] * len(groups), draws=200, seed=run)
        for name in NAMES:
            low, high = found.intervals[name]
            covered[name] += low <= getattr(truth, name) <= high
        low, high = alone.intervals["brier"]
        naive += low <= (truth.brier or 0) <= high
    least = binom.ppf(0.0005, runs, 0.95)
    assert min(covered.values()) >= least, covered
    assert naive < least  # clips that are alike are no independent evidence


def test_intervals_hold_their_values_and_repeat() -> None:
    is_fake, p_fake, groups = clips(np.random.default_rng(0), 40)
    found = measured_scores(is_fake, p_fake, groups)
    assert found.groups == 40
    assert found.intervals.keys() == set(DRAWN)
    for name, (low, high) in found.intervals.items():
        assert low <= getattr(found, name) <= high
    assert measured_scores(is_fake, p_fake, groups) == found
    assert measured_scores(is_fake, p_fake, groups, seed=1).intervals != found.intervals


def test_few_groups_are_told_of() -> None:
    found = measured_scores([1, 1, 0, 0], [0.9, 0.8, 0.2, 0.6], ["a", "a", "b", "b"])
    assert "The intervals rest on 2 groups and are too narrow." in found.notes


def test_one_group_has_no_interval() -> None:
    found = measured_scores([1, 1, 0, 0], [0.9, 0.8, 0.2, 0.6], ["a"] * 4)
    assert (found.auc, found.groups, found.intervals) == (1.0, 1, {})
    assert "All clips are of one group" in " ".join(found.notes)
    assert measured_scores([], [], []).groups == 0
    part = np.array([True, False])
    assert measured_share(part, ~part | part, ["a", "a"]).low is None


def test_a_share_has_the_interval_of_a_binomial() -> None:
    part = np.arange(400) % 4 == 0
    whole = np.ones(400, dtype=bool)
    found = measured_share(part, whole, [""] * 400)
    half = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert found.low is not None and found.high is not None
    assert found.value == 0.25
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert measured_share(part, ~whole, [""] * 400).value is None


def test_one_group_alone_shows_no_difference() -> None:
    counts = np.concatenate(list(drawn_counts(["g"] * 5, draws=10)))
    assert counts.shape == (0, 5)
