"""Forged and found parts of spliced clips, as a figure."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from genconvit.evaluate.figure import COLOURS, FAINT, INK, style
from genconvit.evaluate.localisation.localise import LocalisationScores

ROWS = 24
"""Clips that are shown; the rest would make the rows too thin to read."""


def localisation_figure(scores: LocalisationScores) -> Figure:
    """A row a clip: above where it is forged, below where it looks manipulated."""
    shown = sorted(scores.results, key=lambda result: -result.iou)
    if len(shown) > ROWS:  # from the best to the worst, evenly
        shown = [shown[round(i * (len(shown) - 1) / (ROWS - 1))] for i in range(ROWS)]
    figure = Figure(figsize=(7, 1.4 + 0.3 * len(shown)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    style(axes, "", "Time, s", "")
    title = "Where spliced clips are forged, and where they look so"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
    for row, result in enumerate(shown):
        axes.barh(row, result.duration_s, 0.84, color=FAINT, alpha=0.5)
        for spans, offset, colour, hatch in (
            (result.forged, -0.2, COLOURS["fake"], ""),
            (result.found, 0.2, COLOURS["real"], "////"),
        ):
            bars = [(start, end - start) for start, end in spans]
            axes.broken_barh(
                bars, (row + offset - 0.19, 0.38), facecolors=colour, hatch=hatch, edgecolor="white"
            )
    names = [f"{result.clip.rpartition('/')[2]}, IoU {result.iou:.2f}" for result in shown]
    axes.set_yticks(range(len(shown)), names, parse_math=False)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    keys = [
        Patch(color=COLOURS["fake"], label="forged"),
        Patch(facecolor=COLOURS["real"], hatch="////", edgecolor="white", label="found"),
        Patch(color=FAINT, alpha=0.5, label="the clip"),
    ]
    figure.legend(
        handles=keys, loc="outside lower center", ncols=3, fontsize=9, labelcolor=INK, frameon=False
    )
    return figure
