"""Figures of a sweep with an axis for every searched setting."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator

from genconvit.evaluate.figure import BEST, COLOURS, INK, style
from genconvit.tune.results import Objective, State, SweepResults, TrialResult

MARKS: dict[State, dict[str, Any]] = {
    "finished": {"marker": "o", "color": COLOURS["real"], "ms": 6},
    "stopped": {"marker": "v", "color": "#E69F00", "ms": 6},
    "failed": {"marker": "x", "color": COLOURS["fake"], "ms": 7, "mew": 1.8},
    "unfinished": {"marker": "D", "color": COLOURS["undecided"], "ms": 5, "mfc": "white"},
}
"""How states are told apart, in all figures."""
WINNER: dict[str, Any] = {"marker": "*", "color": BEST, "ms": 15, "mec": "white", "mew": 0.8}

_SHADES = LinearSegmentedColormap.from_list("score", ["#CBD5DE", "#56B4E9", "#0072B2", "#002F4D"])
_COLUMNS = 3
_NAME_WIDTH, _VALUE_WIDTH = 18, 16
"""Letters in a line of a setting's name, and those that are shown of a category."""


@dataclass(frozen=True)
class _Scale:
    """Places of a setting's values on an axis from 0 to 1."""

    low: float
    high: float
    log: bool = False
    ticks: dict[float, str] = field(default_factory=dict)
    categories: tuple[str, ...] = ()

    def place(self, value: Any) -> float:
        """Where a value lies; NaN for one that the axis cannot have."""
        if self.categories:
            name = value_text(value)
            number = float(self.categories.index(name)) if name in self.categories else math.nan
        else:
            number = _number(value)
        low, high = self.low, self.high
        if self.log:
            number = math.log(number) if number > 0 else math.nan
            low, high = math.log(low), math.log(high)
        return (number - low) / (high - low) if high > low else 0.5 + 0 * number


def value_text(value: Any) -> str:
    """A setting's value as users write it."""
    if isinstance(value, list | dict | bool):
        return json.dumps(value)
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def short_text(value: Any) -> str:
    """A setting's value where there is little room: four digits of a fraction."""
    return f"{value:.4g}" if isinstance(value, float) else value_text(value)


def score_label(objective: Objective) -> str:
    """An objective as the name of an axis, with the side that is better."""
    better = "higher" if objective.direction == "maximize" else "lower"
    return f"{objective_text(objective.name)} ({better} is better)"


def objective_text(name: str) -> str:
    """An objective in words, such as "clip AUC"."""
    return name.replace("_", " ").replace("auc", "AUC")


def wrapped_name(name: str, width: int) -> str:
    """A setting's name in lines that end at its dots and underscores where they can."""
    return textwrap.fill(re.sub(r"([._])", r"\1 ", name), width).replace(" ", "")


def state_marks(
    results: SweepResults, trials: Iterable[TrialResult], winner: int | None
) -> list[Line2D]:
    """What a legend shows of trials that are drawn as points: their states, and the winner."""
    words = {"stopped": stopped_text(results)}
    states = {trial.state for trial in trials if trial.number != winner}
    lines = [
        Line2D([], [], linestyle="", label=words.get(state, state), **look)
        for state, look in MARKS.items()
        if state in states
    ]
    if winner is not None:
        lines.append(Line2D([], [], linestyle="", label="winner", **WINNER))
    return lines


def stopped_text(results: SweepResults) -> str:
    """What stopped trials, such as "stopped by ASHA"."""
    return (
        "stopped early" if results.stopping == "none" else f"stopped by {results.stopping.upper()}"
    )


def legend_below(figure: Figure, marks: Sequence[Any], columns: int) -> None:
    """A legend below all axes, where it hides nothing."""
    figure.legend(
        handles=list(marks),
        loc="outside lower center",
        ncols=columns,
        fontsize=9,
        labelcolor=INK,
        frameon=False,
    )


