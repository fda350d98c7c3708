"""Curves of a robustness run: a panel for each distortion, a line for each model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from genconvit.evaluate.figure import FAINT, INK, LINES, save, style
from genconvit.evaluate.robustness.distortions import DISTORTIONS
from genconvit.evaluate.robustness.results import Curve, ModelCurves, RobustnessReport

COLUMNS = 3
MARKERS = "osD^v"
AUC, DRIFT, FACES = "robustness_auc.png", "robustness_drift.png", "robustness_faces.png"


def draw_robustness(out: Path, report: RobustnessReport) -> list[Path]:
    """Draws the AUC, the drift of P(fake) and the clips without a face at every level.

    Args:
        out: An existing folder.
        report: What was found.

    Returns:
        The three files, in this order.
    """
    return [
        save(_auc(report), out / AUC),
        save(_drift(report), out / DRIFT),
        save(_faces(report), out / FACES),
    ]


def _auc(report: RobustnessReport) -> Figure:
    figure, panels = _panels(report, "AUC at every level, with 95 % intervals", "AUC")
    for model, colour, marker in _styled(report.models):
        for curve, axes in _of(model, panels):
            points = [curve.clean_auc, *(level.auc for level in curve.levels)]
            value, low, high = (
                _numbers([getattr(point, end) for point in points])
                for end in ("value", "low", "high")
            )
            axes.plot(value, color=colour, marker=marker, ms=4, lw=1.5)
            axes.fill_between(range(len(points)), low, high, color=colour, alpha=0.15, lw=0)
    lows = [
        value
        for model in report.models
        for curve in model.curves
        for level in curve.levels
        for value in (level.auc.low, level.auc.value)
        if value is not None
    ]
    for axes in panels.values():
        axes.axhline(0.5, color=INK, lw=0.8, ls=":")
        axes.set_ylim(min(0.45, min(lows, default=0.45) - 0.03), 1.02)
    return _with_legend(figure, _names(report))


def _drift(report: RobustnessReport) -> Figure:
    title = "Change of P(fake) of the same clips; above 0 they look more fake"
    figure, panels = _panels(report, title, "change of P(fake)")
    largest = 0.0
    for model, colour, marker in _styled(report.models):
        for curve, axes in _of(model, panels):
            for name, line in (("drift_fake", "-"), ("drift_real", "--")):
                drifts = _numbers([0.0, *(getattr(level, name) for level in curve.levels)])
                axes.plot(drifts, line, color=colour, marker=marker, ms=4, lw=1.5)
                largest = max(largest, float(np.nanmax(np.abs(drifts))))
    for axes in panels.values():
        axes.axhline(0.0, color=INK, lw=0.8, ls=":")
        axes.set_ylim(-1.1 * largest - 0.02, 1.1 * largest + 0.02)
    kinds = [
        Line2D([], [], color=INK, label="fake clips"),
        Line2D([], [], color=INK, linestyle="--", label="real clips"),
    ]
    return _with_legend(figure, [*_names(report), *kinds])


def _faces(report: RobustnessReport) -> Figure:
    title = "Clips without a face in any frame: they have no score and are in no AUC"
    figure, panels = _panels(report, title, "clips without a face")
    for model, colour, marker in _styled(report.models):
        for curve, axes in _of(model, panels):
            shares = [model.clips_without_face, *(lv.clips_without_face for lv in curve.levels)]
            axes.plot(range(len(shares)), shares, color=colour, marker=marker, ms=4, lw=1.5)
    for axes in panels.values():
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return _with_legend(figure, _names(report))


def _panels(report: RobustnessReport, title: str, ylabel: str) -> tuple[Figure, dict[str, Axes]]:
    """Empty axes by the name of the distortion; one that was not measured says so."""
    rows = math.ceil(len(DISTORTIONS) / COLUMNS)
    figure = Figure(figsize=(11, 2.7 * rows + 0.6), dpi=150, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
    panels = {}
    for place, distortion in enumerate(DISTORTIONS):
        axes = figure.add_subplot(rows, COLUMNS, place + 1)
        style(axes, distortion.axis, "", "" if place % COLUMNS else ylabel)
        axes.set_xticks(
            range(len(distortion.levels) + 1),
            ["clean", *(f"{level:g}" for level in distortion.levels)],
        )
        axes.set_xlim(-0.3, len(distortion.levels) + 0.3)
        if distortion.name in report.not_measured:
            place_in = axes.transAxes
            axes.text(0.5, 0.6, "not measured", color=INK, ha="center", transform=place_in)
        panels[distortion.name] = axes
    return figure, panels


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    """The values; NaN, which leaves a gap, where there is none."""
    return np.array([np.nan if value is None else value for value in values])


def _of(model: ModelCurves, panels: dict[str, Axes]) -> list[tuple[Curve, Axes]]:
    return [(curve, panels[curve.distortion]) for curve in model.curves]


def _styled(models: Sequence[ModelCurves]) -> list[tuple[ModelCurves, str, str]]:
    """Each model with its colour and marker; together they are another's only after 30 models."""
    colours, markers = islice(cycle(LINES), len(models)), islice(cycle(MARKERS), len(models))
    return list(zip(models, colours, markers, strict=True))


def _names(report: RobustnessReport) -> list[Line2D]:
    return [
        Line2D([], [], color=colour, marker=marker, ms=5, label=model.name)
        for model, colour, marker in _styled(report.models)
    ]


def _with_legend(figure: Figure, handles: Sequence[Line2D]) -> Figure:
    found = figure.legend(
        handles=list(handles),
        loc="outside lower left",
        ncols=4,
        fontsize=9,
        labelcolor=INK,
        edgecolor=FAINT,
    )
    for text in found.get_texts():
        text.set_parse_math(False)
    return figure
