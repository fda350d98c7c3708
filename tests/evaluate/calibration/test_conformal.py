from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from genconvit.config import DecisionSettings
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import judge
from genconvit.evaluate.calibration.conformal import (
    coverage_check,
    high_score,
    low_score,
    lowest_rate,
    undecided_band,
)
from genconvit.verdict import Verdict

RATES = st.floats(0.05, 0.45)
SCORES = st.lists(st.integers(0, 20).map(lambda x: x / 20), min_size=25, max_size=60)


def alone(p_fake: np.ndarray) -> np.ndarray:
    """Each clip a group of its own."""
    return np.arange(len(p_fake)).astype(str)


@given(SCORES, st.integers(4, 45))
def test_without_groups_the_quantiles_are_those_of_the_textbook(
    scores: list[float], percent: int
) -> None:
    p_fake, rate, more = np.array(scores), percent / 100, len(scores) + 1
    rank = percent * more // 100  # floor(rate * (N + 1)), without rounding
    assert low_score(p_fake, alone(p_fake), rate) == sorted(scores)[rank - 1]
    rank = -(-(100 - percent) * more // 100)  # ceil((1 - rate) * (N + 1))
    assert high_score(p_fake, alone(p_fake), rate) == sorted(scores)[rank - 1]


@given(SCORES, SCORES, RATES, st.one_of(st.none(), st.floats(0.01, 0.99)), st.integers(1, 3))
def test_a_band_holds_its_threshold_and_judges_few_of_its_own_clips_wrong(
    fakes: list[float], reals: list[float], rate: float, threshold: float | None, size: int
) -> None:
    p_fake = np.array([*fakes, *reals])
    is_fake = np.arange(len(p_fake)) < len(fakes)
    groups = (np.arange(len(p_fake)) // size).astype(str)
    needed = lowest_rate(min(len(np.unique(groups[is_fake])), len(np.unique(groups[~is_fake]))))
    if rate < needed:
        with pytest.raises(UserError, match=rf"--error-rate {rate:g} needs \d+ groups"):
            undecided_band(is_fake, p_fake, groups, rate, threshold)
        return
    chosen, band = undecided_band(is_fake, p_fake, groups, rate, threshold)
    decision = DecisionSettings(threshold=chosen, undecided_band=band)
    words = np.array([judge(p, decision) for p in p_fake])
    if size == 1:
        assert np.mean(words[is_fake] == "REAL") <= rate
        assert np.mean(words[~is_fake] == "FAKE") <= rate
    assert band[0] <= chosen <= band[1]
    assert threshold is None or chosen == threshold


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_scores_of_exactly_0_and_1_give_settings_that_are_valid(threshold: float) -> None:
    p_fake = np.array([1.0] * 12 + [threshold] * 12)
    is_fake = np.arange(24) < 12
    chosen, band = undecided_band(is_fake, p_fake, alone(p_fake), 0.2, threshold)
    decision = DecisionSettings(threshold=chosen, undecided_band=band)
    assert judge(threshold, decision) == "UNDECIDED"


def test_classes_that_are_apart_need_no_band() -> None:
    is_fake = np.arange(20) < 10
    for apart, threshold in ((0.6, 0.5), (0.2, 0.15)):
        p_fake = np.where(is_fake, apart, 0.1)
        expected = (pytest.approx(threshold), (pytest.approx(threshold),) * 2)
        assert undecided_band(is_fake, p_fake, alone(p_fake), 0.1) == expected
    stated = undecided_band(is_fake, np.where(is_fake, 0.3, 0.1), alone(p_fake), 0.1, 0.5)
    assert stated == (0.5, (0.3, 0.5))


@settings(max_examples=5)
@given(st.sampled_from([(12, 0.1), (30, 0.1), (60, 0.05), (60, 0.3)]), st.integers(0, 2**31))
def test_new_clips_are_judged_wrong_as_often_as_stated(case: tuple[int, float], seed: int) -> None:
    """By theory a new clip is below the k-th of n scores with probability k / (n + 1)."""
    n, rate = case
    rng = np.random.default_rng(seed)
    draws = 1000
    wrong_fake = wrong_real = 0
    for _ in range(draws):
        fake, real = rng.normal(1, 1, n + 1), rng.normal(-1, 1.5, n + 1)
        p_fake = 1 / (1 + np.exp(-np.concatenate([fake[1:], real[1:]])))
        _, band = undecided_band(np.arange(2 * n) < n, p_fake, alone(p_fake), rate)
        wrong_fake += 1 / (1 + np.exp(-fake[0])) < band[0]
        wrong_real += 1 / (1 + np.exp(-real[0])) > band[1]
    most = binom.ppf(1 - 1e-5, draws, math.floor(rate * (n + 1)) / (n + 1))
    assert wrong_fake <= most
    assert wrong_real <= most


def test_the_rate_is_met_and_not_just_undercut() -> None:
    rng = np.random.default_rng(0)
    wrong, draws, n, rate = 0, 4000, 29, 0.1
    for _ in range(draws):
        scores = rng.random(n + 1)
        wrong += scores[0] < low_score(scores[1:], alone(scores[1:]), rate)
    low, high = binom.ppf((1e-4, 1 - 1e-4), draws, 3 / 30)
    assert low <= wrong <= high


def people(rng: np.random.Generator, sizes: list[int]) -> tuple[np.ndarray, np.ndarray, float]:
    """Scores and groups of people with many or few clips each, and the score of another one's."""
    looks = rng.normal(0, 1, len(sizes) + 1)
    scores = np.repeat(looks[1:], sizes) + rng.normal(0, 0.1, sum(sizes))
    return scores, np.repeat(np.arange(len(sizes)), sizes).astype(str), looks[0]


def test_the_rate_holds_for_people_who_have_not_been_seen() -> None:
    rng = np.random.default_rng(0)
    wrong, draws, rate = 0, 2000, 0.2
    for _ in range(draws):
        scores, group, new = people(rng, [40, 20, 10, 5, 5, 1, 1, 1, 1])
        wrong += new < low_score(scores, group, rate)
    assert binom.ppf(1e-4, draws, 0.1) < wrong <= binom.ppf(1 - 1e-4, draws, rate)


def test_many_clips_of_few_people_do_not_allow_a_low_rate() -> None:
    """Counted as independent, sixty clips of four people would promise 10 % and give 20 %."""
    rng = np.random.default_rng(0)
    naive, draws = 0, 500
    for _ in range(draws):
        scores, group, new = people(rng, [15] * 4)
        naive += new < low_score(scores, alone(scores), 0.1)
    assert naive > binom.ppf(1 - 1e-4, draws, 0.1)
    both, is_fake = np.tile(scores, 2), np.arange(120) < 60
    with pytest.raises(UserError, match=r"needs 9 groups .* 4 with fake .*: give 0\.2 or more"):
        undecided_band(is_fake, both, np.tile(group, 2), 0.1)


def verdicts(words: dict[str, int]) -> list[Verdict]:
    return [
        Verdict(
            clip="a", verdict=word, probability_fake=0.5, reason="", frames_sampled=1,
            frames_with_face=1, tracks=[], timeline=[],
        )
        for word, count in words.items()
        for _ in range(count)
    ]  # fmt: skip


GROUPS = {"fake": 99, "real": 99}


def test_a_coverage_check_tells_chance_from_a_broken_promise() -> None:
    fakes = verdicts({"FAKE": 80, "UNDECIDED": 15, "REAL": 5})
    cases = {8: "it holds", 14: "no more than chance", 40: "does not hold"}
    for wrong, words in cases.items():
        judged = fakes + verdicts({"REAL": 100 - wrong, "FAKE": wrong})
        check = coverage_check(["fake"] * 100 + ["real"] * 100, judged, 0.1, GROUPS)
        assert check.fake is not None
        assert check.real is not None
        assert (check.fake.wrong, check.real.wrong) == (5, wrong)
        assert check.real.low < wrong / 100 < check.real.high
        assert check.holds is (wrong < 40)
        assert words in check.sentence


def test_few_calibration_clips_excuse_more_than_many() -> None:
    judged = verdicts({"REAL": 20, "FAKE": 80})
    labels = ["fake"] * 100
    many, few = (
        coverage_check(labels, judged, 0.1, {"fake": groups, "real": 9}) for groups in (1000, 10)
    )
    assert many.holds is False
    assert few.holds is True


def test_a_coverage_check_seldom_blames_a_detector_that_keeps_its_rate() -> None:
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        calibration, fresh = rng.random(19), rng.random(100)
        wrong = int(np.sum(fresh < low_score(calibration, alone(calibration), 0.1)))
        judged = verdicts({"REAL": wrong, "FAKE": 100 - wrong})
        check = coverage_check(["fake"] * 100, judged, 0.1, {"fake": 19, "real": 19})
        refused += check.holds is False
    assert refused <= binom.ppf(0.9999, 200, 0.025)


def test_clips_without_a_face_or_of_no_class_are_not_counted() -> None:
    faceless = verdicts({"UNDECIDED": 3})
    faceless = [verdict.model_copy(update={"probability_fake": None}) for verdict in faceless]
    check = coverage_check(["real"] * 3, faceless, 0.1, GROUPS)
    assert (check.fake, check.real, check.holds) == (None, None, None)
    assert "not checked" in check.sentence
