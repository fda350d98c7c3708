"""Figures of an evaluation, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import det_curve, precision_recall_curve, roc_curve

from genconvit.config import CLASSES, DecisionSettings
from genconvit.evaluate.figure import COLOURS, INK, legend, new_figure, save, unit_square
from genconvit.evaluate.metrics import VERDICTS, ClipMetrics, clip_metrics, clip_scores
from genconvit.verdict import Verdict

EVALUATION_FIGURES = (
    "confusion_matrix.png",
    "prediction_distribution.png",
    "confidence_distribution.png",
    "roc_curve.png",
    "precision_recall_curve.png",
    "det_curve.png",
)
DET_TICKS = (0.001, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 0.99)


def evaluation_figures(
    out: Path, labels: Sequence[str], verdicts: Sequence[Verdict], decision: DecisionSettings
) -> list[Path]:
    """Draws what an evaluation shows.

    Args:
        out: An existing folder.
        labels: "fake" or "real", one a clip.
        verdicts: One a clip, in the same order.
        decision: Threshold and margin, which are marked.

    Returns:
        The files written, out of `EVALUATION_FIGURES`. Curves need clips of both classes, the
        histogram a score, the other figures a clip.
    """
    if not verdicts:
        return []
    metrics = clip_metrics(labels, verdicts)
    figures = [confusion_figure(metrics), _predictions(metrics)]
    is_fake, p_fake = clip_scores(labels, verdicts)
    if p_fake.size:
        figures.append(_confidence(is_fake, p_fake, decision))
    if metrics.auc is not None:
        figures.append(_roc(is_fake, p_fake, metrics, decision))
        figures.append(_precision_recall(is_fake, p_fake, metrics, decision))
        figures.append(_det(is_fake, p_fake, metrics, decision))
    return [
        save(figure, out / name) for name, figure in zip(EVALUATION_FIGURES, figures, strict=False)
    ]


def confusion_figure(metrics: ClipMetrics, title: str = "Confusion matrix") -> Figure:
    """Clips by true label and verdict, with their shares of the label."""
    counts = np.array([[metrics.confusion[label][word] for word in VERDICTS] for label in CLASSES])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = new_figure(title, "Verdict", "True label")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(VERDICTS)), VERDICTS)
    axes.set_yticks(range(len(CLASSES)), CLASSES)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        colour = "white" if share > 0.55 else INK
        place: dict[str, Any] = {"ha": "center", "color": colour}
        axes.text(column, row, f"{count}", va="bottom", fontsize=17, **place)
        axes.text(column, row + 0.06, f"{share:.0%}", va="top", fontsize=10, **place)
    return figure


def _predictions(metrics: ClipMetrics) -> Figure:
    figure, axes = new_figure("Verdicts by true label", "True label", "Clips")
    for offset, word in enumerate(VERDICTS):
        heights = [metrics.confusion[label][word] for label in CLASSES]
        places = np.arange(len(CLASSES)) + (offset - 1) * 0.27
        hatch = "//" if word == "UNDECIDED" else None
        bars = axes.bar(
            places, heights, 0.25, label=word, color=COLOURS[word.lower()], hatch=hatch, ec="white"
        )
        axes.bar_label(bars, fontsize=10, color=INK, padding=2)
    axes.set_xticks(range(len(CLASSES)), CLASSES)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.12)
    legend(axes, "best")
    return figure


def _confidence(
    is_fake: NDArray[np.bool_], p_fake: NDArray[np.float64], decision: DecisionSettings
) -> Figure:
    figure, axes = new_figure("P(fake) of the clips", "P(fake)", "Clips")
    bins = [step / 20 for step in range(21)]
    for label, chosen, dashes in (("fake", is_fake, "-"), ("real", ~is_fake, "--")):
        colour = COLOURS[label]
        axes.hist(p_fake[chosen], bins, histtype="stepfilled", color=colour, alpha=0.35)
        axes.hist(
            p_fake[chosen],
            bins,
            histtype="step",
            color=colour,
            linestyle=dashes,
            linewidth=1.6,
            label=f"{label} ({chosen.sum()})",
        )
    low, high = decision.band
    if low < high:
        axes.axvspan(low, high, color=COLOURS["undecided"], alpha=0.2, lw=0, label="undecided")
    axes.axvline(decision.threshold, color=INK, linestyle=":", linewidth=1.2, label="threshold")
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes, "best")
    return figure


def _roc(
    is_fake: NDArray[np.bool_],
    p_fake: NDArray[np.float64],
    metrics: ClipMetrics,
    decision: DecisionSettings,
) -> Figure:
    figure, axes = new_figure(
        f"ROC curve, AUC {metrics.auc:.3f}", "False positive rate", "True positive rate"
    )
    fpr, tpr, _ = roc_curve(is_fake, p_fake)
    axes.plot([0, 1], [0, 1], color=COLOURS["undecided"], linestyle="--", lw=1, label="chance")
    axes.plot(fpr, tpr, color=COLOURS["real"], linewidth=2, clip_on=False)
    eer = metrics.eer or 0.0
    axes.plot(eer, 1 - eer, "D", color=INK, ms=6, clip_on=False, label=f"equal error {eer:.3f}")
    called = p_fake > decision.threshold
    axes.plot(
        called[~is_fake].mean(),
        called[is_fake].mean(),
        "o",
        color=COLOURS["fake"],
        markersize=7,
        clip_on=False,
        label=f"threshold {decision.threshold:.2f}",
    )
    unit_square(axes)
    legend(axes, "lower right")
    return figure


def _precision_recall(
    is_fake: NDArray[np.bool_],
    p_fake: NDArray[np.float64],
    metrics: ClipMetrics,
    decision: DecisionSettings,
) -> Figure:
    figure, axes = new_figure(
        f"Precision and recall, average precision {metrics.average_precision:.3f}",
        "Recall",
        "Precision",
    )
    precision, recall, _ = precision_recall_curve(is_fake, p_fake)
    share = is_fake.mean()
    grey = COLOURS["undecided"]
    axes.axhline(share, color=grey, linestyle="--", lw=1, label=f"chance {share:.2f}")
    # A step: average precision is the area below it, straight lines would promise more.
    axes.step(recall, precision, where="post", color=COLOURS["real"], linewidth=2, clip_on=False)
    called = p_fake > decision.threshold
    if called.any():
        axes.plot(
            called[is_fake].mean(),
            is_fake[called].mean(),
            "o",
            color=COLOURS["fake"],
            markersize=7,
            clip_on=False,
            label=f"threshold {decision.threshold:.2f}",
        )
    unit_square(axes)
    legend(axes, "lower left")
    return figure


def _det(
    is_fake: NDArray[np.bool_],
    p_fake: NDArray[np.float64],
    metrics: ClipMetrics,
    decision: DecisionSettings,
) -> Figure:
    """Both errors on axes of normal deviates, which spread small rates: Martin et al., "The DET
    curve in assessment of detection task performance", Eurospeech 1997."""
    figure, axes = new_figure(
        "Detection errors", "Real clips called fake (false alarms)", "Fake clips missed"
    )
    fpr, fnr, _ = det_curve(is_fake, p_fake)
    # A rate of none has no place on these axes: it is drawn at half a clip.
    least = [0.5 / max(1, count) for count in ((~is_fake).sum(), is_fake.sum())]
    x, y = (
        norm.ppf(np.clip(rates, floor, 1 - floor))
        for rates, floor in zip((fpr, fnr), least, strict=True)
    )
    axes.plot(x, y, color=COLOURS["real"], linewidth=2, drawstyle="steps-post")
    ends = norm.ppf([min(least) / 1.5, 1 - min(least) / 1.5])
    axes.plot(ends, ends, color=COLOURS["undecided"], linestyle="--", lw=1, label="equal errors")
    called = p_fake > decision.threshold
    here = np.array([called[~is_fake].mean(), 1 - called[is_fake].mean()])
    axes.plot(
        *norm.ppf(np.clip(here, least, 1 - np.array(least))),
        "o",
        color=COLOURS["fake"],
        markersize=7,
        label=f"threshold {decision.threshold:.2f}",
    )
    ticks = [t for t in DET_TICKS if min(least) / 2 <= t <= 1 - min(least) / 2]
    for set_ticks, set_limits in (
        (axes.set_xticks, axes.set_xlim),
        (axes.set_yticks, axes.set_ylim),
    ):
        set_ticks(norm.ppf(ticks), [f"{100 * tick:g} %" for tick in ticks])
        set_limits(*ends)
    legend(axes, "best")
    return figure
