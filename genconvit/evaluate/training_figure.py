"""Figures of a training run, as PNG files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from genconvit.evaluate.figure import BEST, INK, legend, save, style

TRAIN, VAL = "#56B4E9", "#22272E"


def training_curves(out: Path, history: list[dict[str, Any]]) -> list[Path]:
    """Draws loss_curves.png and metric_curves.png.

    Args:
        out: An existing folder.
        history: One entry an epoch: `epoch`, `lr`, `train` and `val` (name to value or None) and
            `best`. The last epoch that is `best` is marked.

    Returns:
        The files written; a figure without a single value is left out.
    """
    losses = ["loss", "classification", "ae", "vae_mse", "kl", "aux"]
    losses += ["ed_classification", "vae_classification"]  # arch original
    paths = []
    panels = [name for name in losses if _has(history, "train", name) or _has(history, "val", name)]
    if panels:
        paths.append(save(_losses(history, panels), out / "loss_curves.png"))
    metrics = [
        name for name in ("frame_auc", "clip_auc", "clip_accuracy") if _has(history, "val", name)
    ]
    if metrics:
        paths.append(save(_metrics(history, metrics), out / "metric_curves.png"))
    return paths


def _losses(history: list[dict[str, Any]], panels: list[str]) -> Figure:
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4 * columns + 0.6, 3 * rows), dpi=150, layout="constrained")
    for place, name in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        style(axes, "total loss" if name == "loss" else name, "Epoch", "")
        _line(axes, history, "train", name, color=TRAIN, linestyle="--", label="training")
        _line(axes, history, "val", name, color=VAL, linestyle="-", label="validation")
        _mark_best(axes, history)
        if place == 1:
            legend(axes, "best")
    return figure


def _metrics(history: list[dict[str, Any]], names: list[str]) -> Figure:
    figure = Figure(figsize=(7, 5.6), dpi=150, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    style(top, "Validation", "", "")
    styles = {
        "frame_auc": ("frame AUC", "#56B4E9", "--"),
        "clip_auc": ("clip AUC", "#0072B2", "-"),
        "clip_accuracy": ("clip accuracy", "#E69F00", "-."),
    }
    for name in names:
        label, colour, dashes = styles[name]
        _line(top, history, "val", name, color=colour, linestyle=dashes, label=label)
    top.set_ylim(top=1.02)
    _mark_best(top, history)
    legend(top, "best")
    style(bottom, "", "Epoch", "Learning rate")
    rates = [_number(entry.get("lr")) for entry in history]
    bottom.step(_epochs(history), rates, where="mid", color=INK, marker=".", linewidth=1.5)
    bottom.set_yscale("log")
    bottom.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bottom.yaxis.set_major_formatter(lambda rate, _: f"{rate:.0e}")
    bottom.yaxis.set_minor_formatter(NullFormatter())
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _mark_best(bottom, history)
    return figure


def _line(axes: Axes, history: list[dict[str, Any]], part: str, name: str, **look: Any) -> None:
    if _has(history, part, name):
        values = [_value(entry, part, name) for entry in history]
        axes.plot(_epochs(history), values, marker=".", linewidth=1.6, markersize=5, **look)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _mark_best(axes: Axes, history: list[dict[str, Any]]) -> None:
    best = [entry["epoch"] for entry in history if entry.get("best")]
    if best:
        axes.axvline(best[-1], color=BEST, linestyle=":", lw=1.8, label=f"best epoch {best[-1]}")


def _epochs(history: list[dict[str, Any]]) -> list[int]:
    return [entry["epoch"] for entry in history]


def _has(history: list[dict[str, Any]], part: str, name: str) -> bool:
    return any(math.isfinite(_value(entry, part, name)) for entry in history)


def _value(entry: dict[str, Any], part: str, name: str) -> float:
    return _number((entry.get(part) or {}).get(name))


def _number(value: float | None) -> float:
    """NaN, which matplotlib leaves out, for a value that is missing or infinite."""
    return float(value) if value is not None and math.isfinite(value) else math.nan
