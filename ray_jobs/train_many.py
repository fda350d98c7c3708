"""Many training runs on one cluster: as many at once as fit, each in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from genconvit.data.training_data import TrainingData
from genconvit.evaluate.training_figure import training_curves
from genconvit.train.run_folder import RunFolder, epoch_line, finished, read_results
from genconvit.wording import plural
from ray_jobs.cluster import DRIVER_CPUS, Budget, Resources, sweep_budget
from ray_jobs.failures import reason_of
from ray_jobs.fit import fit_run
from ray_jobs.mailbox import Event, new_mailbox, watch
from ray_jobs.options import Given
from ray_jobs.output import Output
from ray_jobs.variants import Run


def train_runs(
    plans: Sequence[Sequence[Run]], dataset: TrainingData | None, given: Given, output: Output
) -> dict[str, str]:
    """Trains what is not trained yet, as many runs at once as the cluster has room for.

    Returns:
        Why variants failed, by name. The others are trained.

    Raises:
        UserError: The cluster is too small for one run.
    """
    todo = [
        run.folder
        for plan in plans
        for run in plan
        if run.folder and not finished(run.folder.path, run.folder.settings)
    ]
    if not todo or dataset is None:
        return {}
    names = {str(run.folder.path): run for plan in plans for run in plan if run.folder}
    budget, at_once = sweep_budget(given.settings().train, Resources.of_cluster(), len(todo))
    output.say(
        f"Training {plural(len(todo), 'run')}, {at_once} at once, each on "
        f"{plural(budget.workers, 'GPU worker' if budget.use_gpu else 'CPU worker')}."
    )
    failures = fit_runs(
        todo,
        {path: (run.variant, run.seed) for path, run in names.items()},
        dataset,
        budget,
        at_once,
        output,
    )
    failed = {}
    for path, reason in failures.items():
        run = names[str(path)]
        failed[run.variant] = f"seed {run.seed}: {reason}"
    return failed


def fit_runs(
    folders: Sequence[RunFolder],
    names: Mapping[str, tuple[str, int | None]],
    dataset: TrainingData,
    budget: Budget,
    at_once: int,
    output: Output,
) -> dict[Path, str]:
    """Trains runs, each in a process of its own, and shows their epochs.

    Args:
        folders: Of the runs; those that were begun go on.
        names: Variant and seed of each, by folder.
        dataset: The crops.
        budget: What each gets of the cluster.
        at_once: Runs at once.
        output: Where to tell of it.

    Returns:
        Why runs failed, by folder.
    """
    mailbox = new_mailbox()
    epochs = sum(folder.settings.train.epochs for folder in folders)
    with output.bar("training", total=epochs) as bar:

        def handle(event: Event) -> None:
            if event["event"] == "epoch":
                variant, seed = names[event["run"]]
                bar.advance(f"{variant} seed {seed}")
                output.say(f"{variant} seed {seed}  {epoch_line(event, parts=False)}")
                output.emit({**event, "variant": variant, "seed": seed})

        failures = watch(
            mailbox, lambda: _fit_all(folders, dataset, budget, at_once, mailbox), handle
        )
    for folder in folders:
        if folder.path in failures:
            variant, seed = names[str(folder.path)]
            output.warn(f"{variant}: seed {seed}: {failures[folder.path]}")
        else:
            training_curves(folder.path, read_results(folder.path)["history"])
    return failures


def _fit_all(
    todo: Sequence[RunFolder], dataset: TrainingData, budget: Budget, at_once: int, mailbox: object
) -> dict[Path, str]:
    """Fits every run in a process of its own; returns the reasons of those that failed."""
    fit = ray.remote(num_cpus=DRIVER_CPUS, max_retries=0)(fit_run)
    waiting, running = list(todo), dict[Any, RunFolder]()
    failures: dict[Path, str] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            folder = waiting.pop(0)
            folder.start()
            running[fit.remote(folder, dataset.paths, budget, mailbox)] = folder
        for done in ray.wait(list(running))[0]:
            folder = running.pop(done)
            try:
                ray.get(done)
            except Exception as error:  # the other variants go on
                failures[folder.path] = reason_of(error)
    return failures
