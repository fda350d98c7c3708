"""How good scores are, of clips or of single crops. Fake is the positive class everywhere.

Every figure is that of scikit-learn, but for what it makes up where there is nothing to compute
from: here that is None, and a note says why.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field
from sklearn.metrics import log_loss, matthews_corrcoef, roc_curve

from genconvit.evaluate.estimate import Estimate
from genconvit.evaluate.metrics import binary_scores, equal_error_rate
from genconvit.wording import plural

ECE_BINS = 15
LOW_FPR = {"tpr_at_fpr_1_percent": 0.01, "tpr_at_fpr_5_percent": 0.05}


class ScoreMetrics(BaseModel):
    """Figures of scores with known labels. A score above the threshold is called fake."""

    model_config = ConfigDict(frozen=True)

    n: int
    fake: int
    real: int
    threshold: float
    auc: float | None = Field(description="Area under the ROC curve.")
    average_precision: float | None
    eer: float | None = Field(
        description="Equal error rate: where the ROC curve, drawn with straight lines, crosses "
        "'false positive rate = false negative rate'."
    )
    eer_threshold: float | None = Field(description="The score at the nearest point of the curve.")
    tpr_at_fpr_1_percent: float | None = Field(
        description="Share of fakes found by the lowest threshold that calls at most 1 % of the "
        "reals fake. Nothing is interpolated."
    )
    tpr_at_fpr_5_percent: float | None = Field(description="The same with at most 5 %.")
    accuracy: float | None
    balanced_accuracy: float | None = Field(description="Mean of the recalls of fake and real.")
    precision: float | None
    recall: float | None
    f1: float | None
    mcc: float | None = Field(description="Matthews' correlation coefficient.")
    log_loss: float | None = Field(
        description="Natural logarithm; scores are clipped to 2.2e-16 from 0 and 1."
    )
    brier: float | None = Field(description="Mean squared difference of score and label.")
    ece: float | None = Field(
        description="Expected calibration error: 15 bins of P(fake), equally wide and open at the "
        "left; of each the difference between mean P(fake) and share of fakes, weighted by size."
    )
    groups: int | None = Field(None, description="Groups that the intervals were drawn from.")
    intervals: dict[str, tuple[float, float]] = Field(
        default_factory=dict,
        description="95 % interval of each figure that is defined, but of ECE: draws overstate it.",
    )
    notes: list[str] = Field(description="Why figures are missing, or worth little.")

    def estimate(self, name: str) -> Estimate:
        """A figure of `FIGURES` with its interval."""
        low, high = self.intervals.get(name, (None, None))
        return Estimate(value=getattr(self, name), low=low, high=high)


FIGURES = (
    *("auc", "average_precision", "eer", "eer_threshold", *LOW_FPR),
    *("accuracy", "balanced_accuracy", "precision", "recall", "f1", "mcc"),
    *("log_loss", "brier", "ece"),
)
"""The figures of `ScoreMetrics`."""


def score_metrics(is_fake: ArrayLike, p_fake: ArrayLike, threshold: float = 0.5) -> ScoreMetrics:
    """All figures of scores, without intervals.

    Args:
        is_fake: Labels (N): true or 1 is fake.
        p_fake: Scores (N), from 0 to 1.
        threshold: A score above it is called fake.
    """
    is_fake_N, p_fake_N = np.asarray(is_fake, dtype=bool), np.asarray(p_fake, dtype=float)
    figures: dict[str, float | None] = dict.fromkeys(FIGURES)
    figures |= _ranking(is_fake_N, p_fake_N)
    figures |= _calls(is_fake_N, p_fake_N > threshold)
    if is_fake_N.size:
        figures["log_loss"] = float(log_loss(is_fake_N, p_fake_N, labels=[False, True]))
        figures["brier"] = float(np.square(p_fake_N - is_fake_N).mean())
        figures["ece"] = _ece(is_fake_N, p_fake_N)
    return ScoreMetrics(
        n=is_fake_N.size,
        fake=int(is_fake_N.sum()),
        real=int((~is_fake_N).sum()),
        threshold=threshold,
        notes=_notes(is_fake_N, p_fake_N > threshold),
        **figures,
    )


def _ece(is_fake_N: NDArray[np.bool_], p_fake_N: NDArray[np.float64]) -> float:
    """Bins are those of `sklearn.calibration.calibration_curve`."""
    bin_N = np.searchsorted(np.linspace(0, 1, ECE_BINS + 1)[1:-1], p_fake_N)
    gaps_B = np.bincount(bin_N, weights=p_fake_N - is_fake_N)
    return float(np.abs(gaps_B).sum() / is_fake_N.size)


def _ranking(is_fake_N: NDArray[np.bool_], p_fake_N: NDArray[np.float64]) -> dict[str, float]:
    if not is_fake_N.any() or is_fake_N.all():
        return {}
    fpr, tpr, _ = roc_curve(is_fake_N, p_fake_N, drop_intermediate=False)
    scores = binary_scores(is_fake_N, p_fake_N)
    eer, eer_threshold = equal_error_rate(is_fake_N, p_fake_N)
    found = {
        "auc": scores["auc"],
        "average_precision": scores["ap"],
        "eer": eer,
        "eer_threshold": eer_threshold,
        **{name: float(tpr[fpr <= most].max()) for name, most in LOW_FPR.items()},
    }
    return {name: value for name, value in found.items() if value is not None}


def _calls(is_fake_N: NDArray[np.bool_], called_N: NDArray[np.bool_]) -> dict[str, float]:
    """What a threshold does; figures without anything below their fraction's line are missing."""
    right_N = called_N == is_fake_N
    both = bool(is_fake_N.any() and not is_fake_N.all())
    found: dict[str, float] = {}
    if is_fake_N.size:
        found["accuracy"] = float(right_N.mean())
    if called_N.any():
        found["precision"] = float(is_fake_N[called_N].mean())
    if is_fake_N.any():
        found["recall"] = float(called_N[is_fake_N].mean())
    if is_fake_N.any() or called_N.any():
        hits = int((is_fake_N & called_N).sum())
        found["f1"] = 2 * hits / int(is_fake_N.sum() + called_N.sum())
    if both:
        found["balanced_accuracy"] = float(right_N[is_fake_N].mean() + right_N[~is_fake_N].mean())
        found["balanced_accuracy"] /= 2
    if both and called_N.any() and not called_N.all():
        found["mcc"] = float(matthews_corrcoef(is_fake_N, called_N))
    return found


def _notes(is_fake_N: NDArray[np.bool_], called_N: NDArray[np.bool_]) -> list[str]:
    if not is_fake_N.size:
        return ["No score has a label; every figure needs one."]
    notes = []
    for label, count in (("fake", is_fake_N.sum()), ("real", (~is_fake_N).sum())):
        if not count:
            notes.append(
                f"No score is of a {label}; AUC, average precision, EER, TPR, balanced accuracy, "
                "MCC" + (" and recall" if label == "fake" else "") + " need one."
            )
    reals = int((~is_fake_N).sum())
    if is_fake_N.any() and 0 < reals < 1 / LOW_FPR["tpr_at_fpr_1_percent"]:
        notes.append(
            f"One of {plural(reals, 'real')} is more than 1 %: the TPR at 1 % is the share of "
            "fakes above every real."
        )
    if not called_N.any():
        notes.append("No score is above the threshold; precision and MCC need one.")
    elif called_N.all():
        notes.append("No score is below the threshold; MCC needs one.")
    return notes
