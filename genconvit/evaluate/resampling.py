"""How far figures depend on the clips: draws of whole groups of them, and 95 % intervals.

A draw takes as many groups as there are, with replacement, and of each all clips: clips of one
person or one source are alike, and as independent ones they would promise too much (Davison and
Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). Intervals are percentiles of
the draws (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genconvit.evaluate.estimate import Estimate
from genconvit.evaluate.score_metrics import (
    FIGURES,
    LOW_FPR,
    ScoreMetrics,
    score_metrics,
)
from genconvit.wording import plural

DRAWS = 2000
BLOCK = 100
BLOCK_COUNTS = 2_000_000
"""Draws that are held in memory at a time, and counts of clips in them, at most."""
DRAWN = tuple(name for name in FIGURES if name != "ece")
"""The figures with intervals. A draw repeats clips, which looks like miscalibration: its ECE is
higher than that of the clips, and percentiles would miss the true one almost always."""
ONE_GROUP = "All clips are of one group: there is nothing to draw, and there are no intervals."
FEW_GROUPS = 20
"""With fewer, percentiles are known to be too close together, and a note says so."""

_Floats = NDArray[np.float64]
_Counts = NDArray[np.int64]
_Bools = NDArray[np.bool_]


def group_index(groups: Sequence[str]) -> NDArray[np.int64]:
    """A number for each clip's group, from 0; a clip with an empty group is one of its own."""
    numbers: dict[str | int, int] = {}
    keys = [group or place for place, group in enumerate(groups)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def few_groups(groups: Sequence[str]) -> list[str]:
    """A note where there are too few groups, at least one, for intervals to be trusted."""
    total = int(group_index(groups).max()) + 1
    if total >= FEW_GROUPS:
        return []
    return [f"The intervals rest on {plural(total, 'group')} and are too narrow."]


def drawn_counts(groups: Sequence[str], draws: int = DRAWS, seed: int = 0) -> Iterator[_Counts]:
    """How often each draw has each clip.

    Args:
        groups: One a clip (N), at least one.
        draws: Sets of groups to draw.
        seed: Decides which; the same one repeats them.

    Yields:
        Blocks (D, N), `draws` rows in all; one without rows where there is a single group, of which
        every draw would be the same.
    """
    index_N = group_index(groups)
    total = int(index_N.max()) + 1
    if total < 2:
        yield np.empty((0, len(index_N)), dtype=np.int64)
        return
    rng = np.random.default_rng(seed)
    block = min(BLOCK, max(1, BLOCK_COUNTS // len(index_N)))
    for start in range(0, draws, block):
        size = min(block, draws - start)
        yield rng.multinomial(total, np.full(total, 1 / total), size)[:, index_N]


def interval(drawn_D: _Floats) -> tuple[float, float] | None:
    """The middle 95 % of draws, without those where the figure is NaN; None where all are."""
    defined = drawn_D[~np.isnan(drawn_D)]
    if not defined.size:
        return None
    low, high = np.percentile(defined, (2.5, 97.5))
    return float(low), float(high)


def estimated(value: float | None, drawn_D: _Floats) -> Estimate:
    """A figure, None where it is undefined, with the interval of its draws."""
    low, high = interval(drawn_D) or (None, None)
    return Estimate() if value is None else Estimate(value=value, low=low, high=high)


def measured_scores(
    is_fake: ArrayLike,
    p_fake: ArrayLike,
    groups: Sequence[str],
    threshold: float = 0.5,
    draws: int = DRAWS,
    seed: int = 0,
) -> ScoreMetrics:
    """All figures of clips' scores, with intervals.

    Args:
        is_fake: Labels (N): true or 1 is fake.
        p_fake: Scores (N), from 0 to 1.
        groups: Groups (N); empty is a group of its own.
        threshold: A score above it is called fake.
        draws: Sets of groups to draw, where there are two at least. A draw in which a figure is
            undefined, such as the AUC of one class, is left out of that figure's interval.
        seed: Decides which.
    """
    is_fake_N, p_fake_N = np.asarray(is_fake, dtype=bool), np.asarray(p_fake, dtype=float)
    metrics = score_metrics(is_fake_N, p_fake_N, threshold)
    total = len(set(group_index(groups).tolist()))
    if total < 2:
        notes = [*metrics.notes, *[ONE_GROUP] * total]
        return metrics.model_copy(update={"groups": total, "notes": notes})
    blocks = [
        resampled_figures(is_fake_N, p_fake_N, counts_DN, threshold)
        for counts_DN in drawn_counts(groups, draws, seed)
    ]
    drawn = {name: interval(np.concatenate([block[name] for block in blocks])) for name in DRAWN}
    intervals = {
        name: ends
        for name, ends in drawn.items()
        if ends is not None and getattr(metrics, name) is not None
    }
    total, notes = int(group_index(groups).max()) + 1, [*metrics.notes, *few_groups(groups)]
    return metrics.model_copy(update={"intervals": intervals, "groups": total, "notes": notes})


def measured_share(part_N: _Bools, whole_N: _Bools, groups: Sequence[str]) -> Estimate:
    """Which share of the clips in `whole_N` is in `part_N`, with its interval."""
    whole = int(whole_N.sum())
    if not whole:
        return Estimate()
    value = int((part_N & whole_N).sum()) / whole
    if len(set(group_index(groups).tolist())) < 2:
        return Estimate(value=value)
    masks_N2 = np.stack([part_N & whole_N, whole_N], axis=1)
    part_D, whole_D = np.concatenate([counts @ masks_N2 for counts in drawn_counts(groups)]).T
    return estimated(value, ratio(part_D, whole_D))


def resampled_scores(
    is_fake_N: _Bools, p_fake_N: _Floats, counts_DN: _Counts
) -> tuple[_Floats, _Floats]:
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
    both_D = ((counts_DN @ is_fake_N) > 0) & ((counts_DN @ ~is_fake_N) > 0)
    if both_D.any():
        curves = _Curves(is_fake_N, p_fake_N, counts_DN[both_D])
        auc_D[both_D], eer_D[both_D] = curves.auc(), curves.eer()
    return auc_D, eer_D


def resampled_figures(
    is_fake_N: _Bools, p_fake_N: _Floats, counts_DN: _Counts, threshold: float
) -> dict[str, _Floats]:
    """The figures `DRAWN` (D each) of many draws from the same clips: those of `score_metrics`.

    Args:
        is_fake_N: Labels: true is fake.
        p_fake_N: Scores, from 0 to 1.
        counts_DN: How often each draw has each clip.
        threshold: A score above it is called fake.

    Returns:
        NaN where a figure is undefined in a draw.
    """
    called_N, real_N = p_fake_N > threshold, ~is_fake_N
    clipped_N = np.clip(p_fake_N, np.finfo(float).eps, 1 - np.finfo(float).eps)
    loss_N = -np.log(np.where(is_fake_N, clipped_N, 1 - clipped_N))
    square_N = np.square(p_fake_N - is_fake_N)
    calls = [is_fake_N & called_N, is_fake_N & ~called_N, real_N & called_N, real_N & ~called_N]
    sums_DM = counts_DN.astype(float) @ np.column_stack([*calls, loss_N, square_N])
    tp_D, fn_D, fp_D, tn_D, loss_D, square_D = sums_DM.T
    clips_D, fakes_D, reals_D = tp_D + fn_D + fp_D + tn_D, tp_D + fn_D, fp_D + tn_D
    recall_D = ratio(tp_D, fakes_D)
    margins_D = fakes_D * reals_D * (tp_D + fp_D) * (tn_D + fn_D)
    figures = dict.fromkeys(DRAWN, np.full(len(counts_DN), np.nan)) | {
        "accuracy": ratio(tp_D + tn_D, clips_D),
        "balanced_accuracy": (recall_D + ratio(tn_D, reals_D)) / 2,
        "precision": ratio(tp_D, tp_D + fp_D),
        "recall": recall_D,
        "f1": ratio(2 * tp_D, 2 * tp_D + fp_D + fn_D),
        "mcc": ratio(tp_D * tn_D - fp_D * fn_D, np.sqrt(margins_D)),
        "log_loss": ratio(loss_D, clips_D),
        "brier": ratio(square_D, clips_D),
    }
    both_D = (fakes_D > 0) & (reals_D > 0)
    if both_D.any():
        curves = _Curves(is_fake_N, p_fake_N, counts_DN[both_D])
        ranking = {
            "auc": curves.auc(),
            "average_precision": curves.average_precision(),
            "eer": curves.eer(),
            "eer_threshold": curves.eer_threshold(),
            **{name: curves.tpr_at(most) for name, most in LOW_FPR.items()},
        }
        for name, values in ranking.items():
            figures[name] = np.full(len(counts_DN), np.nan)
            figures[name][both_D] = values
    return figures


def resampled_spearman(x_N: _Floats, y_N: _Floats, counts_DN: _Counts) -> _Floats:
    """Spearman's rank correlation (D) of many draws from the same clips: that of
    `scipy.stats.spearmanr`, found for all draws at once.

    Args:
        x_N: Values, finite.
        y_N: Others.
        counts_DN: How often each draw has each clip.

    Returns:
        NaN for draws in which all of `x_N` or all of `y_N` are equal.
    """
    x_DN, y_DN = (_drawn_ranks(values_N, counts_DN) for values_N in (x_N, y_N))
    x_sum_D, y_sum_D = (counts_DN * x_DN * x_DN).sum(axis=1), (counts_DN * y_DN * y_DN).sum(axis=1)
    return ratio((counts_DN * x_DN * y_DN).sum(axis=1), np.sqrt(x_sum_D * y_sum_D))


def _drawn_ranks(values_N: _Floats, counts_DN: _Counts) -> _Floats:
    """The rank (D, N) of each clip in each draw, less the mean; equal ones share theirs."""
    distinct_K, place_N = np.unique(values_N, return_inverse=True)
    order = np.argsort(place_N, kind="stable")
    first_K = np.searchsorted(place_N[order], np.arange(len(distinct_K)))
    own_DK = np.add.reduceat(counts_DN[:, order], first_K, axis=1)
    below_DK = own_DK.cumsum(axis=1) - own_DK
    rank_DK = below_DK + own_DK / 2 - counts_DN.sum(axis=1, keepdims=True) / 2
    return rank_DK[:, place_N]


class _Curves:
    """The ROC curves of D draws that have both classes: a point for each of the K scores."""

    def __init__(self, is_fake_N: _Bools, p_fake_N: _Floats, counts_DN: _Counts) -> None:
        order = np.argsort(-p_fake_N, kind="stable")
        tied = np.flatnonzero(np.diff(p_fake_N[order], prepend=np.inf))  # where a score begins
        counts_DN, is_fake_N = counts_DN[:, order], is_fake_N[order]
        self.score_K = p_fake_N[order][tied]
        self.fake_DK = np.add.reduceat(counts_DN * is_fake_N, tied, axis=1)
        self.real_DK = np.add.reduceat(counts_DN * ~is_fake_N, tied, axis=1)
        self.found_DK, self.alarms_DK = self.fake_DK.cumsum(axis=1), self.real_DK.cumsum(axis=1)
        self.fakes_D1, self.reals_D1 = self.found_DK[:, -1:], self.alarms_DK[:, -1:]
        # False positives minus misses, in whole numbers: it rises along the curve.
        misses_DK = self.fakes_D1 - self.found_DK
        self.gap_DK = self.alarms_DK * self.fakes_D1 - misses_DK * self.reals_D1

    def auc(self) -> _Floats:
        # A real clip is beaten by the fake ones above it, and half by those level with it.
        beaten_D = (self.real_DK * (2 * self.found_DK - self.fake_DK)).sum(axis=1)
        return np.divide(beaten_D, (2 * self.fakes_D1 * self.reals_D1)[:, 0])

    def average_precision(self) -> _Floats:
        called_DK = np.maximum(self.found_DK + self.alarms_DK, 1)  # nothing called adds nothing
        return (self.fake_DK * (self.found_DK / called_DK)).sum(axis=1) / self.fakes_D1[:, 0]

    def eer(self) -> _Floats:
        start = ((0, 0), (1, 0))  # the curve's first point calls nothing
        alarms_DK = np.pad(self.alarms_DK, start)
        gap_DK = np.concatenate([-self.fakes_D1 * self.reals_D1, self.gap_DK], axis=1)
        after_D1 = np.argmax(gap_DK >= 0, axis=1)[:, None]
        gap_before, gap_after = (np.take_along_axis(gap_DK, after_D1 - i, axis=1) for i in (1, 0))
        before, after = (np.take_along_axis(alarms_DK, after_D1 - i, axis=1) for i in (1, 0))
        crossing_D1 = before - (after - before) * gap_before / (gap_after - gap_before)
        return np.divide(crossing_D1, self.reals_D1)[:, 0]

    def eer_threshold(self) -> _Floats:
        drawn_DK = self.found_DK + self.alarms_DK > 0  # scores before the draw's first are no point
        distance_DK = np.where(drawn_DK, np.abs(self.gap_DK), np.iinfo(np.int64).max)
        return self.score_K[np.argmin(distance_DK, axis=1)]

    def tpr_at(self, most: float) -> _Floats:
        allowed_DK = self.alarms_DK / self.reals_D1 <= most
        return np.where(allowed_DK, self.found_DK / self.fakes_D1, 0.0).max(axis=1)


def ratio(part: _Floats | _Counts, whole: _Floats | _Counts) -> _Floats:
    """NaN where there is nothing to divide by."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