def parallel_figure(
    results: SweepResults, scored: Sequence[tuple[TrialResult, float]], winner: int | None
) -> Figure:
    """One line a trial, one axis a setting and one for the score; better is further up.

    Args:
        results: The sweep.
        scored: Trials with their score by the first objective, from the worst to the best.
        winner: Number of the trial that is emphasised.
    """
    names, objective = list(results.space), results.objectives[0]
    scales = [_scale(results, name) for name in names]
    scores = _numeric([score for _, score in scored], log=False, integer=False)
    upright = objective.direction == "maximize"
    width = max(6, 1.6 * len(names) + 2)
    strip = 0.08 * len(names) / (width - 1.3)  # in units of x, which are inches apart
    figure = Figure(figsize=(width, 5.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    style(axes, "Settings of each trial, and how it scored", "", "")
    faded = 0.9 if len(scored) <= 40 else 0.5
    for trial, score in scored:
        end = scores.place(score) if upright else 1 - scores.place(score)
        heights = [
            scale.place(trial.config[name]) if name in trial.config else math.nan
            for name, scale in zip(names, scales, strict=True)
        ]
        look: dict[str, Any] = {"color": _SHADES(end), "lw": 1.3, "ms": 4, "alpha": faded}
        if trial.number == winner:
            look = {"color": BEST, "lw": 3, "ms": 9, "zorder": 4}
            look["label"] = f"winner, trial {winner}"
        axes.plot([*heights, end], marker=".", clip_on=False, **look)
    score_ticks = {tick if upright else 1 - tick: text for tick, text in scores.ticks.items()}
    for x, ticks in enumerate([*(scale.ticks for scale in scales), score_ticks]):
        axes.axvline(x, color=INK, lw=0.8, zorder=1)
        if x < len(names):
            _ticks_at(axes, x, ticks, left=True)
        else:
            _ticks_at(axes, x + strip, ticks, left=False)
    _shade_strip(axes, len(names), len(names) + strip)
    shown = [wrapped_name(name, _NAME_WIDTH) for name in names]
    axes.set_xticks(range(len(names) + 1), [*shown, _score_name(objective)])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=9)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.1, len(names) + 0.1)
    axes.set_ylim(-0.03, 1.03)
    legend_below(figure, axes.get_legend_handles_labels()[0], 1)
    return figure


def slice_figure(
    results: SweepResults, scored: Sequence[tuple[TrialResult, float]], winner: int | None
) -> Figure:
    """The score against each setting, one panel a setting.

    Args:
        results: The sweep.
        scored: Trials with their score by the first objective, from the worst to the best.
        winner: Number of the trial that is emphasised.
    """
    columns = min(_COLUMNS, len(results.space))
    rows = math.ceil(len(results.space) / columns)
    size = (max(6.0, 4 * columns + 0.6), 3.1 * rows + 0.4)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    begun: list[Line2D] = []
    for place, (axes, name) in enumerate(zip(panels, results.space, strict=False)):
        scale = _scale(results, name)
        wording = "\n".join(textwrap.wrap(score_label(results.objectives[0]), 32))
        style(axes, "", "", "" if place % columns else wording)
        axes.set_title(wrapped_name(name, 36), loc="left", fontsize=10, color=INK)
        _slice(axes, scale, name, scored, winner)
        x = scale.place(results.start[name]) if name in results.start else math.nan
        if 0 <= x <= 1:
            begun.append(axes.axvline(x, color=INK, ls=":", lw=1.2, label="start settings"))
    for axes in list(figure.axes)[len(results.space) :]:
        axes.remove()
    marks = state_marks(results, (trial for trial, _ in scored), winner)
    marks += begun[:1]
    legend_below(figure, marks, 3 if columns == 1 else 5)
    return figure


