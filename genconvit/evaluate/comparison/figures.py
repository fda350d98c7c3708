"""Figures of a comparison: one row a variant, so that long names have room."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genconvit.evaluate.bootstrap import Estimate
from genconvit.evaluate.comparison.results import ComparisonReport
from genconvit.evaluate.comparison.text import MAIN, TITLES, cost, wrapped
from genconvit.evaluate.figure import INK, save, style
from genconvit.evaluate.metrics import ClipMetrics
from genconvit.evaluate.plots import confusion_figure

FIRST, OTHERS = "#A9A9A9", "#56B4E9"
COLUMNS = 2
NAME_WIDTH = 24
"""Letters in a line of a variant's name."""


def draw_comparison(
    out: Path, report: ComparisonReport, pooled: dict[str, ClipMetrics]
) -> list[Path]:
    """Draws a comparison.

    Args:
        out: An existing folder.
        report: What was found.
        pooled: Metrics over all seeds, by slug.

    Returns:
        The files written: comparison_metrics.png, comparison_costs.png, then a confusion matrix a
        variant. None where every variant failed, and no matrices without a clip.
    """
    judged = report.judged
    if not judged:
        return []
    names = [variant.name for variant in judged]
    metrics = {
        f"{TITLES[name]} ({'lower' if name == 'eer' else 'higher'} is better)": [
            (estimate, estimate.text())
            for estimate in (variant.metrics[name] for variant in judged)
        ]
        for name in MAIN
    }
    costs = {
        title: [
            (Estimate(value=variant.costs()[title]), cost(variant.costs()[title]))
            for variant in judged
        ]
        for title in judged[0].costs()
    }
    about = (
        f"{report.clips} clips; whiskers are 95 % intervals, the dotted line is the first variant"
    )
    paths = [
        save(_bar_panels(about, names, metrics), out / "comparison_metrics.png"),
        save(_bar_panels(f"Costs on {report.device}", names, costs), out / "comparison_costs.png"),
    ]
    if report.clips:
        paths += [
            save(
                confusion_figure(pooled[variant.slug], wrapped(variant.name, 48)),
                out / f"confusion_matrix_{variant.slug}.png",
            )
            for variant in judged
        ]
    return paths


def _bar_panels(
    title: str, names: Sequence[str], panels: Mapping[str, Sequence[tuple[Estimate, str]]]
) -> Figure:
    """Bars of all variants, one panel a figure, with whiskers where there is an interval.

    Args:
        title: Of the whole.
        names: Of the variants (V). The first is grey, and a dotted line marks its value.
        panels: For each panel's title, of each variant (V), the value and how it is written.
    """
    rows = math.ceil(len(panels) / COLUMNS)
    height = rows * (0.9 + 0.55 * len(names)) + 0.4
    figure = Figure(figsize=(11, height), dpi=150, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
    for place, (name, bars) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, COLUMNS, place + 1)
        style(axes, name, "", "")
        _bars(axes, bars)
        shown = [wrapped(each, NAME_WIDTH) for each in names]
        if place % COLUMNS:
            shown = [""] * len(names)  # the panel to the left has them
        axes.set_yticks(range(len(names)), shown, parse_math=False)
    return figure


def _bars(axes: Axes, bars: Sequence[tuple[Estimate, str]]) -> None:
    for row, (estimate, text) in enumerate(bars):
        place = axes.get_yaxis_transform()
        axes.text(1.02, row, text, transform=place, va="center", fontsize=9, color=INK)
        if estimate.value is None:
            continue
        axes.barh(row, estimate.value, 0.6, color=OTHERS if row else FIRST)
        if estimate.low is not None and estimate.high is not None:
            # Not errorbar: an interval need not contain its value.
            ends = [estimate.low, estimate.high]
            axes.plot(ends, [row, row], "|-", color=INK, lw=1.4, ms=8, mew=1.4, clip_on=False)
    first = bars[0][0].value
    if first is not None:
        axes.axvline(first, color=INK, linestyle=":", linewidth=1)
    largest = max([edge for each, _ in bars for edge in (each.value, each.high) if edge] or [1.0])
    axes.set_xlim(0, 1 if 0.5 < largest <= 1 else 1.05 * largest)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
