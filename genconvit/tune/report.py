"""What a sweep leaves in its folder: JSON and CSV for programs, figures and a page."""

from __future__ import annotations

import csv
import io
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from pydantic import ValidationError

from genconvit.errors import UserError
from genconvit.evaluate.pages import data_uri, render
from genconvit.files import read_json, replaced_file, write_json
from genconvit.tune.figures import draw_sweep, ranked, winner_of
from genconvit.tune.results import Confirmation, Final, State, SweepResults, TrialResult
from genconvit.tune.space_figures import (
    objective_text,
    score_label,
    short_text,
    stopped_text,
    value_text,
)
from genconvit.wording import first_mistake, plural

RESULTS, TRIALS, PAGE = "sweep.json", "trials.csv", "sweep_report.html"

_CAPTIONS = {
    "sweep_history.png": "The score of each trial, in the order in which they began",
    "sweep_importance.png": "The share of each setting in the variance of the score (fANOVA); "
    "settings that only some trials have are left out",
    "sweep_parallel.png": "The settings of each trial as one line, which has a gap where a "
    "condition leaves a setting out; darker is better",
    "sweep_slices.png": "The score against each setting alone; the others differ as well",
    "sweep_learning.png": "The validation clip AUC of the best detector so far, after each epoch",
    "sweep_pareto.png": "The first two objectives against each other",
}


def write_sweep(out: Path, results: SweepResults) -> Path:
    """Writes sweep.json, trials.csv, the figures and sweep_report.html.

    Every file is complete when it appears. Figures of an earlier state of the sweep that have no
    successor are removed.

    Args:
        out: The folder; it is made.
        results: The sweep, in whatever state it is.

    Returns:
        The page.

    Raises:
        OSError: The folder cannot be written.
    """
    write_json(out / RESULTS, results.model_dump(mode="json"))
    with replaced_file(out / TRIALS) as aside:
        aside.write_text(_csv(results), encoding="utf-8", newline="")
    with tempfile.TemporaryDirectory(dir=out, prefix=".writing-") as folder:
        figures = [path.replace(out / path.name) for path in draw_sweep(Path(folder), results)]
    for name in set(_CAPTIONS) - {path.name for path in figures}:
        (out / name).unlink(missing_ok=True)
    with replaced_file(out / PAGE) as aside:
        aside.write_text(_page(results, figures), encoding="utf-8")
    return out / PAGE


def read_sweep(path: Path) -> SweepResults:
    """Reads sweep.json.

    Raises:
        UserError: It cannot be read, is damaged, or is from another version.
    """
    content = read_json(path, "the results of a sweep")
    try:
        return SweepResults.model_validate(content)
    except ValidationError as error:
        raise UserError(
            f"{path}: {first_mistake(error)}; it is damaged or from another version."
        ) from None


def summary(results: SweepResults) -> list[str]:
    """What a sweep found and how far that can be trusted, in sentences."""
    sentences = [_searched(results), *_found(results), _time(results), *_trust(results)]
    return sentences + ([_final(results.final)] if results.final else [])


def score_text(objective: str, score: float) -> str:
    """A score with the digits that its objective deserves: an AUC has four decimals."""
    return f"{score:.4f}" if "auc" in objective else f"{score:,.2f}"


def _searched(results: SweepResults) -> str:
    counts = Counter(trial.state for trial in results.trials)
    words = {"stopped": stopped_text(results)}
    parts = [f"{counts[s]} {words.get(s, s)}" for s in get_args(State) if counts[s]]
    return (
        f"{plural(len(results.space), 'setting')} searched in "
        f"{plural(len(results.trials), 'trial')} of at most {plural(results.epochs, 'epoch')}: "
        f"{', '.join(parts) or 'none has begun'}."
    )


def _found(results: SweepResults) -> list[str]:
    winner = winner_of(results)
    if winner is None or not winner.scores:
        if results.trials and all(trial.state == "failed" for trial in results.trials):
            return ["Every trial failed, so there is no winner and no figure."]
        return ["There is no winner yet."]
    scores = " and ".join(
        f"{objective_text(each.name)} {score_text(each.name, score)}"
        for each, score in zip(results.objectives, winner.scores, strict=False)
    )
    if not results.objectives[1:]:
        return [f"Trial {winner.number} is the winner, with {scores}."]
    handed_over = f"Trial {winner.number} is handed over, with {scores}."
    if not results.best[1:]:
        return [f"{handed_over} It is the best in every objective."]
    front = ", ".join(map(str, sorted(results.best)))
    return [
        handed_over,
        f"Trials {front} are the Pareto front: what one gains on another, it loses elsewhere.",
    ]


def _time(results: SweepResults) -> str:
    kind = "GPU" if results.use_gpu else "run"
    took = f"The trials took {_hours(results.device_hours, kind)}"
    if any(trial.state == "stopped" for trial in results.trials):
        return f"{took}; early stopping saved about {_hours(results.saved_hours, kind)}."
    return f"{took}; none was stopped early."


def _hours(hours: float, kind: str) -> str:
    if hours < 1:
        return f"{60 * hours:.1f} {kind} minutes"
    return f"{hours:.1f} {kind} hours"


