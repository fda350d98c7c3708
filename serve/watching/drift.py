"""How far what comes in lies from what a detector was validated on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genconvit.reference import (
    SCALES,
    Reference,
    Scale,
    Statistics,
    crop_statistics,
    population_stability_index,
    spread,
)

MEMORY = 2000
"""Clips that are remembered: older ones fade, the last so many weigh 63 % of all."""
ENOUGH = 200
"""Clips on either side below which an index would be chance more than drift."""
CROPS_A_CLIP = 16
"""Crops of a clip that are looked at."""


def look_at(crops_BHWC: NDArray[np.uint8]) -> Statistics:
    """Statistics of some crops of a clip, spread evenly; for whoever holds the pixels.

    Args:
        crops_BHWC: All crops of a clip or of a part of it, in the size that the network sees.

    Returns:
        As `crop_statistics`, of at most `CROPS_A_CLIP` crops.
    """
    return crop_statistics(crops_BHWC[spread(len(crops_BHWC), CROPS_A_CLIP)])


class Window:
    """One statistic of the clips that came in.

    Args:
        scale: How it is counted.

    Attributes:
        recent: Clips by bin, of which older ones have faded.
        counts: Values by bin since the start.
        total: Their sum.
    """

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.recent = np.zeros_like(scale.edges[1:])
        self.counts = np.zeros_like(self.recent)
        self.total = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Counts the values of a clip, at least one; together they weigh 1."""
        counts = self.scale.count(values)
        self.recent = self.recent * (1 - 1 / MEMORY) + counts / len(values)
        self.counts = self.counts + counts
        self.total += float(values.sum())

    @property
    def clips(self) -> float:
        """How many clips are remembered."""
        return float(self.recent.sum())


class Drift:
    """The clips that came in for one detector, beside those that it was validated on.

    Args:
        reference: Of the detector; without one nothing is compared.
        prevalence: The share of fake clips that the detector was calibrated for.
    """

    def __init__(self, reference: Reference | None, prevalence: float | None = None) -> None:
        self._prevalence = prevalence
        self._expected = reference.histograms() if reference else {}
        self.windows = {
            name: Window(self._expected[name].scale if name in self._expected else scale)
            for name, scale in SCALES.items()
        }

    def add(
        self,
        scores_N: NDArray[np.float64],
        statistics: Mapping[str, ArrayLike],
        *,
        of_a_clip: bool = True,
    ) -> None:
        """Counts crops that came in together, as 1; where there are none, nothing.

        Args:
            scores_N: P(fake) of the crops, without temperature; empty where they have none.
            statistics: Values of some of them by name, as in `SCALES`.
            of_a_clip: Their mean is the score of a clip.
        """
        found = {"crop_score": scores_N, **statistics}
        if of_a_clip and len(scores_N):
            found["clip_score"] = [np.mean(scores_N)]
        for name, values in found.items():
            if np.size(values):
                self.windows[name].add(np.asarray(values, dtype=np.float64))

    def psi(self) -> dict[str, float]:
        """The population stability index by statistic, where both sides have `ENOUGH` clips.

        Bins are taken in pairs: by chance alone, ten bins give half the index that twenty do.
        """
        found = {}
        for name, histogram in self._expected.items():
            seen = self.windows[name]
            if min(histogram.clips, seen.clips) >= ENOUGH:
                expected = histogram.expected(self._prevalence)
                pairs = (counts.reshape(-1, 2).sum(axis=1) for counts in (expected, seen.recent))
                found[name] = population_stability_index(*pairs)
        return found
