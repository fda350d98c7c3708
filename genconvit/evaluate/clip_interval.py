"""How much a clip's P(fake) depends on which of its frames were looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import calibrated, larger_of
from genconvit.evaluate.clip_score import clip_score
from genconvit.verdict import TimelinePoint

RESAMPLES = 200
COVERAGE = 0.95


def clip_interval(
    points: Sequence[TimelinePoint], decision: DecisionSettings
) -> tuple[float, float] | None:
    """Where P(fake) of a clip lies with 95 %, had other frames been drawn from it.

    A percentile bootstrap (Efron and Tibshirani 1993) over frames, with all faces of a frame kept
    together. It knows nothing of how wrong the detector is about the clip as a whole.

    Args:
        points: One a crop, scored for `decision`, in any order.
        decision: How they become P(fake).

    Returns:
        The lower and the upper end; None with fewer than two frames. Equal for equal arguments.
    """
    frames = np.array([point.frame_index for point in points])
    _, frame_N = np.unique(frames, return_inverse=True)
    count = int(frame_N.max()) + 1 if len(points) else 0
    if count < 2:
        return None
    if decision.aggregation == "original":
        score_NK = np.array([point.sigmoids for point in points])
    else:
        score_NK = np.array([[point.probability_fake] for point in points])
    rng = np.random.default_rng(0)
    drawn_RF = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    if decision.aggregation == "mean":  # the usual one, of which a server makes many
        crops_F = np.bincount(frame_N)
        sums_F = np.bincount(frame_N, score_NK[:, 0])
        means_R = (drawn_RF @ sums_F) / (drawn_RF @ crops_F)
        found = [calibrated(min(max(mean, 0.0), 1.0), decision) for mean in means_R.tolist()]
    else:
        found = [_score(score_NK, frame_N, times_F, decision) for times_F in drawn_RF]
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def _score(
    score_NK: np.ndarray, frame_N: np.ndarray, times_F: np.ndarray, decision: DecisionSettings
) -> float:
    """P(fake) where frame f was drawn `times_F[f]` times."""
    repeats_N = times_F[frame_N]
    if decision.aggregation == "original":
        for_fake, for_real = np.average(score_NK, axis=0, weights=repeats_N)
        return larger_of(float(for_fake), float(for_real))
    # The copies of a frame stay apart from each other: `max` takes the mean over frames.
    first_N = np.cumsum(repeats_N) - repeats_N
    copy_M = np.arange(repeats_N.sum()) - np.repeat(first_N, repeats_N)
    frame_M = np.repeat(frame_N, repeats_N) + copy_M * len(times_F)
    score_M = np.repeat(score_NK[:, 0], repeats_N)
    return calibrated(clip_score(score_M, frame_M, decision.aggregation, decision.top_k), decision)