def _slice(
    axes: Axes,
    scale: _Scale,
    name: str,
    scored: Sequence[tuple[TrialResult, float]],
    winner: int | None,
) -> None:
    shown = [(trial, score) for trial, score in scored if name in trial.config]
    for trial, score in shown:
        # Categories hide each other's points unless these are spread a little.
        spread = (trial.number * 0.618 % 1 - 0.5) * 0.25 / max(1, len(scale.categories) - 1)
        x = scale.place(trial.config[name]) + (spread if scale.categories else 0)
        look = WINNER | {"zorder": 4} if trial.number == winner else MARKS[trial.state]
        axes.plot([x], [score], linestyle="", clip_on=False, **look)
    if not shown:
        place = axes.transAxes
        axes.text(0.5, 0.5, "in no trial", transform=place, ha="center", fontsize=9, color=INK)
    labels = list(scale.ticks.values())
    # Labels that would run into each other are slanted.
    slanted = max(map(len, labels)) * len(labels) > 36
    looks: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(list(scale.ticks), labels, parse_math=False, **(looks if slanted else {}))
    edge = 0.25 if scale.categories else 0.06
    axes.set_xlim(-edge, 1 + edge)


def _ticks_at(axes: Axes, x: float, ticks: dict[float, str], *, left: bool) -> None:
    for y, text in ticks.items():
        axes.annotate(
            text,
            (x, y),
            (-5 if left else 4, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=8,
            color=INK,
            zorder=5,
            parse_math=False,
            bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.8},
        )


def _shade_strip(axes: Axes, left: float, right: float) -> None:
    """What the colours mean, along the axis of the score."""
    shades = np.linspace(0, 1, 256)[:, None]
    axes.imshow(
        shades, cmap=_SHADES, extent=(left, right, 0, 1), aspect="auto", origin="lower", zorder=2
    )


def _score_name(objective: Objective) -> str:
    return "\n".join(textwrap.wrap(score_label(objective), _NAME_WIDTH))


def _scale(results: SweepResults, name: str) -> _Scale:
    """The axis of a setting: the range that was searched, and more where trials went beyond."""
    domain = results.space[name]
    values = [trial.config[name] for trial in results.trials if name in trial.config]
    if "choice" in domain:
        texts = tuple(dict.fromkeys(map(value_text, [*domain["choice"], *values])))
        places = [0.5] if len(texts) == 1 else [i / (len(texts) - 1) for i in range(len(texts))]
        ticks = {
            place: textwrap.shorten(text, _VALUE_WIDTH, placeholder="…")
            if " " in text
            else text[: _VALUE_WIDTH - 1] + "…" * (len(text) >= _VALUE_WIDTH)
            for place, text in zip(places, texts, strict=True)
        }
        return _Scale(0, len(texts) - 1, ticks=ticks, categories=texts)
    kind = next(kind for kind in ("log", "int", "uniform") if kind in domain)
    numbers = [_number(value) for value in [*domain[kind], *values]]
    return _numeric(numbers, log=kind == "log", integer=kind == "int")


def _numeric(values: Sequence[float], *, log: bool, integer: bool) -> _Scale:
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    low, high = min(finite), max(finite)
    bare = _Scale(low, high, log)
    if low == high:
        return _Scale(low, high, log, {0.5: f"{low:.4g}"})
    if log:
        few = high / low < 1000
        nice = LogLocator(subs=(1, 2, 5) if high / low < 20 else (1, 3) if few else (1,))
        numbers = nice.tick_values(low, high)
    else:
        numbers = MaxNLocator(5, steps=[1, 2, 5, 10], integer=integer).tick_values(low, high)
    ticks = {bare.place(number): f"{number:g}" for number in numbers}
    ticks = {place: text for place, text in ticks.items() if -1e-6 <= place <= 1 + 1e-6}
    if len(ticks) < 2:
        ticks = {0.0: f"{low:.4g}", 1.0: f"{high:.4g}"}
    return _Scale(low, high, log, ticks)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
