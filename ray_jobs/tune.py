"""A sweep on Ray: Ray Tune with Optuna and ASHA around the same TorchTrainer as `train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch
from rich.table import Table

from genconvit.checkpoint import read_info
from genconvit.config import Settings
from genconvit.data.training_data import TrainingData, refuse_leaks
from genconvit.errors import UserError
from genconvit.files import replaced_folder, write_json
from genconvit.overrides import Assignment, resolve_settings
from genconvit.train.run_folder import RunFolder, read_results, write_settings
from ray_jobs.cache import Cache, fill_cache
from ray_jobs.cluster import Budget, Resources, connected, train_budget
from ray_jobs.extract import dataset_for
from ray_jobs.failures import reason_of
from ray_jobs.mailbox import Event, new_mailbox, watch
from ray_jobs.output import Output, new_out_folder
from ray_jobs.train import trainer_for
from ray_jobs.train_settings import data_summary, refuse_missing, settings_for

METRIC = "best_clip_auc"
"""What a trial is judged by: the validation clip AUC of the checkpoint that it would keep."""

DRIVER_CPUS = 0.01  # it only waits; its workers compute

SPACE: dict[str, Any] = {
    "model.dropout_rate": ray.tune.uniform(0.1, 0.7),
    "loss.ae_weight": ray.tune.loguniform(0.01, 1.0),
    "loss.vae_weight": ray.tune.loguniform(0.01, 1.0),
    "train.lr": ray.tune.loguniform(3e-5, 3e-3),
    "train.early_stopping_patience": ray.tune.randint(3, 16),
}
"""The settings that are searched, by name."""


def tune(
    data: Sequence[str | Path],
    settings: Settings,
    out: Path | None,
    output: Output,
    *,
    allow_leakage: bool = False,
) -> dict[str, Any]:
    """Searches for the settings with the best detector.

    Args:
        data: Shards, or folders or lists of clips, which are extracted first; several are mixed.
        settings: What every trial has in common.
        out: The sweep's folder; by default a new one below `runs/`.
        output: Where to tell of it.
        allow_leakage: Search even where validation clips are known from training.

    Returns:
        The content of `sweep.json`.

    Raises:
        UserError: The data, the settings or the cluster do not allow it, or every trial failed.
    """
    trials = settings.tune.trials
    refuse_missing(data)
    out = (out or new_out_folder("tune")).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty; choose another --out for the sweep.")
    # Without a dashboard Ray Tune cannot free what a stopped trial held, and later trials hang.
    with connected(output, dashboard=True) as ray_logs:
        dataset = TrainingData.of(*(dataset_for(one, settings, output) for one in data))
        settings = settings_for(dataset, settings)
        refuse_leaks(dataset, allow_leakage)
        if not all(dataset.counts["val"].get(label) for label in ("fake", "real")):
            raise UserError(f"{dataset.path}: a sweep needs fake and real clips in the val split.")
        train = settings.train.model_copy(update={"num_workers": settings.tune.workers_per_trial})
        settings = settings.model_copy(update={"train": train})
        budget, at_once = sweep_budget(settings, Resources.of_cluster(), trials)
        output.say(
            f"{trials} trials of up to {settings.train.epochs} epochs, {budget.workers} workers "
            "a trial, "
            f"{at_once} at once.\nSweep: {out}\nRay's logs: {ray_logs}"
        )
        out.mkdir(parents=True, exist_ok=True)
        cache = fill_cache(dataset, settings, output) if settings.stream.cache else None
        records = _run(settings, dataset, budget, at_once, trials, out, output, cache)
    return _finish(records, settings, out, output)


def sweep_budget(settings: Settings, resources: Resources, trials: int) -> tuple[Budget, int]:
    """What each trial gets, and how many run at once: as many as fit.

    Raises:
        UserError: The cluster is too small for one trial.
    """
    budget = train_budget(settings.train, resources)
    at_once = 1
    while at_once < trials:
        try:
            more = train_budget(settings.train, resources, runs=at_once + 1)
        except UserError:
            break
        # Neither half-CPU workers nor leaving the GPUs is worth another trial at once.
        if more.cpus_per_worker < 1 or more.use_gpu != budget.use_gpu:
            break
        budget, at_once = more, at_once + 1
    # The drivers take a little of the CPU that is left for the data; a whole one would never come.
    return replace(budget, data_cpus=min(budget.data_cpus, 0.5)), at_once


def _run(
    settings: Settings,
    dataset: TrainingData,
    budget: Budget,
    at_once: int,
    trials: int,
    out: Path,
    output: Output,
    cache: Cache | None,
) -> list[dict[str, Any]]:
    mailbox = new_mailbox()

    def driver(config: dict[str, Any]) -> None:
        """One trial: a TorchTrainer of its own, named after the trial so that it could go on."""
        trial = ray.tune.get_context().get_trial_id()
        folder = RunFolder(
            out / "trials" / trial, trial_settings(settings, config), data_summary(dataset)
        )
        folder.start()
        trainer = trainer_for(
            folder, dataset, budget, cache=cache, name=trial, callbacks=[TuneReportCallback()]
        )
        failure = None
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            failure = reason_of(error)
            raise
        finally:
            ray.get(mailbox.push.remote({"trial": trial, "config": config, "failure": failure}))

    tuner = ray.tune.Tuner(
        ray.tune.with_resources(driver, {"CPU": DRIVER_CPUS}),
        param_space=None,
        tune_config=ray.tune.TuneConfig(
            num_samples=trials,
            max_concurrent_trials=at_once,
            search_alg=ConcurrencyLimiter(
                OptunaSearch(space_for(settings), metric=METRIC, mode="max", seed=settings.seed),
                at_once,
            ),
            scheduler=_scheduler(settings),
        ),
        run_config=ray.tune.RunConfig(
            name="ray",
            storage_path=str(out),
            verbose=0,
            failure_config=ray.tune.FailureConfig(max_failures=0),
        ),
    )
    failures: dict[str, str | None] = {}
    with output.bar("trials", total=trials) as bar:

        def handle(event: Event) -> None:
            failures[event["trial"]] = event["failure"]
            bar.advance(f"last: {event['trial']}" + (" failed" if event["failure"] else ""))

        results = watch(mailbox, tuner.fit, handle)
    return [_record(result, failures) for result in results]


def space_for(settings: Settings) -> dict[str, Any]:
    """What is searched: the settings of `SPACE` that the network has."""
    arch, net = settings.model.arch, settings.model.net
    left_out = {"model.dropout_rate", "loss.ae_weight"} if arch == "original" else set()
    left_out |= {"ed": {"loss.vae_weight"}, "vae": {"loss.ae_weight"}}.get(net, set())
    return {name: values for name, values in SPACE.items() if name not in left_out}


def _scheduler(settings: Settings) -> ASHAScheduler:
    epochs = settings.train.epochs
    return ASHAScheduler(
        time_attr="training_iteration",
        metric=METRIC,
        mode="max",
        # With max_t equal to the epochs, every trial that comes to its end would count as stopped.
        max_t=epochs + 1,
        grace_period=min(settings.tune.grace_period, epochs),
        reduction_factor=3,
    )


def trial_settings(settings: Settings, config: dict[str, Any]) -> Settings:
    """The settings of a trial.

    Args:
        settings: What all trials have in common.
        config: The searched settings by name.
    """
    assignments = [
        Assignment(name, str(value), f"{name}={value}") for name, value in config.items()
    ]
    return resolve_settings(assignments=assignments, base=settings)


def _record(result: Any, failures: dict[str, str | None]) -> dict[str, Any]:
    metrics = result.metrics or {}
    trial = str(metrics.get("trial_id") or Path(result.path).name)
    failure = None
    if result.error:
        failure = failures.get(trial) or type(result.error).__name__
    run = Path(metrics["detector"]).parent if "detector" in metrics else None
    return {
        "trial": trial,
        "config": {name: value for name, value in (result.config or {}).items() if name in SPACE},
        METRIC: metrics.get(METRIC),
        "epochs": metrics.get("training_iteration", 0),
        "best_epoch": metrics.get("best_epoch"),
        "stopped_by_asha": run is not None
        and failure is None
        and not read_results(run)["finished"],
        "detector": metrics.get("detector"),
        "failure": failure,
    }


def _finish(
    records: list[dict[str, Any]], settings: Settings, out: Path, output: Output
) -> dict[str, Any]:
    """Picks the best trial and hands over its settings and detector."""
    scored = [record for record in records if record[METRIC] is not None]
    if not scored:
        reason = next((r["failure"] for r in records if r["failure"]), "no trial reported an epoch")
        raise UserError(f"none of the {len(records)} trials came to a result; the first: {reason}")
    records.sort(key=lambda record: -(record[METRIC] if record[METRIC] is not None else -1.0))
    best = records[0]
    winner = trial_settings(settings, best["config"])
    write_settings(out / "best.yaml", winner)
    with replaced_folder(out / "best") as folder:
        for file in Path(best["detector"]).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    # A trial that ASHA stops may still end its epoch: what counts is what the folder holds.
    held = read_info(out / "best")
    best.update({METRIC: held.metrics["clip_auc"], "best_epoch": held.training["epoch"]})
    summary = {"trials": records, "best": best, "best_detector": str(out / "best")}
    write_json(out / "sweep.json", summary)

    table = Table("trial", "clip AUC", "best epoch", "epochs", "settings")
    for record in records:
        score = record["failure"] or f"{record[METRIC]:.4f}"
        values = (f"{name.split('.')[1]} {value:.3g}" for name, value in record["config"].items())
        cells = [record["trial"], score, record["best_epoch"], record["epochs"], ", ".join(values)]
        table.add_row(*(str(cell) for cell in cells), style="bold" if record is best else None)
    output.say(table)
    output.say(
        f"Best settings: {out / 'best.yaml'} (train again with --config)\n"
        f"Its detector: {out / 'best'}"
    )
    output.emit({"event": "tuned", "out": str(out), **summary})
    return summary


if __name__ == "__main__":
    import sys

    from ray_jobs.cli import main

    main(["tune", *sys.argv[1:]])
