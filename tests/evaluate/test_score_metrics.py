from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from genconvit.evaluate.score_metrics import FIGURES, score_metrics

# Hundredths, so that scores tie, lie on the threshold and on the edges of bins; and any others.
SCORE = st.integers(0, 100).map(lambda step: step / 100) | st.floats(0, 1)
SCORED = st.lists(st.tuples(st.booleans(), SCORE), min_size=1, max_size=60)


def expected_ece(is_fake: np.ndarray, p_fake: np.ndarray) -> float:
    share_fake, mean_p = calibration_curve(is_fake, p_fake, n_bins=15)
    sizes = np.histogram(np.ceil(p_fake * 15 - 1e-12), np.arange(-0.5, 16))[0]
    sizes = np.concatenate([[sizes[0] + sizes[1]], sizes[2:]])
    return float(sizes[sizes > 0] @ np.abs(share_fake - mean_p) / sizes.sum())


@settings(max_examples=80)
@given(SCORED, st.sampled_from((0.3, 0.5, 0.77)))
def test_every_figure_is_that_of_scikit_learn(pairs: list, threshold: float) -> None:
    is_fake, p_fake = map(np.array, zip(*pairs, strict=True))
    called = p_fake > threshold
    found = score_metrics(is_fake, p_fake, threshold)
    assert (found.n, found.fake, found.real) == (len(pairs), is_fake.sum(), (~is_fake).sum())
    wanted = {
        "accuracy": sk.accuracy_score(is_fake, called),
        "log_loss": sk.log_loss(is_fake, p_fake, labels=[False, True]),
        "brier": np.mean((p_fake - is_fake) ** 2),
    }
    if is_fake.any():
        wanted["recall"] = sk.recall_score(is_fake, called)
    if called.any():
        wanted["precision"] = sk.precision_score(is_fake, called)
    if is_fake.any() or called.any():
        wanted["f1"] = sk.f1_score(is_fake, called)
    if is_fake.any() and not is_fake.all():
        fpr, tpr, _ = sk.roc_curve(is_fake, p_fake)
        wanted |= {
            "auc": sk.roc_auc_score(is_fake, p_fake),
            "average_precision": sk.average_precision_score(is_fake, p_fake),
            "balanced_accuracy": sk.balanced_accuracy_score(is_fake, called),
            "brier": sk.brier_score_loss(is_fake, p_fake),
            "tpr_at_fpr_1_percent": tpr[fpr <= 0.01].max(),
            "tpr_at_fpr_5_percent": tpr[fpr <= 0.05].max(),
        }
        if called.any() and not called.all():
            wanted["mcc"] = sk.matthews_corrcoef(is_fake, called)
    for name in set(FIGURES) - {"eer", "eer_threshold", "ece"}:
        value = getattr(found, name)
        if name in wanted:
            assert value == pytest.approx(wanted[name], abs=1e-9), name
        else:
            assert value is None, name
    assert json.loads(found.model_dump_json())["n"] == len(pairs)
    missing = any(getattr(found, name) is None for name in FIGURES)
    assert not missing or found.notes


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1000)), min_size=2, max_size=80))
def test_ece_is_that_of_the_calibration_curve(pairs: list) -> None:
    is_fake = np.array([is_fake for is_fake, _ in pairs])
    p_fake = np.array([step / 1000 for _, step in pairs])
    assume(is_fake.any() and not is_fake.all())
    assert score_metrics(is_fake, p_fake).ece == pytest.approx(expected_ece(is_fake, p_fake))


@settings(max_examples=40)
@given(SCORED)
def test_order_and_copies_of_the_clips_change_nothing(pairs: list) -> None:
    is_fake, p_fake = map(np.array, zip(*pairs, strict=True))
    first = score_metrics(is_fake, p_fake)
    for other in (
        score_metrics(is_fake[::-1], p_fake[::-1]),
        score_metrics(np.tile(is_fake, 3), np.tile(p_fake, 3)),
    ):
        for name in FIGURES:
            assert getattr(other, name) == pytest.approx(getattr(first, name), abs=1e-9), name


def test_a_low_fpr_is_read_off_attained_points_alone() -> None:
    reals = np.linspace(0, 0.5, 20)  # one of them is 5 %
    fakes = [0.9, 0.8, 0.49, 0.45]
    found = score_metrics([0] * 20 + [1] * 4, [*reals, *fakes])
    assert found.tpr_at_fpr_1_percent == 0.5
    assert found.tpr_at_fpr_5_percent == 0.75
    assert "One of 20 reals is more than 1 %" in " ".join(found.notes)


def test_no_score_has_no_figure_and_a_reason() -> None:
    found = score_metrics([], [])
    assert [getattr(found, name) for name in FIGURES] == [None] * len(FIGURES)
    assert found.notes == ["No score has a label; every figure needs one."]


def test_known_probabilities_have_the_known_calibration() -> None:
    p_fake = np.repeat([0.1, 0.7], 1000)
    is_fake = np.tile(np.arange(10) < 1, 100), np.tile(np.arange(10) < 7, 100)
    assert score_metrics(np.concatenate(is_fake), p_fake).ece == pytest.approx(0)
    assert score_metrics(np.concatenate(is_fake[::-1]), p_fake).ece == pytest.approx(0.6)
