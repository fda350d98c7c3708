"""How far the figures of several variants can be trusted: a paired bootstrap over clips.

A draw takes as many clips as there are, with replacement, and the same ones for every variant: a
clip that is hard for all blurs no difference between them. Intervals are percentiles of the draws
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). They tell how much a
figure depends on the clips, which are taken to be independent, and nothing of other seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from genconvit.evaluate.metrics import clip_metrics
from genconvit.verdict import Verdict

DRAWS = 2000
BLOCK = 100
"""Draws that are held in memory at a time, each with a count for every clip."""


class Estimate(BaseModel):
    """A figure and its 95 % interval; None where it is undefined."""

    model_config = ConfigDict(frozen=True)

    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is shown: its interval lies on one side of 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def text(self) -> str:
        """A figure, such as "0.843 [0.79, 0.89]"."""
        if self.value is None or self.low is None:
            return "undefined"
        return f"{self.value:.3f} [{self.low:.2f}, {self.high:.2f}]"

    def difference(self) -> str:
        """A difference, such as "+0.031 [-0.004, +0.067]"."""
        if self.value is None or self.low is None:
            return "undefined"
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


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
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Compared]:
    """Estimates the figures of variants that judged the same clips.

    Args:
        labels: "fake" or "real", one a clip.
        variants: For each variant, for each of its seeds, one verdict a clip in the order of
            `labels`. Variants may have different numbers of seeds, but at least one.
        draws: Sets of clips to draw.
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
    drawn_VMD = _draw(labels, variants, draws, seed)
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


def resampled_scores(
    is_fake_N: NDArray[np.bool_], p_fake_N: NDArray[np.float64], counts_DN: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUC (D) and equal error rate (D) of many draws from the same clips.

    Both are those of `genconvit.evaluate.metrics`, found for all draws at once.

    Args:
        is_fake_N: Labels: true is fake.
        p_fake_N: Scores, finite.
        counts_DN: How often each draw has each clip.

    Returns:
        NaN for draws that miss a class.
    """
    auc_D, eer_D = np.full((2, len(counts_DN)), np.nan)
    fakes_D, reals_D = counts_DN @ is_fake_N, counts_DN @ ~is_fake_N
    both_D = (fakes_D > 0) & (reals_D > 0)
    if not both_D.any():
        return auc_D, eer_D
    order = np.argsort(-p_fake_N, kind="stable")
    tied = np.flatnonzero(np.diff(p_fake_N[order], prepend=np.inf))  # where a new score begins
    counts_DN, is_fake_N = counts_DN[both_D][:, order], is_fake_N[order]
    fake_DK = np.add.reduceat(counts_DN * is_fake_N, tied, axis=1)
    real_DK = np.add.reduceat(counts_DN * ~is_fake_N, tied, axis=1)
    found_DK, alarms_DK = fake_DK.cumsum(axis=1), real_DK.cumsum(axis=1)
    fakes_D1, reals_D1 = found_DK[:, -1:], alarms_DK[:, -1:]

    # A real clip is beaten by the fake ones above it, and half by those level with it.
    beaten_D = (real_DK * (2 * found_DK - fake_DK)).sum(axis=1)
    auc_D[both_D] = beaten_D / (2 * fakes_D1 * reals_D1)[:, 0]

    # False positives minus misses, in whole numbers: it rises along the curve from below 0.
    start = ((0, 0), (1, 0))
    found_DK, alarms_DK = np.pad(found_DK, start), np.pad(alarms_DK, start)
    gap_DK = alarms_DK * fakes_D1 - (fakes_D1 - found_DK) * reals_D1
    after_D1 = np.argmax(gap_DK >= 0, axis=1)[:, None]
    gap_before, gap_after = (np.take_along_axis(gap_DK, after_D1 - i, axis=1) for i in (1, 0))
    before, after = (np.take_along_axis(alarms_DK, after_D1 - i, axis=1) for i in (1, 0))
    crossing_D1 = before - (after - before) * gap_before / (gap_after - gap_before)
    eer_D[both_D] = (crossing_D1 / reals_D1)[:, 0]
    return auc_D, eer_D


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
                _ratio(counts_DN @ self.right, clips_D),
                _ratio(2 * right_fake_D, 2 * right_fake_D + wrong_D),
                auc_D,
                eer_D,
                _ratio(counts_DN @ self.decided, clips_D),
            ]
        )


def _draw(
    labels: Sequence[str],
    variants: Sequence[Sequence[Sequence[Verdict]]],
    draws: int,
    seed: int,
) -> NDArray[np.float64]:
    """The figures (V, M, D) of every variant in every draw, means over seeds."""
    clips = len(labels)
    drawn_VMD = np.full((len(variants), len(METRICS), draws), np.nan)
    if not clips:
        return drawn_VMD
    runs = [[_Run(labels, verdicts) for verdicts in variant] for variant in variants]
    rng = np.random.default_rng(seed)
    for start in range(0, draws, BLOCK):
        size = min(BLOCK, draws - start)
        counts_DN = rng.multinomial(clips, np.full(clips, 1 / clips), size)
        for place, variant in enumerate(runs):
            metrics_MD = np.mean([run.metrics(counts_DN) for run in variant], axis=0)
            drawn_VMD[place, :, start : start + size] = metrics_MD
    return drawn_VMD


def _point(labels: Sequence[str], verdicts: Sequence[Verdict]) -> tuple[float | None, ...]:
    """The figures of the clips themselves, in the order of `METRICS`."""
    metrics = clip_metrics(labels, verdicts)
    decisions = metrics.undecided_wrong
    return decisions.accuracy, decisions.f1, metrics.auc, metrics.eer, metrics.coverage


def _estimates(point: Sequence[float | None], drawn_MD: NDArray[np.float64]) -> Estimates:
    return Estimates(
        **{
            name: _estimate(value, drawn_D)
            for name, value, drawn_D in zip(METRICS, point, drawn_MD, strict=True)
        }
    )


def _estimate(value: float | None, drawn_D: NDArray[np.float64]) -> Estimate:
    defined = drawn_D[~np.isnan(drawn_D)]
    if value is None or not defined.size:
        return Estimate(value=value)
    low, high = np.percentile(defined, (2.5, 97.5))
    return Estimate(value=value, low=float(low), high=float(high))


def _mean(values: Sequence[float | None]) -> float | None:
    """None where a seed has none: the rest would be compared with other clips."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _minus(value: float | None, first: float | None) -> float | None:
    return None if value is None or first is None else value - first


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
