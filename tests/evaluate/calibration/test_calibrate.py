from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from genconvit.config import DecisionSettings
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import calibrated, judge
from genconvit.evaluate.calibration.calibrate import (
    Calibrated,
    Clips,
    LabelledClip,
    Plan,
    calibrate,
)
from genconvit.evaluate.calibration.reliability import calibration_error

MEAN = DecisionSettings()


def draw(
    seed: int,
    clips: int,
    *,
    share: float = 0.5,
    temperature: float = 1.0,
    crops: int = 1,
    separation: float = 2.0,
) -> list[LabelledClip]:
    """Clips whose evidence is known: logits of P(fake) at even odds, times a temperature."""
    rng = np.random.default_rng(seed)
    drawn = []
    for place in range(clips):
        is_fake = bool(rng.random() < share)
        # Two normal distributions one apart in mean by d have the log odds d * x.
        x = rng.normal((0.5 if is_fake else -0.5) * separation, 1)
        z_N = np.full(crops, separation * x * temperature)
        drawn.append(
            LabelledClip(
                f"{place:05d}", is_fake, str(place), np.stack([z_N, 0 * z_N], 1), np.arange(crops)
            )
        )
    return drawn  # fmt: skip


def apply(found: Calibrated, clips: list[LabelledClip]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and P(fake) of clips by a calibration."""
    assert found.calibration.fit is not None
    fresh = Clips(clips, found.decision)
    scores = fresh.scores(found.calibration.temperature)
    return fresh.is_fake, np.array([calibrated(score, found.decision) for score in scores])


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
@pytest.mark.parametrize("temperature", [0.4, 3.0])
def test_calibration_brings_fresh_clips_nearer_to_the_truth(
    method: str, temperature: float
) -> None:
    found = calibrate(draw(0, 400, temperature=temperature), MEAN, Plan(method), "d")
    fresh = draw(1, 2000, temperature=temperature)
    is_fake, p_fake = apply(found, fresh)
    raw = Clips(fresh, MEAN).scores(1.0)
    best = log_loss(is_fake, Clips(fresh, MEAN).scores(temperature))
    assert calibration_error(is_fake, p_fake) < 0.5 * calibration_error(is_fake, raw)
    assert log_loss(is_fake, p_fake) < log_loss(is_fake, raw)
    assert log_loss(is_fake, p_fake) < best + 0.03
    assert brier_score_loss(is_fake, p_fake) < brier_score_loss(is_fake, raw)
    fit = found.calibration.fit
    assert fit is not None
    assert fit.after is not None
    assert fit.after.log_loss < fit.before.log_loss
    assert fit.after.log_loss == pytest.approx(log_loss(is_fake, p_fake), abs=0.05)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    found = calibrate(draw(0, 1000, temperature=temperature), MEAN, Plan(), "d")
    assert found.calibration.temperature == pytest.approx(temperature, rel=0.15)
    assert found.notes == []


def test_scores_without_calibration_stay_as_they_are() -> None:
    clips = draw(0, 200, temperature=3.0)
    found = calibrate(clips, MEAN, Plan("none"), "d")
    _, p_fake = apply(found, clips)
    assert p_fake.tolist() == Clips(clips, MEAN).scores(1.0).tolist()
    assert found.calibration.fit is not None
    assert found.calibration.fit.before == found.calibration.fit.after


def test_the_classes_weigh_as_in_use_and_not_as_among_the_clips() -> None:
    """Nine in ten are fake where it is fitted, and one in five where it is used."""
    clips, fresh = draw(0, 1500, share=0.9), draw(1, 1500, share=0.2)
    used = calibrate(clips, MEAN, Plan("isotonic", prevalence=0.2), "d")
    as_fitted = calibrate(clips, MEAN, Plan("isotonic", prevalence=0.9), "d")
    errors = [calibration_error(*apply(found, fresh)) for found in (used, as_fitted)]
    assert errors[0] < 0.06 < 0.2 < errors[1]


def test_the_threshold_of_a_stated_cost_is_the_cheapest() -> None:
    clips, fresh = draw(0, 600), draw(1, 3000)
    for cost in (0.2, 1.0, 5.0):
        found = calibrate(clips, MEAN, Plan(cost_ratio=cost), "d")
        assert found.decision.threshold == pytest.approx(1 / (1 + cost))
        is_fake, p_fake = apply(found, fresh)
        tried = np.linspace(0.05, 0.95, 91)
        costs = [np.mean(cost * (is_fake & (p_fake <= t)) + (~is_fake & (p_fake > t)))
                 for t in [found.decision.threshold, *tried]]  # fmt: skip
        assert costs[0] < min(costs) * 1.1


def test_a_threshold_by_false_positive_rate_keeps_it_on_fresh_clips() -> None:
    fresh = draw(999, 1000)
    rates = []
    for seed in range(20):
        found = calibrate(draw(seed, 120), MEAN, Plan("none", max_fpr=0.05), "d")
        is_fake, p_fake = apply(found, fresh)
        rates.append(np.mean(p_fake[~is_fake] > found.decision.threshold))
        assert found.decision.band[1] >= found.decision.threshold
    assert np.mean(rates) <= 0.05 + 3 * np.std(rates) / 20**0.5
    with pytest.raises(UserError, match=r"--max-fpr 0.001 needs 999 groups"):
        calibrate(draw(0, 120), MEAN, Plan(max_fpr=0.001), "d")


@pytest.mark.parametrize("method", ["temperature", "isotonic", "none"])
def test_the_stated_error_rate_holds_for_fresh_clips(method: str) -> None:
    """Though threshold and band are found on the clips that the map was fitted to."""
    fresh = draw(1000, 1000, temperature=2.0)
    wrong = []
    for seed in range(15):
        found = calibrate(draw(seed, 60, temperature=2.0), MEAN, Plan(method, error_rate=0.15), "d")
        is_fake, p_fake = apply(found, fresh)
        words = np.array([judge(p, found.decision) for p in p_fake])
        wrong.append([np.mean(words[is_fake] == "REAL"), np.mean(words[~is_fake] == "FAKE")])
    slack = 3 * np.std(wrong, axis=0) / len(wrong) ** 0.5
    assert (np.mean(wrong, axis=0) <= 0.15 + slack).all()


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.booleans(), st.floats(-60, 60)), min_size=20, max_size=60),
    st.sampled_from([0.05, 0.5, 0.9]),
)
def test_an_isotonic_map_keeps_the_order_and_is_never_certain(
    drawn: list[tuple[bool, float]], prevalence: float
) -> None:
    drawn = [*drawn, *[(True, 5.0)] * 10, *[(False, -5.0)] * 10]
    clips = [
        LabelledClip(f"{place:03d}", is_fake, "", np.array([[z, 0.0]]), np.zeros(1, dtype=int))
        for place, (is_fake, z) in enumerate(drawn)
    ]
    found = calibrate(clips, MEAN, Plan("isotonic", prevalence=prevalence, error_rate=0.2), "d")
    _, p_fake = apply(found, clips)
    order = np.argsort(Clips(clips, MEAN).scores(1.0), kind="stable")
    assert (np.diff(p_fake[order]) >= 0).all()
    assert 0 < p_fake.min() <= p_fake.max() < 1


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_classes_that_are_apart_do_not_make_it_certain(method: str) -> None:
    clips = draw(0, 60, separation=12)
    found = calibrate(clips, MEAN, Plan(method), "d")
    is_fake, p_fake = apply(found, clips)
    assert 0.9 < p_fake[is_fake].mean() < 0.999
    assert found.decision.band == (found.decision.threshold,) * 2
    words = {judge(p, found.decision) for p in p_fake[is_fake]}
    assert words == {"FAKE"}


@pytest.mark.parametrize("aggregation", ["median", "top_k", "max", "confident"])
def test_every_aggregation_has_its_own_calibration(aggregation: str) -> None:
    rng = np.random.default_rng(0)
    noisy = [
        replace(clip, logits=clip.logits + rng.normal(0, 2, clip.logits.shape))
        for clip in draw(0, 150, crops=15, temperature=4.0)
    ]
    was = DecisionSettings(
        aggregation=aggregation, top_k=3, threshold=0.2, undecided_band=(0.1, 0.3),  # type: ignore[arg-type]
        isotonic=((0.0, 0.0), (1.0, 0.1)),
    )  # fmt: skip
    found = calibrate(noisy, was, Plan(), "d")
    fit = found.calibration.fit
    assert fit is not None
    assert fit.after is not None
    assert fit.after.log_loss < fit.before.log_loss
    assert (found.decision.aggregation, found.decision.top_k) == (aggregation, 3)
    assert found.decision.isotonic is None  # what was fitted before is gone


def test_the_order_of_the_clips_does_not_matter() -> None:
    clips = draw(0, 80)
    for method in ("temperature", "isotonic"):
        assert calibrate(clips, MEAN, Plan(method), "d") == (
            calibrate(clips[::-1], MEAN, Plan(method), "d")
        )


def test_figures_are_those_of_scikit_learn() -> None:
    clips = draw(0, 100)
    found = calibrate(clips, MEAN, Plan("isotonic", prevalence=0.3), "d")
    is_fake, p_fake = Clips(clips, MEAN).is_fake, Clips(clips, MEAN).scores(1.0)
    weights = np.where(is_fake, 0.3 / is_fake.sum(), 0.7 / (~is_fake).sum())
    assert found.calibration.fit is not None
    assert found.calibration.fit.before.model_dump() == pytest.approx(
        {
            "log_loss": log_loss(is_fake, p_fake, sample_weight=weights),
            "brier": brier_score_loss(is_fake, p_fake, sample_weight=weights),
            "ece": calibration_error(is_fake, p_fake, weights),
        }
    )


def test_few_groups_are_cross_validated_as_far_as_they_go() -> None:
    clips = [replace(clip, group=str(int(clip.group) % 2)) for clip in draw(0, 60)]
    found = calibrate(clips, MEAN, Plan(error_rate=0.4), "d")
    fit = found.calibration.fit
    assert fit is not None
    assert (fit.clips.fake + fit.clips.real, fit.groups.fake, fit.groups.real) == (60, 2, 2)
    assert fit.after is not None
    assert fit.judged is None  # half of the groups do not allow this rate
    assert "too few groups" in found.notes[0]


@pytest.mark.parametrize(
    ("clips", "plan", "message"),
    [
        (draw(0, 30, share=0.0), Plan(), "clips of both classes with a face, and there are 0 fake"),
        (draw(0, 14), Plan("isotonic"), r"--method isotonic needs 10 clips a class"),
        (draw(0, 30), Plan(error_rate=0.01), r"--error-rate 0.01 needs 99 groups"),
    ],
)
def test_too_few_clips_are_told_in_one_sentence(
    clips: list[LabelledClip], plan: Plan, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        calibrate(clips, MEAN, plan, "d")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "platt"}, "the methods are temperature, isotonic, none"),
        ({"error_rate": 0.5}, "--error-rate 0.5: give a number between 0 and 0.5"),
        ({"prevalence": 0.0}, "--prevalence 0:"),
        ({"max_fpr": 1.0}, "--max-fpr 1:"),
        ({"cost_ratio": float("nan")}, "--cost-ratio nan"),
        ({"cost_ratio": 2.0, "max_fpr": 0.1}, "both decide the threshold"),
        ({"cost_ratio": 2.0, "method": "none"}, "--cost-ratio needs calibrated scores"),
    ],
)
def test_a_plan_that_cannot_be_is_told_in_one_sentence(
    values: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Plan(**values)  # type: ignore[arg-type]


def test_a_rare_class_is_rare_in_the_probabilities() -> None:
    fresh = draw(1, 4000, share=0.01)
    found = calibrate(draw(0, 400), MEAN, Plan("isotonic", prevalence=0.01), "d")
    is_fake, p_fake = apply(found, fresh)
    assert p_fake.mean() == pytest.approx(is_fake.mean(), abs=0.01)
    assert calibration_error(is_fake, p_fake) < 0.02
    with pytest.raises(UserError, match=r"--prevalence 0\.01 needs --method isotonic"):
        Plan(prevalence=0.01)
