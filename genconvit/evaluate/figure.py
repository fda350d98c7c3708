"""The look that all figures share.

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart
(https://jfly.uni-koeln.de/color/). Figures are made without pyplot: there is no global state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

COLOURS = {"fake": "#D55E00", "real": "#0072B2", "undecided": "#8C8C8C"}
INK, FAINT = "#22272E", "#D5D9DE"
BEST = "#009E73"
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of lines that are told apart by their colour."""


def new_figure(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    figure = Figure(figsize=(6, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    style(axes, title, xlabel, ylabel)
    return figure, axes


def style(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Gives axes the common look."""
    # Titles may be names from a user: a dollar sign in one is no formula.
    axes.set_title(title, loc="left", fontsize=12, color=INK, pad=10, parse_math=False)
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def unit_square(axes: Axes) -> None:
    """Both axes from 0 to 100 %."""
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.01)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def legend(axes: Axes, place: Literal["best", "lower left", "lower right"]) -> None:
    """A legend at `place`."""
    axes.legend(loc=place, fontsize=9, labelcolor=INK, framealpha=0.9, edgecolor=FAINT)


def save(figure: Figure, path: Path) -> Path:
    """Writes the figure and returns its path."""
    figure.savefig(path)
    return path
