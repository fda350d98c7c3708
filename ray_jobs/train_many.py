"""Many training runs on one cluster: as many at once as fit, each in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from genconvit.data.training_data import TrainingData
from genconvit.evaluate.plots import training_curves
from genconvit.train.run_folder import RunFolder, epoch_line, read_results
from ray_jobs.cluster import Budget, Resources
from ray_jobs.failures import reason_of
from ray_jobs.mailbox import Event, new_mailbox, watch
from ray_jobs.options import Given
from ray_jobs.output import Output, plural
from ray_jobs.train import finished, fit_run
from ray_jobs.tune import DRIVER_CPUS, sweep_budget
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
    budget, at_once = sweep_budget(given.settings(), Resources.of_cluster(), len(todo))
    output.say(
        f"Training {plural(len(todo), 'run')}, {at_once} at once, each on "
        f"{plural(budget.workers, 'GPU worker' if budget.use_gpu else 'CPU worker')}."
    )
    mailbox, failed = new_mailbox(), {}
    epochs = sum(folder.settings.train.epochs for folder in todo)
    with output.bar("training", total=epochs) as bar:

        def handle(event: Event) -> None:
            if event["event"] == "epoch":
                run = names[event["run"]]
                bar.advance(f"{run.variant} seed {run.seed}")
                output.say(f"{run.variant} seed {run.seed}  {epoch_line(event, parts=False)}")
                output.emit({**event, "variant": run.variant, "seed": run.seed})

        failures = watch(mailbox, lambda: _fit_all(todo, dataset, budget, at_once, mailbox), handle)
    for folder in todo:
        run = names[str(folder.path)]
        if folder.path in failures:
            failed[run.variant] = f"seed {run.seed}: {failures[folder.path]}"
            output.warn(f"{run.variant}: {failed[run.variant]}")
        else:
            training_curves(folder.path, read_results(folder.path)["history"])
    return failed


def _fit_all(
    todo: Sequence[RunFolder], dataset: TrainingData, budget: Budget, at_once: int, mailbox: object
) -> dict[Path, str]:
    """Fits every run in a process of its own; returns the reasons of those that failed."""
    fit = ray.remote(num_cpus=DRIVER_CPUS, max_retries=0)(_fit)
    waiting, running = list(todo), dict[Any, RunFolder]()
    failures: dict[Path, str] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            folder = waiting.pop(0)
            folder.start()
            running[fit.remote(folder, dataset, budget, mailbox)] = folder
        for done in ray.wait(list(running))[0]:
            folder = running.pop(done)
            try:
                ray.get(done)
            except Exception as error:  # the other variants go on
                failures[folder.path] = reason_of(error)
    return failures


def _fit(folder: RunFolder, dataset: TrainingData, budget: Budget, mailbox: object) -> None:
    """Runs in a Ray task, which only waits; the workers compute."""
    fit_run(folder, dataset, budget, mailbox)
