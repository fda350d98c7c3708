"""What a sweep has found: its trials and its winner."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import TrialState
from rich.table import Table

from genconvit.checkpoint import read_info
from genconvit.config import Settings
from genconvit.config_tune import OBJECTIVES
from genconvit.errors import UserError
from genconvit.files import read_json, replaced_folder
from genconvit.train.run_folder import RESULTS, read_results, write_settings
from genconvit.tune.figures import ranked, winner_of
from genconvit.tune.report import score_text, summary
from genconvit.tune.results import Objective, State, SweepResults, TrialResult
from genconvit.tune.space import Space
from genconvit.tune.study import CONFIG, FAILURE, OWNER, Study
from genconvit.wording import plural
from ray_jobs.cluster import Budget
from ray_jobs.output import Output
from ray_jobs.tune_display import searched
from ray_jobs.tune_trial import SPEED, run_settings, trial_folder

SHOWN = 10
_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}


def scores_of(run: Path, objectives: Sequence[str]) -> tuple[float, ...] | None:
    """What the detector that a trial keeps is judged by; None where there is none to judge."""
    best = run / "best"
    if not best.is_dir():
        return None
    try:
        info = read_info(best)
    except UserError:  # a worker that is about to be stopped puts another in its place
        time.sleep(1)
        info = read_info(best)
    found: dict[str, float | None] = {"clip_auc": info.metrics["clip_auc"]}
    if (run / SPEED).is_file():
        found |= read_json(run / SPEED, "a trial's speed")
    scores = [found.get(name) for name in objectives]
    return None if None in scores else tuple(float(each) for each in scores if each is not None)


def collect(
    out: Path, settings: Settings, space: Space, study: Study, budget: Budget
) -> SweepResults:
    """All trials of the study, as their runs' folders tell."""
    tune = settings.tune
    gpus = budget.workers * budget.gpus_per_worker if budget.use_gpu else 0.0
    trials = []
    for frozen in study.trials:
        run = trial_folder(out, frozen.number)
        own = frozen.user_attrs[OWNER] == study.owner  # the others' runs are in their own folders
        results = read_results(run) if own and (run / RESULTS).is_file() else None
        scores = scores_of(run, tune.objectives) if own else frozen.values
        trials.append(
            TrialResult(
                number=frozen.number,
                state=_STATES.get(frozen.state, "unfinished"),
                config=frozen.user_attrs[CONFIG],
                scores=None if scores is None else list(scores),
                best_epoch=results["best_epoch"] if results else None,
                epochs=results["epochs"] if results else 0,
                history=_best_so_far(results["history"]) if results else [],
                seconds=results["seconds"] if results else 0.0,
                gpus=gpus,
                failure=frozen.user_attrs.get(FAILURE),
                detector=str(run / "best") if own and scores is not None else None,
            )
        )
    objectives = [Objective(name=name, direction=OBJECTIVES[name]) for name in tune.objectives]
    return SweepResults(
        name=out.name,
        objectives=objectives,
        space=space.tree(),
        start=space.start(settings),
        epochs=settings.train.epochs,
        stopping="asha" if tune.stops else "none",
        use_gpu=budget.use_gpu,
        trials=trials,
        best=front(trials, objectives),
        importance=study.importance(),
    )


def front(trials: Sequence[TrialResult], objectives: Sequence[Objective]) -> list[int]:
    """Numbers of the trials that no other beats in all objectives; best in the first one first.

    Only this sweep's own trials count, whose detectors are here. With one objective it is the
    winner alone. Of equals, the earlier one counts.
    """
    signs = np.array([1.0 if each.direction == "maximize" else -1.0 for each in objectives])
    judged = [t for t in trials if t.detector is not None and t.state in ("finished", "stopped")]
    points = [signs * np.array(trial.scores) for trial in judged]
    kept: list[int] = []
    for place in sorted(range(len(judged)), key=lambda i: (*-points[i], judged[i].number)):
        if not any((points[other] >= points[place]).all() for other in kept):
            kept.append(place)
    return [judged[place].number for place in kept]


def hand_over(out: Path, settings: Settings, results: SweepResults) -> None:
    """Writes the winner's settings and its detector: `best.yaml` and `best/`."""
    winner = winner_of(results)
    assert winner is not None and winner.detector is not None
    write_settings(out / "best.yaml", run_settings(settings, winner.config))
    with replaced_folder(out / "best") as folder:
        for file in Path(winner.detector).iterdir():
            shutil.copyfile(file, folder / file.name)


def tell(results: SweepResults, out: Path, page: Path, output: Output) -> None:
    """Shows the best trials, and where everything is.

    Raises:
        UserError: No trial came to a result.
    """
    if not results.best:
        reasons = [trial.failure for trial in results.trials if trial.failure]
        raise UserError(
            f"none of the {plural(len(results.trials), 'trial')} came to a result; the first: "
            f"{reasons[0] if reasons else 'no epoch ended'} ({page})."
        )
    names = [each.name for each in results.objectives]
    table = Table("trial", *(name.replace("_", " ") for name in names), "epochs", "", "settings")
    order = {number: place for place, number in enumerate(results.best)}
    judged = [trial for trial, _ in ranked(results)]
    judged.sort(key=lambda trial: order.get(trial.number, len(order)))
    for trial in judged[:SHOWN]:
        table.add_row(
            str(trial.number),
            *map(score_text, names, trial.scores or ()),
            f"{trial.epochs}",
            {"finished": "", "stopped": "stopped"}.get(trial.state, trial.state),
            searched(trial.config),
            style="bold" if trial.number in order else None,
        )
    output.say(table)
    for sentence in summary(results):
        output.say(sentence)
    output.say(
        f"Report: {page}\nBest settings: {out / 'best.yaml'} (train again with --config)\n"
        f"Its detector: {out / 'best'}"
    )
    if results.final:
        output.say("Trained on train and val: " + ", ".join(results.final.detectors))
    output.emit({"event": "tuned", "out": str(out), **results.model_dump(mode="json")})


def _best_so_far(history: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """The clip AUC of the detector that was kept after each epoch."""
    scores: list[float | None] = []
    for entry in history:
        kept = entry["val"]["clip_auc"] if entry["best"] or not scores else scores[-1]
        scores.append(kept)
    return scores
