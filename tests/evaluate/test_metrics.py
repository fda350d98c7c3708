from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from genconvit.config import DecisionSettings
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import judge
from genconvit.evaluate.metrics import binary_scores, clip_metrics, equal_error_rate, mean_by_clip
from genconvit.verdict import Verdict

# Two decimals: scores tie often, and maps of them stay strictly monotone in floating point.
SCORE = st.integers(0, 100).map(lambda step: step / 100)
CLIP = st.tuples(st.sampled_from(("fake", "real")), st.none() | SCORE)
SCORED = st.lists(st.tuples(st.booleans(), SCORE), min_size=2, max_size=60).filter(
    lambda pairs: len({is_fake for is_fake, _ in pairs}) == 2
)


def verdict_of(p_fake: float | None) -> Verdict:
    return Verdict(
        clip="clip.mp4",
        verdict="UNDECIDED" if p_fake is None else judge(p_fake, DecisionSettings()),
        probability_fake=p_fake,
        reason="",
        frames_sampled=1,
        frames_with_face=0 if p_fake is None else 1,
        tracks=[],
        timeline=[],
    )


def test_a_small_evaluation_by_hand() -> None:
    scores = [0.9, 0.8, 0.2, 0.5, None, 0.1, 0.3, 0.7]
    labels = ["fake"] * 5 + ["real"] * 3
    result = clip_metrics(labels, [verdict_of(p_fake) for p_fake in scores])
    assert result.confusion == {
        "fake": {"FAKE": 2, "REAL": 1, "UNDECIDED": 2},
        "real": {"FAKE": 1, "REAL": 2, "UNDECIDED": 0},
    }
    assert (result.clips, result.fake, result.real, result.without_score) == (8, 5, 3, 1)
    assert result.coverage == pytest.approx(6 / 8)
    assert result.decided.accuracy == pytest.approx(4 / 6)
    assert result.decided.recall == pytest.approx(2 / 3)
    assert result.undecided_wrong.accuracy == pytest.approx(4 / 8)
    assert result.undecided_wrong.recall == pytest.approx(2 / 5)
    assert result.undecided_wrong.precision == pytest.approx(2 / 3)
    assert result.decided.error == pytest.approx(2 / 6)
    assert result.decided.specificity == pytest.approx(2 / 3)
    assert result.decided.false_positive_rate == pytest.approx(1 / 3)
    assert result.auc == pytest.approx(9 / 12)  # of 4 x 3 pairs
    assert result.notes == []


@settings(max_examples=40, deadline=None)
@given(st.lists(CLIP, max_size=40))
def test_decisions_agree_with_scikit_learn(clips: list[tuple[str, float | None]]) -> None:
    labels = [label for label, _ in clips]
    verdicts = [verdict_of(p_fake) for _, p_fake in clips]
    result = clip_metrics(labels, verdicts)
    opposite = {"fake": "real", "real": "fake"}
    all_words = [
        opposite[label] if verdict.verdict == "UNDECIDED" else verdict.verdict.lower()
        for label, verdict in zip(labels, verdicts, strict=True)
    ]
    keep = [verdict.verdict != "UNDECIDED" for verdict in verdicts]
    for ours, chosen in ((result.decided, keep), (result.undecided_wrong, [True] * len(keep))):
        true = [label for label, is_in in zip(labels, chosen, strict=True) if is_in]
        said = [word for word, is_in in zip(all_words, chosen, strict=True) if is_in]
        assert ours.clips == len(true)
        if not true:
            assert ours.accuracy is None
            continue
        assert ours.accuracy == pytest.approx(sk.accuracy_score(true, said))
        for name in ("precision", "recall", "f1"):
            score = getattr(sk, f"{name}_score")
            expected = score(true, said, pos_label="fake", zero_division=np.nan)
            assert (getattr(ours, name) or 0.0) == pytest.approx(np.nan_to_num(expected))
        if len(set(true)) == 2:
            expected = sk.balanced_accuracy_score(true, said)
            assert ours.balanced_accuracy == pytest.approx(expected)
        else:
            assert ours.balanced_accuracy is None


