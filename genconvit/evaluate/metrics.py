"""How good verdicts and scores are. Fake is the positive class everywhere.

Figures that cannot be computed, such as an AUC over clips of one class, are None; a note says why.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from genconvit.config import CLASSES
from genconvit.errors import UserError
from genconvit.verdict import Verdict

VERDICTS = ("FAKE", "REAL", "UNDECIDED")


class DecisionMetrics(BaseModel):
    """Figures of one way to count the clips."""

    model_config = ConfigDict(frozen=True)

    clips: int
    accuracy: float | None
    error: float | None = Field(description="1 - accuracy.")
    balanced_accuracy: float | None = Field(description="Mean of the recalls of fake and real.")
    precision: float | None
    recall: float | None
    f1: float | None
    specificity: float | None = Field(description="True negative rate: reals that are REAL.")
    false_positive_rate: float | None = Field(description="1 - specificity.")


class ClipMetrics(BaseModel):
    """Figures over the labelled clips of an evaluation."""

    model_config = ConfigDict(frozen=True)

    clips: int
    fake: int = Field(description="Clips labelled fake.")
    real: int = Field(description="Clips labelled real.")
    without_score: int = Field(description="Clips without a face. They are in no AUC, AP or EER.")
    coverage: float | None = Field(description="Share of clips that are FAKE or REAL.")
    confusion: dict[str, dict[str, int]] = Field(description="Clips by label, then verdict.")
    decided: DecisionMetrics = Field(description="Over the clips that are FAKE or REAL.")
    undecided_wrong: DecisionMetrics = Field(
        description="Over all clips; UNDECIDED counts as the wrong answer."
    )
    auc: float | None = Field(description="Area under the ROC curve.")
    average_precision: float | None
    eer: float | None = Field(description="Equal error rate: where both classes err equally often.")
    eer_threshold: float | None = Field(description="P(fake) from which on a clip is fake there.")
    notes: list[str] = Field(description="Why figures are missing.")


def clip_metrics(labels: Sequence[str], verdicts: Sequence[Verdict]) -> ClipMetrics:
    """All figures of an evaluation.

    Args:
        labels: "fake" or "real", one a clip.
        verdicts: One a clip, in the same order.

    Raises:
        UserError: A label is neither fake nor real.
    """
    confusion = {label: dict.fromkeys(VERDICTS, 0) for label in CLASSES}
    for label, verdict in zip(labels, verdicts, strict=True):
        if label not in confusion:
            raise UserError(
                f"clip {verdict.clip} is labelled {label!r}; the labels are fake and real."
            )
        confusion[label][verdict.verdict] += 1
    fake, real = confusion["fake"], confusion["real"]
    decided = _decision_metrics(fake["FAKE"], fake["REAL"], real["FAKE"], real["REAL"])
    undecided_wrong = _decision_metrics(
        fake["FAKE"],
        fake["REAL"] + fake["UNDECIDED"],
        real["FAKE"] + real["UNDECIDED"],
        real["REAL"],
    )
    is_fake, p_fake = clip_scores(labels, verdicts)
    scores = binary_scores(is_fake, p_fake)
    return ClipMetrics(
        clips=len(verdicts),
        fake=sum(fake.values()),
        real=sum(real.values()),
        without_score=len(verdicts) - len(p_fake),
        coverage=_ratio(decided.clips, len(verdicts)),
        confusion=confusion,
        decided=decided,
        undecided_wrong=undecided_wrong,
        auc=scores["auc"],
        average_precision=scores["ap"],
        eer=scores["eer"],
        eer_threshold=equal_error_rate(is_fake, p_fake)[1],
        notes=_notes(confusion, decided, is_fake),
    )


def clip_scores(
    labels: Sequence[str], verdicts: Sequence[Verdict]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels (N, True is fake) and P(fake) (N) of the N clips that have a score."""
    pairs = [
        (label == "fake", verdict.probability_fake)
        for label, verdict in zip(labels, verdicts, strict=True)
        if verdict.probability_fake is not None
    ]
    return (
        np.array([is_fake for is_fake, _ in pairs], dtype=bool),
        np.array([p_fake for _, p_fake in pairs], dtype=float),
    )


