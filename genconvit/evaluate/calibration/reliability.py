"""Whether a P(fake) of 0.8 is fake in 80 % of cases: bins, their error, and their figure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from genconvit.evaluate.figure import COLOURS, INK, style, unit_square
from genconvit.evaluate.score_metrics import ECE_BINS


@dataclass(frozen=True)
class ReliabilityBins:
    """The bins of equal width that hold clips; an entry each."""

    places: NDArray[np.int64]
    """Which of the `ECE_BINS` it is."""
    clips: NDArray[np.int64]
    fakes: NDArray[np.int64]
    weights: NDArray[np.float64]
    """Share of the clips' weight; they sum to 1."""
    mean_p_fake: NDArray[np.float64]
    share_fake: NDArray[np.float64]


def reliability_bins(
    is_fake_N: ArrayLike, p_fake_N: ArrayLike, weight_N: ArrayLike | None = None
) -> ReliabilityBins:
    """Sorts clips by P(fake) into bins.

    Args:
        is_fake_N: Labels: true or 1 is fake.
        p_fake_N: P(fake), from 0 to 1.
        weight_N: What each clip counts; by default all the same.
    """
    is_fake, p_fake = np.asarray(is_fake_N, dtype=bool), np.asarray(p_fake_N, dtype=float)
    weight = np.ones(len(p_fake)) if weight_N is None else np.asarray(weight_N, dtype=float)
    place_N = np.searchsorted(np.linspace(0, 1, ECE_BINS + 1)[1:-1], p_fake)
    place_B, bin_N, clips_B = np.unique(place_N, return_inverse=True, return_counts=True)
    sums = np.bincount(bin_N, weight)
    return ReliabilityBins(
        places=place_B,
        clips=clips_B,
        fakes=np.bincount(bin_N[is_fake], minlength=len(place_B)),
        weights=sums / weight.sum(),
        mean_p_fake=np.bincount(bin_N, weight * p_fake) / sums,
        share_fake=np.bincount(bin_N, weight * is_fake) / sums,
    )


def calibration_error(
    is_fake_N: ArrayLike, p_fake_N: ArrayLike, weight_N: ArrayLike | None = None
) -> float:
    """Expected calibration error: how far P(fake) and the share of fake clips lie apart.

    It is that of `genconvit.evaluate.score_metrics`, for clips that may count differently.
    """
    bins = reliability_bins(is_fake_N, p_fake_N, weight_N)
    return float(bins.weights @ np.abs(bins.mean_p_fake - bins.share_fake))


def reliability_figure(
    is_fake_N: ArrayLike, p_fake_N: ArrayLike, title: str = "Reliability"
) -> Figure:
    """The share of fake clips over P(fake), with 95 % intervals, above the number of clips.

    Args:
        is_fake_N: Labels: true or 1 is fake. At least one.
        p_fake_N: P(fake), from 0 to 1.
        title: Goes above it, before the calibration error.
    """
    bins = reliability_bins(is_fake_N, p_fake_N)
    error = calibration_error(is_fake_N, p_fake_N)
    interval_2B = np.array(
        [
            binomtest(int(fakes), int(clips)).proportion_ci(method="exact")
            for fakes, clips in zip(bins.fakes, bins.clips, strict=True)
        ]
    ).T
    figure = Figure(figsize=(6, 5.6), dpi=150, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    style(top, f"{title}, calibration error {error:.3f}", "", "Fake clips in the bin")
    top.plot([0, 1], [0, 1], color=COLOURS["undecided"], linestyle="--", lw=1, label="calibrated")
    top.errorbar(
        bins.mean_p_fake,
        bins.share_fake,
        yerr=np.abs(interval_2B - bins.share_fake),
        color=COLOURS["real"],
        marker="o",
        markersize=6,
        linestyle="none",
        elinewidth=1.2,
        capsize=3,
        clip_on=False,
        label="clips, 95 % interval",
    )
    unit_square(top)
    # Outside: with few clips the intervals are everywhere.
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, labelcolor=INK, frameon=False)
    style(bottom, "", "P(fake)", "Clips")
    bars = bottom.bar(
        (bins.places + 0.5) / ECE_BINS,
        bins.clips,
        0.92 / ECE_BINS,
        color=COLOURS["real"],
        alpha=0.6,
    )
    bottom.bar_label(bars, fontsize=8, color=INK, padding=1)
    bottom.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    bottom.margins(y=0.25)
    bottom.grid(visible=False, axis="x")
    return figure
