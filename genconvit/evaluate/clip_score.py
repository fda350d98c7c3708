"""One score of a clip, from the scores of its crops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

SURE_FAKE, SURE_REAL = 0.8, 0.2
FAKE_SHARE, FAKE_COUNT, REAL_SHARE = 0.4, 11, 0.9
"""`confident` heeds fake crops alone where more than this share and this many are sure, and real
ones alone where more than that share is. They are the numbers of the winners of the DFDC
(https://github.com/selimsef/dfdc_deepfake_challenge)."""


def clip_score(p_fake_N: ArrayLike, frame_N: ArrayLike, aggregation: str, top_k: int = 10) -> float:
    """The score of a clip.

    Args:
        p_fake_N: P(fake) of its N crops, at least one, in any order.
        frame_N: The frame that each is of.
        aggregation: A name of `AGGREGATIONS`.
        top_k: Crops that `top_k` looks at, or all where there are fewer.
    """
    scores = np.asarray(p_fake_N, dtype=np.float64)
    order = np.lexsort((np.asarray(frame_N), scores))  # sums do not depend on the order given
    scores, frames = scores[order], np.asarray(frame_N)[order]
    found = float(AGGREGATIONS[aggregation](scores, frames, top_k))
    return min(max(found, 0.0), 1.0)


def _mean(scores: NDArray[np.float64], frames: NDArray[np.int64], top_k: int) -> float:
    return float(scores.mean())


def _median(scores: NDArray[np.float64], frames: NDArray[np.int64], top_k: int) -> float:
    return float(np.median(scores))


def _top_k(scores: NDArray[np.float64], frames: NDArray[np.int64], top_k: int) -> float:
    return float(scores[-top_k:].mean())


def _max(scores: NDArray[np.float64], frames: NDArray[np.int64], top_k: int) -> float:
    _, index = np.unique(frames, return_inverse=True)
    highest = np.zeros(index.max() + 1)
    np.maximum.at(highest, index, scores)
    return float(highest.mean())


def _confident(scores: NDArray[np.float64], frames: NDArray[np.int64], top_k: int) -> float:
    fake, real = scores[scores > SURE_FAKE], scores[scores < SURE_REAL]
    if len(fake) > FAKE_SHARE * len(scores) and len(fake) > FAKE_COUNT:
        return float(fake.mean())
    if len(real) > REAL_SHARE * len(scores):
        return float(real.mean())
    return float(scores.mean())


AGGREGATIONS: dict[str, Callable[[NDArray[np.float64], NDArray[np.int64], int], float]] = {
    "mean": _mean,
    "median": _median,
    "top_k": _top_k,
    "max": _max,
    "confident": _confident,
}
"""All but `original`, which needs more than P(fake)."""
