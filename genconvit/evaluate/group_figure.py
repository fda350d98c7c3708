"""The AUC of each group of clips with its interval."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from genconvit.evaluate.figure import COLOURS, INK, style
from genconvit.evaluate.subgroups import LEAST_CLIPS, Subgroup
from genconvit.wording import shortened

MOST_ROWS = 40
"""More do not fit a page; the lowest are drawn."""
MOST_LETTERS = 44


def group_figure(groups: Sequence[Subgroup]) -> Figure | None:
    """A row a group, in the order of the table; None where no group has an AUC.

    Args:
        groups: Those of `genconvit.evaluate.subgroups`, the first one of all clips.
    """
    drawn = [group for group in groups if group.scores.auc is not None]
    if len(drawn) < 2:
        return None
    first, *rest = drawn
    if len(rest) >= MOST_ROWS:
        lowest = sorted(rest, key=lambda group: group.scores.auc or 0.0)[: MOST_ROWS - 1]
        rest = [group for group in rest if group in lowest]
    drawn = [first, *rest]
    figure = Figure(figsize=(7, 1.3 + 0.3 * len(drawn)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    style(axes, "AUC of the groups (fake + real clips), 95 % intervals", "AUC", "")
    chance = COLOURS["undecided"]
    axes.axvline(0.5, color=chance, linestyle="--", lw=1, label="chance")
    axes.axvline(first.scores.auc or 0.0, color=INK, linestyle=":", lw=1, label="all clips")
    for place, group in enumerate(drawn):
        estimate = group.scores.estimate("auc")
        colour = chance if group.too_small else COLOURS["real"]
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [place, place], color=colour, lw=2)
        filled = "none" if group.too_small else colour
        axes.plot([estimate.value or 0.0], [place], "o", color=colour, markerfacecolor=filled, ms=6)
    labels = [_label(group) for group in drawn]
    axes.set_yticks(range(len(drawn)), labels, parse_math=False)
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    axes.set_xlim(min(axes.get_xlim()[0], 0.45), 1.01)
    axes.grid(visible=False, axis="y")
    if any(group.too_small for group in drawn):
        axes.plot([], [], "o", color=chance, markerfacecolor="none", ls="-",
                  label=f"under {LEAST_CLIPS} clips of a class")  # fmt: skip
    figure.legend(loc="outside lower left", ncols=3, fontsize=9, labelcolor=INK, frameon=False)
    return figure


def _label(group: Subgroup) -> str:
    name = group.value if group.column == "all" else f"{group.column} {group.value}"
    return f"{shortened(name, MOST_LETTERS)} ({group.scores.fake} + {group.scores.real})"