def binary_scores(is_fake: ArrayLike, p_fake: ArrayLike) -> dict[str, float | None]:
    """AUC, average precision and equal error rate, for frames or clips.

    Args:
        is_fake: Labels (N): true or 1 is fake.
        p_fake: Scores (N), finite.

    Returns:
        `{"auc": ..., "ap": ..., "eer": ...}`, each None where a class is missing.
    """
    labels, scores = np.asarray(is_fake, dtype=bool), np.asarray(p_fake, dtype=float)
    if not _both_classes(labels):
        return {"auc": None, "ap": None, "eer": None}
    return {
        "auc": float(roc_auc_score(labels, scores)),
        "ap": float(average_precision_score(labels, scores)),
        "eer": equal_error_rate(labels, scores)[0],
    }


def equal_error_rate(is_fake: ArrayLike, p_fake: ArrayLike) -> tuple[float | None, float | None]:
    """Equal error rate and its threshold; both None where a class is missing.

    The rate is where the ROC curve, drawn with straight lines, crosses "false positive rate =
    false negative rate". The threshold is the score of the nearest point of the curve.
    """
    labels, scores = np.asarray(is_fake, dtype=bool), np.asarray(p_fake, dtype=float)
    if not _both_classes(labels):
        return None, None
    fpr, tpr, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    gap = fpr - (1.0 - tpr)  # rises from -1 to 1 along the curve
    # The first threshold is infinite. Rounding must not decide between two points as near.
    nearest = 1 + int(np.argmin(np.abs(gap[1:]).round(12)))
    return float(np.interp(0.0, gap, fpr)), float(thresholds[nearest])


def mean_by_clip(
    video_ids: Sequence[str], p_fake: ArrayLike
) -> tuple[list[str], NDArray[np.float64]]:
    """Mean P(fake) of each clip: the sorted ids (C) and their means (C), from crops (N)."""
    ids, index = np.unique(np.asarray(video_ids, dtype=str), return_inverse=True)
    sums = np.bincount(index, weights=np.asarray(p_fake, dtype=float), minlength=len(ids))
    return ids.tolist(), sums / np.bincount(index, minlength=len(ids))


def _decision_metrics(tp: int, fn: int, fp: int, tn: int) -> DecisionMetrics:
    recall, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    balanced = None if recall is None or specificity is None else (recall + specificity) / 2
    return DecisionMetrics(
        clips=tp + fn + fp + tn,
        accuracy=_ratio(tp + tn, tp + fn + fp + tn),
        error=_ratio(fp + fn, tp + fn + fp + tn),
        balanced_accuracy=balanced,
        precision=_ratio(tp, tp + fp),
        recall=recall,
        f1=_ratio(2 * tp, 2 * tp + fp + fn),
        specificity=specificity,
        false_positive_rate=_ratio(fp, tn + fp),
    )


def _notes(
    confusion: dict[str, dict[str, int]], decided: DecisionMetrics, is_fake: NDArray[np.bool_]
) -> list[str]:
    notes = []
    if not _both_classes(is_fake):
        found = "no clip" if not is_fake.size else f"only {CLASSES[0 if is_fake[0] else 1]} clips"
        notes.append(f"AUC, average precision and EER need both classes; {found} have a score.")
    for label in CLASSES:
        figures = "recall" if label == "fake" else "specificity, false positive rate"
        figures += " and balanced accuracy need"
        if not any(confusion[label].values()):
            notes.append(f"No clip is labelled {label}; {figures} one.")
        elif not confusion[label]["FAKE"] + confusion[label]["REAL"]:
            notes.append(f"Every {label} clip is undecided; over decided clips {figures} one.")
    if decided.precision is None:
        notes.append("No clip was judged FAKE; precision needs one.")
    return notes


def _both_classes(is_fake: NDArray[np.bool_]) -> bool:
    return bool(is_fake.any() and not is_fake.all())


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
