"""The heat map of models, datasets and methods."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from genconvit.evaluate.comparison.text import wrapped
from genconvit.evaluate.figure import INK, save
from genconvit.evaluate.matrix.results import Cell, MatrixDataset, MatrixReport

MAP = "cividis"
"""Made to look the same to readers with and without colour blindness
(https://doi.org/10.1371/journal.pone.0199239)."""
LOW, HIGH = 0.5, 1.0
"""AUC at the ends of the colours: chance and perfect."""
DARK = 0.6
"""Below this share of the way numbers are white."""
NAME_WIDTH = 16
FILE = "matrix.png"


def draw_matrix(out: Path, report: MatrixReport) -> Path:
    """Draws the AUC of every cell as a colour with its number: a row a method, a column a model.

    Args:
        out: An existing folder.
        report: What was found.

    Returns:
        The file.
    """
    rows = [
        (_label(dataset, row[0], place == 0), row, place == 0)
        for dataset, found in report.rows()
        for place, row in enumerate(found)
    ]
    values_RM = np.array(
        [
            [np.nan if cell.auc.value is None else cell.auc.value for cell in row]
            for _, row, _ in rows
        ]
    )
    figure = Figure(
        figsize=(3.6 + 1.5 * len(report.models), 1.7 + 0.52 * len(rows)),
        dpi=150,
        layout="constrained",
    )
    axes = figure.add_subplot()
    colours = matplotlib.colormaps[MAP].with_extremes(bad="#FFFFFF")
    image = axes.imshow(values_RM, colours, aspect="auto", vmin=LOW, vmax=HIGH)
    for y, (_, row, _) in enumerate(rows):
        for x, cell in enumerate(row):
            axes.text(x, y, _text(cell), color=_ink(cell), ha="center", va="center", fontsize=9)
    for y, (_, _, first) in enumerate(rows):
        if y:
            axes.axhline(y - 0.5, color="#FFFFFF", linewidth=4 if first else 1)
    names = [wrapped(name, NAME_WIDTH) for name in report.models]
    axes.set_xticks(range(len(names)), names, fontsize=9, color=INK, parse_math=False)
    axes.set_yticks(
        range(len(rows)), [label for label, _, _ in rows], fontsize=9, color=INK, parse_math=False
    )
    for label, (_, _, first) in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if first else "normal")
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    title = "AUC and its 95 % interval"
    if any(cell.flatters for cell in report.cells):
        title += "; * flatters its model"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, extend="min")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=INK)
    return save(figure, out / FILE)


def _label(dataset: MatrixDataset, cell: Cell, first: bool) -> str:
    if not cell.fake + cell.real:
        return dataset.title
    if first:
        return f"{dataset.title}: {cell.fake} fake, {cell.real} real"
    return f"{cell.method} ({cell.fake})"


def _text(cell: Cell) -> str:
    if cell.problem:
        return wrapped(cell.problem, NAME_WIDTH)
    if cell.auc.value is None:
        return "undefined"
    star = "*" if cell.flatters else ""
    if cell.auc.low is None:
        return f"{cell.auc.value:.3f}{star}"
    return f"{cell.auc.value:.3f}{star}\n[{cell.auc.low:.2f}, {cell.auc.high:.2f}]"


def _ink(cell: Cell) -> str:
    value = cell.auc.value
    return "#FFFFFF" if value is not None and value < LOW + DARK * (HIGH - LOW) else INK
