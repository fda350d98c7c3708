"""Figures of a sweep, as PNG files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from genconvit.evaluate.figure import BEST, FAINT, INK, new_figure, save, style
from genconvit.tune.results import State, SweepResults, TrialResult
from genconvit.tune.space_figures import (
    MARKS,
    WINNER,
    legend_below,
    parallel_figure,
    score_label,
    slice_figure,
    state_marks,
    stopped_text,
    wrapped_name,
)

FIGURES = ("history", "importance", "parallel", "slices", "learning", "pareto")
"""Names of the figures, in `sweep_NAME.png`."""
_NUMBERED = 12
"""Up to so many trials of a Pareto front are numbered; more would hide each other."""


def draw_sweep(out: Path, results: SweepResults) -> list[Path]:
    """Draws what a sweep found.

    Args:
        out: An existing folder.
        results: The sweep, in whatever state it is.

    Returns:
        The files written, in the order of `FIGURES`. None without a score. The importance needs
        `results.importance`, the learning curves an epoch with a score, and the Pareto front two
        objectives.
    """
    scored = ranked(results)[::-1]
    if not scored:
        return []
    winner = winner_of(results)
    number = winner.number if winner else None
    figures = {"history": _history(results, scored, number)}
    if results.importance:
        figures["importance"] = _importance(results.importance)
    if results.space:
        figures["parallel"] = parallel_figure(results, scored, number)
        figures["slices"] = slice_figure(results, scored, number)
    if any(_is_number(value) for trial in results.trials for value in trial.history):
        figures["learning"] = _learning(results, number)
    judged = [trial for trial, _ in scored if len(_scores(trial)) > 1]
    if len(results.objectives) > 1 and judged:
        figures["pareto"] = _pareto(results, judged, number)
    return [save(figures[name], out / f"sweep_{name}.png") for name in FIGURES if name in figures]


def ranked(results: SweepResults) -> list[tuple[TrialResult, float]]:
    """Trials that did not fail and have a score, by the first objective; the best is first."""
    scored = [
        (trial, scores[0])
        for trial in results.trials
        if trial.state != "failed" and (scores := _scores(trial))
    ]
    maximize = results.objectives[0].direction == "maximize"
    return sorted(scored, key=lambda each: -each[1] if maximize else each[1])


def winner_of(results: SweepResults) -> TrialResult | None:
    """The trial that is handed over, where there is one."""
    return next((trial for trial in results.trials if trial.number in results.best[:1]), None)


def _history(
    results: SweepResults, scored: Sequence[tuple[TrialResult, float]], winner: int | None
) -> Figure:
    objective = results.objectives[0]
    figure, axes = new_figure("Score of each trial", "Trial", score_label(objective))
    figure.set_size_inches(8, 4.6)
    for trial, score in scored:
        look = WINNER | {"zorder": 4} if trial.number == winner else MARKS[trial.state]
        axes.plot([trial.number], [score], linestyle="", clip_on=False, **look)
    marks = state_marks(results, results.trials, winner)
    ended = sorted(
        (trial.number, score) for trial, score in scored if trial.state in ("finished", "stopped")
    )
    last = max(trial.number for trial in results.trials)
    if ended:
        better = max if objective.direction == "maximize" else min
        best = list(accumulate((score for _, score in ended), better))
        numbers = [*(number for number, _ in ended), last]
        line = axes.step(numbers, [*best, best[-1]], "-", where="post", color=INK, lw=1.4, zorder=1)
        line[0].set_label("best so far")
        marks += line
    _without_score(axes, results, {trial.number for trial, _ in scored})
    first = min(trial.number for trial in results.trials)
    edge = max(0.5, 0.02 * (last - first))
    axes.set_xlim(first - edge, last + edge)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend_below(figure, marks, 6)
    return figure


def _without_score(axes: Axes, results: SweepResults, scored: set[int]) -> None:
    """A band at the bottom for trials without a score, so that none looks like the worst."""
    missing = [trial for trial in results.trials if trial.number not in scored]
    if not missing:
        return
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
    axes.set_ylim(low - 0.1 * (high - low), high)
    axes.add_patch(Rectangle((0, 0), 1, 0.08, color=FAINT, lw=0, transform=axes.transAxes))
    axes.text(1.01, 0.04, "no score", transform=axes.transAxes, va="center", fontsize=9, color=INK)
    for trial in missing:
        place = axes.get_xaxis_transform()
        axes.plot([trial.number], [0.04], linestyle="", transform=place, **MARKS[trial.state])


def _importance(importance: dict[str, float]) -> Figure:
    rows = sorted(importance.items(), key=lambda each: each[1])
    names = [wrapped_name(name, 32) for name, _ in rows]
    lines = sum(1 + name.count("\n") for name in names)
    figure = Figure(figsize=(7, 1.3 + 0.2 * lines + 0.2 * len(rows)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    style(axes, "How much each setting mattered", "Share of the score's variance", "")
    bars = axes.barh(range(len(rows)), [share for _, share in rows], 0.6, color="#56B4E9")
    axes.bar_label(bars, [f"{share:.0%}" for _, share in rows], fontsize=9, color=INK, padding=4)
    axes.set_yticks(range(len(rows)), names)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_xlim(0, 1.12 * max(0.1, *importance.values()))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    return figure


def _learning(results: SweepResults, winner: int | None) -> Figure:
    title = "Learning curves: the best detector so far of each trial"
    figure, axes = new_figure(title, "Epoch", "Validation clip AUC")
    figure.set_size_inches(8, 4.8)
    faded = 0.7 if len(results.trials) <= 40 else 0.35
    shown = [t for t in results.trials if any(map(_is_number, t.history))]
    for trial in shown:
        heights = [math.nan if value is None else value for value in trial.history]
        epochs = range(1, len(heights) + 1)
        colour = MARKS[trial.state]["color"]
        look: dict[str, Any] = {"color": colour, "lw": 1.2, "alpha": faded}
        if trial.number == winner:
            look = {"color": BEST, "lw": 3, "zorder": 4}
        axes.plot(epochs, heights, **look)
        mark = WINNER if trial.number == winner else MARKS[trial.state]
        if trial.state != "finished" or trial.number == winner or len(heights) == 1:
            last = max(epoch for epoch in epochs if math.isfinite(heights[epoch - 1]))
            place = [last], [heights[last - 1]]
            axes.plot(*place, linestyle="", clip_on=False, zorder=5, **mark)
    axes.set_xlim(0.5, max(results.epochs, *(len(trial.history) for trial in shown)) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    states = {trial.state for trial in shown if trial.number != winner}
    words = {"stopped": stopped_text(results)}
    marks = [
        Line2D([], [], lw=1.2, label=words.get(state, state), **_line_end(state))
        for state in MARKS
        if state in states
    ]
    if winner is not None:
        marks.append(Line2D([], [], lw=3, label="winner", **WINNER))
    legend_below(figure, marks, 5)
    return figure


def _line_end(state: State) -> dict[str, Any]:
    look = MARKS[state]
    return {"color": look["color"]} if state == "finished" else look


def _pareto(results: SweepResults, judged: Sequence[TrialResult], winner: int | None) -> Figure:
    first, second = results.objectives[:2]
    figure, axes = new_figure("What is traded for what", score_label(first), score_label(second))
    figure.set_size_inches(7, 5.2)
    for trial in judged:
        x, y = _pair(trial)
        look = WINNER | {"zorder": 4} if trial.number == winner else MARKS[trial.state]
        alpha = 1.0 if trial.number in results.best else 0.45
        axes.plot([x], [y], linestyle="", alpha=alpha, **look)
    marks = state_marks(results, judged, winner)
    front = sorted(
        (*_pair(trial), trial.number) for trial in judged if trial.number in results.best
    )
    # With more objectives than two, the front is no line in this plane.
    if front and len(results.objectives) == 2:
        marks += _front_line(axes, front, first.direction == "maximize")
    if len(front) <= _NUMBERED:
        # On the better side, where the front hides nothing.
        right, up = first.direction == "maximize", second.direction == "maximize"
        place: dict[str, Any] = {"ha": "left" if right else "right"}
        place |= {"va": "bottom" if up else "top", "fontsize": 9, "color": INK}
        offset = 6 if right else -6, 4 if up else -4
        for x, y, number in front:
            axes.annotate(f"{number}", (x, y), offset, textcoords="offset points", **place)
    axes.margins(0.08)
    legend_below(figure, marks, 5)
    return figure


def _front_line(
    axes: Axes, front: Sequence[tuple[float, float, int]], maximize: bool
) -> list[Line2D]:
    """A step: straight lines would promise trials between those of the front."""
    xs, ys = [x for x, _, _ in front], [y for _, y, _ in front]
    where: Any = "pre" if maximize else "post"
    return axes.step(xs, ys, "-", where=where, color=INK, lw=1.2, zorder=1, label="Pareto front")


def _scores(trial: TrialResult) -> list[float]:
    """Scores of a trial; none unless all are numbers."""
    return trial.scores if trial.scores and all(map(_is_number, trial.scores)) else []


def _pair(trial: TrialResult) -> tuple[float, float]:
    x, y, *_ = _scores(trial)
    return x, y


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
