"""Figures of a comparison of recipes, as PNG files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from genconvit.evaluate.figure import COLOURS, FAINT, INK, LINES, save, style
from genconvit.recipe.figures import ClipSet, ViewResult
from genconvit.recipe.report import RecipesReport
from genconvit.wording import shortened

COLUMNS = 3
MOST_LETTERS = 28
CURVES = (*LINES, "#000000")
DASHES = ("-", "--", ":", "-.")


def draw_recipes(out: Path, report: RecipesReport) -> list[Path]:
    """Draws recipes.png, and recipe_epochs.png where there are scores of several epochs.

    Args:
        out: An existing folder.
        report: What was found.

    Returns:
        The files written; none where no recipe was judged.
    """
    panels = [(title, one) for title, view in report.views for one in view.sets]
    if not panels:
        return []
    names = [recipe.name for recipe in report.recipes]
    paths = [save(_forest(names, panels, report.baseline), out / "recipes.png")]
    curves = [
        (title, view)
        for title, view in report.views
        if any(len(own) > 1 for own in view.curve.values())
    ]
    if curves:
        paths.append(save(_curves(names, curves), out / "recipe_epochs.png"))
    return paths


def _forest(names: Sequence[str], panels: Sequence[tuple[str, ClipSet]], baseline: str) -> Figure:
    """A row a recipe and a panel a set; a dotted line marks the baseline."""
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    height = rows * (1.1 + 0.32 * len(names)) + 0.5
    figure = Figure(figsize=(1.6 + 3.4 * columns, height), dpi=150, layout="constrained")
    for place, (title, clips) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, place + 1)
        what = f"{title}: {clips.name} ({clips.fake} + {clips.real})"
        style(axes, "", "AUC", "")
        axes.set_title(what, loc="left", fontsize=10, color=INK, parse_math=False)
        _rows(axes, names, clips, baseline)
        first = place % columns == 0
        shown = [_short(name) if first else "" for name in names]
        axes.set_yticks(range(len(names)), shown, parse_math=False)
    lowest = min(axes.get_xlim()[0] for axes in figure.axes)
    for axes in figure.axes:
        axes.set_xlim(min(lowest, 0.45), 1.01)
    axes = figure.axes[0]
    axes.plot([], [], "o-", color=COLOURS["real"], label="all seeds' mean score, 95 % interval")
    axes.plot([], [], "|", color=INK, label="each seed")
    axes.plot([], [], ":", color=INK, label=f"{_short(baseline)}")
    axes.plot([], [], "--", color=COLOURS["undecided"], label="chance")
    figure.legend(loc="outside lower left", ncols=2, fontsize=9, labelcolor=INK, frameon=False)
    return figure


def _rows(axes: Axes, names: Sequence[str], clips: ClipSet, baseline: str) -> None:
    axes.axvline(0.5, color=COLOURS["undecided"], linestyle="--", lw=1)
    first = clips.results.get(baseline)
    if first is not None and first.auc.value is not None:
        axes.axvline(first.auc.value, color=INK, linestyle=":", lw=1)
    for row, name in enumerate(names):
        result = clips.results.get(name)
        if result is None or result.auc.value is None:
            axes.text(0.5, row, " failed", va="center", fontsize=9, color=INK)
            continue
        auc = result.auc
        if auc.low is not None and auc.high is not None:
            axes.plot([auc.low, auc.high], [row, row], color=COLOURS["real"], lw=2)
        axes.plot([auc.value or 0.0], [row], "o", color=COLOURS["real"], ms=6)
        seeds = [seed for seed in result.seeds if seed is not None]
        axes.plot(seeds, [row] * len(seeds), "|", color=INK, ms=9, mew=1.2)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _curves(names: Sequence[str], views: Sequence[tuple[str, ViewResult]]) -> Figure:
    figure = Figure(figsize=(1 + 5 * len(views), 4.8), dpi=150, layout="constrained")
    for place, (title, view) in enumerate(views):
        axes = figure.add_subplot(1, len(views), place + 1)
        style(axes, f"{title}: AUC over all clips, mean of seeds", "Epoch", "AUC")
        axes.axhline(0.5, color=FAINT, lw=1)
        for number, name in enumerate(names):
            own = view.curve.get(name)
            if own:
                dashes = DASHES[number // len(CURVES) % len(DASHES)]
                colour = CURVES[number % len(CURVES)]
                look: dict[str, Any] = {
                    "color": colour,
                    "linestyle": dashes,
                    "marker": ".",
                    "lw": 1.6,
                }
                label = _short(name) if place == 0 else None
                axes.plot([*own], [*own.values()], label=label, **look)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(loc="outside lower left", ncols=3, fontsize=9, labelcolor=INK, frameon=False)
    return figure


def _short(name: str) -> str:
    return shortened(name, MOST_LETTERS)
