"""How far the figures of several variants can be trusted: a paired bootstrap over groups of clips.

A draw has the same clips for every variant: a clip that is hard for all blurs no difference between
them. Intervals tell how much a figure depends on the clips, and nothing of other seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from genconvit.evaluate.estimate import Estimate as Estimate
from genconvit.evaluate.metrics import clip_metrics
from genconvit.evaluate.resampling import DRAWS as DRAWS
from genconvit.evaluate.resampling import drawn_counts, estimated, ratio
from genconvit.evaluate.resampling import resampled_scores as resampled_scores
from genconvit.verdict import Verdict


class Estimates(BaseModel):
    """What variants are compared by. Accuracy and F1 count an UNDECIDED clip as wrong."""

    model_config = ConfigDict(frozen=True)

    accuracy: Estimate = Estimate()
    f1: Estimate = Estimate()
    auc: Estimate = Estimate()
    eer: Estimate = Estimate()
    coverage: Estimate = Estimate()

    def __getitem__(self, name: str) -> Estimate:
        """The estimate of this name, one of `METRICS`."""
        estimate: Estimate = getattr(self, name)
        return estimate


METRICS = tuple(Estimates.model_fields)


@dataclass(frozen=True)
class Compared:
    """Figures of one variant, means over its seeds, and how they differ from the first one's."""

    metrics: Estimates
    differences: Estimates


def compare_variants(
    labels: Sequence[str],
    variants: Sequence[Sequence[Sequence[Verdict]]],
    groups: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Compared]:
    """Estimates the figures of variants that judged the same clips.

    Args:
        labels: "fake" or "real", one a clip.
        variants: For each variant, for each of its seeds, one verdict a clip in the order of
            `labels`. Variants may have different numbers of seeds, but at least one.
        groups: The clips' groups, which are drawn whole; one that is empty is a group of its own,
            as is every clip without this.
        draws: Sets of groups to draw.
        seed: Decides which; the same one repeats the result.

    Returns:
        One entry a variant. A draw in which a figure is undefined, such as the AUC of one class,
        is left out of that figure's interval.

    Raises:
        UserError: A label is neither fake nor real.
    """
    points = [
        [_mean(values) for values in zip(*(_point(labels, run) for run in runs), strict=True)]
        for runs in variants
    ]
    drawn_VMD = _draw(labels, variants, groups or [""] * len(labels), draws, seed)
    return [
        Compared(
            metrics=_estimates(point, drawn_MD),
            differences=_estimates(
                [_minus(value, first) for value, first in zip(point, points[0], strict=True)],
                drawn_MD - drawn_VMD[0],
            ),
        )
        for point, drawn_MD in zip(points, drawn_VMD, strict=True)
    ]


class _Run:
    """The verdicts of one seed as arrays over the N clips."""

    def __init__(self, labels: Sequence[str], verdicts: Sequence[Verdict]) -> None:
        words = np.array([verdict.verdict for verdict in verdicts])
        self.is_fake = np.array([label == "fake" for label in labels])
        self.right = words == np.where(self.is_fake, "FAKE", "REAL")
        self.decided = words != "UNDECIDED"
        scores = [verdict.probability_fake for verdict in verdicts]
        self.scored = np.array([score is not None for score in scores])
        self.p_fake = np.array([score for score in scores if score is not None], dtype=float)

    def metrics(self, counts_DN: NDArray[np.int64]) -> NDArray[np.float64]:
        """The figures (M, D) in the order of `METRICS`; NaN where undefined."""
        clips_D = counts_DN.sum(axis=1)
        right_fake_D = counts_DN @ (self.right & self.is_fake)
        wrong_D = counts_DN @ ~self.right
        auc_D, eer_D = resampled_scores(
            self.is_fake[self.scored], self.p_fake, counts_DN[:, self.scored]
        )
        return np.stack(
            [
                ratio(counts_DN @ self.right, clips_D),
                ratio(2 * right_fake_D, 2 * right_fake_D + wrong_D),
                auc_D,
                eer_D,
                ratio(counts_DN @ self.decided, clips_D),
            ]
        )


def _draw(
    labels: Sequence[str],
    variants: Sequence[Sequence[Sequence[Verdict]]],
    groups: Sequence[str],
    draws: int,
    seed: int,
) -> NDArray[np.float64]:
    """The figures (V, M, D) of every variant in every draw, means over seeds."""
    if not labels:
        return np.full((len(variants), len(METRICS), draws), np.nan)
    runs = [[_Run(labels, verdicts) for verdicts in variant] for variant in variants]
    blocks = [
        [np.mean([run.metrics(counts_DN) for run in variant], axis=0) for variant in runs]
        for counts_DN in drawn_counts(groups, draws, seed)
    ]
    return np.concatenate(blocks, axis=2)


def _point(labels: Sequence[str], verdicts: Sequence[Verdict]) -> tuple[float | None, ...]:
    """The figures of the clips themselves, in the order of `METRICS`."""
    metrics = clip_metrics(labels, verdicts)
    decisions = metrics.undecided_wrong
    return decisions.accuracy, decisions.f1, metrics.auc, metrics.eer, metrics.coverage


def _estimates(point: Sequence[float | None], drawn_MD: NDArray[np.float64]) -> Estimates:
    return Estimates(
        **{
            name: estimated(value, drawn_D)
            for name, value, drawn_D in zip(METRICS, point, drawn_MD, strict=True)
        }
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """None where a seed has none: the rest would be compared with other clips."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _minus(value: float | None, first: float | None) -> float | None:
    return None if value is None or first is None else value - first
