"""The winner trained again: with other seeds, to tell it from luck; on train and val, for use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from genconvit.config import Settings
from genconvit.data.training_data import TrainingData
from genconvit.overrides import resolve_settings
from genconvit.train.run_folder import (
    MAY_CHANGE,
    SETTINGS,
    RunFolder,
    finished,
    flat_settings,
    read_results,
)
from genconvit.tune.figures import winner_of
from genconvit.tune.results import Confirmation, Final, SweepResults
from genconvit.wording import plural
from ray_jobs.cluster import Budget
from ray_jobs.output import Output
from ray_jobs.train_many import fit_runs
from ray_jobs.train_settings import data_summary
from ray_jobs.tune_trial import run_settings

FINAL = "final"
"""Folder of the runs on train and val."""


def confirm(
    out: Path,
    settings: Settings,
    results: SweepResults,
    dataset: TrainingData,
    budget: Budget,
    at_once: int,
    output: Output,
) -> SweepResults:
    """Trains the winner and the start settings with other seeds; what is done stays done.

    The results stay without a confirmation where a run fails or the winner is the start itself.
    """
    found = winner_of(results)
    if found is None or found.config == results.start:
        return results
    seeds = [settings.seed + 1 + number for number in range(settings.tune.confirm_seeds)]
    folders = {
        (name, seed): RunFolder(
            out / "confirm" / f"{folder}-seed-{seed}",
            run_settings(settings, config).model_copy(update={"seed": seed}),
            data_summary(dataset),
        )
        for seed in seeds
        for name, folder, config in (
            ("winner", f"trial-{found.number:04d}", found.config),
            ("start", "start", results.start),
        )
    }
    todo = [each for each in folders.values() if not finished(each.path, each.settings)]
    if todo:
        output.say(
            f"Training the winner and the start settings with {plural(len(seeds), 'other seed')}."
        )
        names = {str(each.path): key for key, each in folders.items()}
        if fit_runs(todo, names, dataset, budget, at_once, output):
            return results
    scores: Mapping[str, list[float]] = {
        which: [
            read_results(folder.path)["best"]["clip_auc"]
            for (name, _), folder in folders.items()
            if name == which
        ]
        for which in ("winner", "start")
    }
    return results.model_copy(update={"confirmation": confirmation(seeds, **scores)})


def confirmation(
    seeds: Sequence[int], winner: Sequence[float], start: Sequence[float]
) -> Confirmation:
    """Compares scores over seeds: Welch's interval of the difference of their means."""
    from scipy.stats import ttest_ind  # takes half a second, and a sweep is to begin before

    difference = float(np.mean(winner) - np.mean(start))
    interval = (difference, difference)
    if np.ptp(winner) > 0 or np.ptp(start) > 0:
        found = ttest_ind(winner, start, equal_var=False).confidence_interval(0.95)
        interval = (float(found.low), float(found.high))
    return Confirmation(
        seeds=list(seeds),
        winner=list(winner),
        start=list(start),
        difference=difference,
        interval=interval,
    )


def retrain(
    out: Path,
    settings: Settings,
    results: SweepResults,
    dataset: TrainingData,
    budget: Budget,
    at_once: int,
    output: Output,
) -> SweepResults:
    """Trains the winner's settings on the train and val splits together; what is done stays done.

    Seeds whose runs fail are left out, and so is all of it where `final/` holds other runs.

    Raises:
        UserError: `tune.retrain_epochs` does not go with the winner's settings.
    """
    winner = winner_of(results)
    if winner is None or winner.best_epoch is None:
        return results
    warm_up = run_settings(settings, winner.config).train.warmup_epochs
    epochs = settings.tune.retrain_epochs or longer(winner.best_epoch, warm_up)
    config = {**winner.config, "train.epochs": epochs, "train.train_on_val": True}
    own, data = run_settings(settings, config), data_summary(dataset.joined())
    seeds = [settings.seed + number for number in range(settings.tune.retrain_seeds)]
    folders = [
        RunFolder(out / FINAL / f"seed-{seed}", own.model_copy(update={"seed": seed}), data)
        for seed in seeds
    ]
    if any(map(_holds_another, folders)):
        output.warn(
            f"{out / FINAL} holds detectors of other settings or epochs than those of trial "
            f"{winner.number} for {plural(epochs, 'epoch')}; move it away and go on with --resume."
        )
        return results
    todo = [each for each in folders if not finished(each.path, each.settings)]
    failures: dict[Path, str] = {}
    if todo:
        output.say(
            f"Training the winner's settings on the train and val splits with "
            f"{plural(len(seeds), 'seed')}, for {plural(epochs, 'epoch')}."
        )
        names = {str(each.path): (FINAL, each.settings.seed) for each in todo}
        failures = fit_runs(todo, names, dataset, budget, at_once, output)
    done = [each for each in folders if each.path not in failures]
    if not done:
        return results
    final = Final(
        trial=winner.number,
        epochs=epochs,
        seeds=[each.settings.seed for each in done],
        detectors=[str(each.best) for each in done],
    )
    return results.model_copy(update={"final": final})


def longer(epochs: int, warm_up: float = 0.0) -> int:
    """A quarter more epochs, rounded up, as there are more clips; more than the warm-up takes."""
    return max(epochs + -(-epochs // 4), int(warm_up) + 1)


def _holds_another(folder: RunFolder) -> bool:
    """Whether a run was begun there that is not this one: of an earlier winner, perhaps."""
    if not (folder.path / SETTINGS).is_file():
        return False
    before = flat_settings(resolve_settings(folder.path / SETTINGS))
    may_change = MAY_CHANGE - {"train.epochs"}
    return any(
        before[name] != value
        for name, value in flat_settings(folder.settings).items()
        if name not in may_change
    )