@settings(deadline=None)
@given(st.lists(CLIP, max_size=40))
def test_counts_add_up_and_json_has_no_nan(clips: list[tuple[str, float | None]]) -> None:
    labels = [label for label, _ in clips]
    result = clip_metrics(labels, [verdict_of(p_fake) for _, p_fake in clips])
    assert sum(result.confusion["fake"].values()) == result.fake == labels.count("fake")
    assert sum(result.confusion["real"].values()) == result.real == labels.count("real")
    assert result.without_score == sum(p_fake is None for _, p_fake in clips)
    undecided = sum(row["UNDECIDED"] for row in result.confusion.values())
    assert result.decided.clips == len(clips) - undecided
    if clips:
        assert result.coverage == pytest.approx(1 - undecided / len(clips))
    figures = json.loads(result.model_dump_json())
    assert "NaN" not in json.dumps(figures)
    missing = [figures["auc"], *figures["decided"].values()]
    assert bool(result.notes) == (None in missing)


def test_one_class_alone_is_undefined_with_a_reason() -> None:
    result = clip_metrics(["real", "real"], [verdict_of(0.1), verdict_of(0.2)])
    assert (result.auc, result.average_precision, result.eer, result.eer_threshold) == (None,) * 4
    assert result.decided.accuracy == 1.0
    assert result.notes == [
        "AUC, average precision and EER need both classes; only real clips have a score.",
        "No clip is labelled fake; recall and balanced accuracy need one.",
        "No clip was judged FAKE; precision needs one.",
    ]


def test_another_label_is_refused() -> None:
    with pytest.raises(UserError, match=r"clip\.mp4 is labelled 'FAKE'"):
        clip_metrics(["FAKE"], [verdict_of(0.9)])


@settings(max_examples=50, deadline=None)
@given(SCORED)
def test_scores_agree_with_scikit_learn_and_survive_monotone_maps(pairs) -> None:
    is_fake, p_fake = map(np.array, zip(*pairs, strict=True))
    scores = binary_scores(is_fake, p_fake)
    assert scores["auc"] == pytest.approx(sk.roc_auc_score(is_fake, p_fake))
    assert scores["ap"] == pytest.approx(sk.average_precision_score(is_fake, p_fake))
    assert binary_scores(is_fake, np.exp(3 * p_fake) - 7) == pytest.approx(scores)


@settings(max_examples=50, deadline=None)
@given(SCORED)
def test_swapping_the_classes_mirrors_auc_and_eer(pairs) -> None:
    is_fake, p_fake = map(np.array, zip(*pairs, strict=True))
    scores, swapped = binary_scores(is_fake, p_fake), binary_scores(~is_fake, p_fake)
    assert swapped["auc"] == pytest.approx(1 - scores["auc"])
    assert swapped["eer"] == pytest.approx(1 - scores["eer"])
    mirrored = binary_scores(~is_fake, 1 - p_fake)
    assert mirrored["eer"] == pytest.approx(scores["eer"])


@settings(max_examples=50, deadline=None)
@given(SCORED)
def test_both_errors_lie_around_the_equal_error_rate(pairs) -> None:
    is_fake, p_fake = map(np.array, zip(*pairs, strict=True))
    eer, threshold = equal_error_rate(is_fake, p_fake)
    assert threshold in p_fake
    called = p_fake >= threshold
    errors = called[~is_fake].mean(), (~called)[is_fake].mean()
    assert min(errors) - 1e-9 <= eer <= max(errors) + 1e-9


def test_equal_error_rate_of_known_scores() -> None:
    assert equal_error_rate([1, 1, 0, 0], [0.9, 0.8, 0.2, 0.1]) == (0.0, 0.8)
    assert equal_error_rate([1, 0, 1, 0], [0.5] * 4) == (0.5, 0.5)
    assert equal_error_rate([1, 1, 0, 0], [0.9, 0.3, 0.4, 0.1]) == (0.5, 0.4)
    assert binary_scores([], []) == {"auc": None, "ap": None, "eer": None}


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), SCORE)))
def test_mean_by_clip_is_the_mean_of_each_clip(crops: list[tuple[str, float]]) -> None:
    ids, means = mean_by_clip([clip for clip, _ in crops], [p_fake for _, p_fake in crops])
    assert ids == sorted({clip for clip, _ in crops})
    for clip, mean in zip(ids, means, strict=True):
        assert mean == pytest.approx(np.mean([p_fake for name, p_fake in crops if name == clip]))