def _trust(results: SweepResults) -> list[str]:
    split = "All scores are of the validation split; the test split was not opened."
    if results.confirmation:
        return [*_confirmed(results.confirmation), split]
    winner = winner_of(results)
    if winner is None:
        return [split]
    if winner.config == results.start:
        return ["No trial was better than the start settings.", split]
    chosen = sum(trial.state in ("finished", "stopped") for trial, _ in ranked(results))
    if chosen < 2:
        start = "The winner is the only trial with a score"
    elif results.objectives[1:]:
        start = f"The front is the best of {chosen} and its scores are therefore too good"
    else:
        start = f"The winner's score is the best of {chosen} and therefore too good"
    it = "the winner" if results.objectives[1:] else "it"
    again = f"train {it} again with several seeds (--confirm-seeds)"
    return [f"{start}; {again} before you believe the advantage.", split]


def _confirmed(again: Confirmation) -> list[str]:
    low, high = again.interval
    interval = f"{again.difference:+.4f} (95 % interval {low:+.4f} to {high:+.4f})"
    trained = f"Trained again with {_seeds(again.seeds)}, the winner has a mean clip AUC of "
    trained += f"{fmean(again.winner):.4f} and the start settings have {fmean(again.start):.4f}."
    if again.within_noise:
        shown = f"The difference of {interval} is within the noise: the winner is not shown to be "
        return [trained, f"{shown}better than the start settings."]
    shown = "better" if again.difference > 0 else "worse"
    shown = f"The winner is {shown} than the start settings; the difference is {interval}."
    return [trained, shown]


def _final(final: Final) -> str:
    return (
        f"The settings of trial {final.trial} were trained for {plural(final.epochs, 'epoch')} on "
        f"the train and val splits together, with {_seeds(final.seeds)}. These detectors have no "
        "validation figure of their own: no clips were left to validate them by."
    )


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def _csv(results: SweepResults) -> str:
    """One row a trial. Settings that a condition left out are empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    objectives = [objective.name for objective in results.objectives]
    counts = ("best_epoch", "epochs", "seconds", "device_hours", "failure")
    writer.writerow(["number", "state", *objectives, *counts, *results.space])
    for trial in results.trials:
        settings = [
            value_text(value) if isinstance(value, list | dict | bool | None) else value
            for value in (trial.config.get(name, "") for name in results.space)
        ]
        scores: Sequence[float | None] = trial.scores or [None] * len(objectives)
        values = [*scores, *(getattr(trial, name) for name in counts), *settings]
        writer.writerow([trial.number, trial.state, *values])
    return file.getvalue()


def _page(results: SweepResults, figures: Sequence[Path]) -> str:
    winner = winner_of(results)
    best_first = [trial for trial, _ in ranked(results)]
    shown = {trial.number for trial in best_first}
    rest = [trial for trial in results.trials if trial.number not in shown]
    best_first += sorted(rest, key=lambda trial: trial.state == "failed")
    return render(
        "sweep.html",
        results=results,
        summary=summary(results),
        winner=winner,
        compared=_compared(results, winner) if winner else [],
        figures=[
            (_CAPTIONS[path.name], data_uri(path.read_bytes(), "image/png")) for path in figures
        ],
        objectives=[objective_text(objective.name) for objective in results.objectives],
        rows=[(each, _scores(results, each), _settings(results, each)) for each in best_first],
        judged_by=[score_label(objective) for objective in results.objectives],
        stopped=stopped_text(results),
        space=[(name, _domain_text(domain)) for name, domain in results.space.items()],
    )


def _compared(results: SweepResults, winner: TrialResult) -> list[tuple[str, str, str, bool]]:
    """Each setting at the start and of the winner, and whether it was changed."""
    rows = []
    for name in results.space:
        start, best = (
            short_text(config[name]) if name in config else "not used"
            for config in (results.start, winner.config)
        )
        rows.append((name, start, best, start != best))
    return rows


def _scores(results: SweepResults, trial: TrialResult) -> list[str]:
    if not trial.scores:
        return ["none"] * len(results.objectives)
    pairs = zip(results.objectives, trial.scores, strict=False)
    return [score_text(objective.name, score) for objective, score in pairs]


def _settings(results: SweepResults, trial: TrialResult) -> list[str]:
    config = trial.config
    return [short_text(config[name]) if name in config else "" for name in results.space]


def _domain_text(domain: dict[str, Any]) -> str:
    kinds = {"uniform": "", "log": ", on a logarithmic scale", "int": ", whole numbers"}
    if "choice" in domain:
        text = "one of " + ", ".join(map(value_text, domain["choice"]))
    else:
        kind = next(kind for kind in kinds if kind in domain)
        low, high = map(value_text, domain[kind])
        text = f"{low} to {high}{kinds[kind]}"
    conditions = []
    for name, allowed in domain.get("when", {}).items():
        values = allowed if isinstance(allowed, list) else [allowed]
        conditions.append(f"{name} is {' or '.join(map(value_text, values))}")
    return f"{text}; only where {' and '.join(conditions)}" if conditions else text
