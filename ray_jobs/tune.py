"""A sweep on Ray: Ray Tune with Optuna and ASHA around the same TorchTrainer as `train`.

SWEEP/study.db           the Optuna study, unless tune.storage names another database
SWEEP/trials/0007/       a trial's run, as `genconvit train` keeps it
SWEEP/settings.yaml      what all trials have in common; begun.json: what never changes
SWEEP/sweep_report.html  what was found; sweep.json, trials.csv and figures beside it
SWEEP/best.yaml, best/   the winner's settings and its detector
SWEEP/confirm/           the winner and the start settings, trained again with other seeds
SWEEP/final/             the winner's settings, trained on the train and val splits together
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import ray
import ray.tune

from genconvit.config import Settings
from genconvit.data.training_data import TrainingData, refuse_leaks
from genconvit.errors import UserError
from genconvit.files import LOCK, locked
from genconvit.overrides import resolve_settings
from genconvit.train.run_folder import SETTINGS, write_settings
from genconvit.tune.begun import BEGUN, Begun, read_begun, refuse_changes, write_begun
from genconvit.tune.report import write_sweep
from genconvit.tune.results import SweepResults
from genconvit.tune.space import Space, default_space
from genconvit.tune.study import Study, earlier_trials
from genconvit.wording import plural
from ray_jobs.cache_fill import fill_cache
from ray_jobs.cluster import DRIVER_CPUS, Budget, Resources, connected, sweep_budget
from ray_jobs.extract import dataset_for
from ray_jobs.failures import user_error_in
from ray_jobs.mailbox import follow, new_mailbox
from ray_jobs.options import Given
from ray_jobs.output import Output, new_out_folder, runs_folder
from ray_jobs.train import INTERRUPTED
from ray_jobs.train_settings import (
    data_summary,
    refuse_missing,
    refuse_unwritable,
    resumed_settings,
    settings_for,
)
from ray_jobs.tune_again import confirm, retrain
from ray_jobs.tune_display import tune_display
from ray_jobs.tune_results import collect, hand_over, scores_of, tell
from ray_jobs.tune_search import Ending, Silent, StudySearch, StudyStops
from ray_jobs.tune_trial import TRIALS, Trials, trial_folder


def tune(
    data: Sequence[str | Path],
    settings: Settings,
    out: Path | None,
    output: Output,
    *,
    resume: bool = False,
    allow_leakage: bool = False,
) -> SweepResults:
    """Searches for the settings with the best detector.

    Args:
        data: Shards, or folders or lists of clips, which are extracted first; several are mixed.
        settings: What every trial has in common.
        out: The sweep's folder; by default a new one in `runs_folder()`.
        output: Where to tell of it.
        resume: Go on with the sweep in `out`.
        allow_leakage: Search even where validation clips are known from training.

    Returns:
        What `sweep.json` holds.

    Raises:
        UserError: The data, the settings or the cluster do not allow it, or every trial failed.
    """
    refuse_missing(data)
    if settings.train.train_on_val:
        raise UserError(
            "a sweep judges its trials by the val split, which train.train_on_val trains on; leave "
            "it out (--retrain-best trains the winner on both)."
        )
    epochs, warm_up = settings.tune.retrain_epochs, settings.train.warmup_epochs
    if epochs is not None and 0 < warm_up >= epochs:
        raise UserError(
            f"--retrain-epochs {epochs}: train.warmup_epochs={warm_up:g} takes all of them; give "
            "more, or warm up for less."
        )
    given = settings.tune.space
    space = None if given is None else Space.parse(given, "tune.space")
    out = (out or new_out_folder("tune")).resolve()
    if not resume and out.exists() and not _is_empty(out):
        raise UserError(
            f"{out} is not empty; go on with a sweep by --resume {out}, or choose another --out."
        )
    earlier = []
    if settings.tune.warm_start and not resume:
        earlier = earlier_trials(Path(settings.tune.warm_start), settings.tune.objectives)
    refuse_unwritable(out)
    # Without a dashboard Ray Tune cannot free what a stopped trial held, and later trials hang.
    with locked(out, partial(_refuse_busy, out)), connected(output, dashboard=True) as ray_logs:
        dataset = TrainingData.of(*(dataset_for(one, settings, output) for one in data))
        settings = _common(settings_for(dataset, settings, begun=resume))
        refuse_leaks(dataset, allow_leakage)
        if not all(dataset.counts["val"].get(label) for label in ("fake", "real")):
            raise UserError(f"{dataset.path}: a sweep needs fake and real clips in the val split.")
        budget, at_once = sweep_budget(
            settings.train, Resources.of_cluster(), settings.tune.trials,
            settings.tune.gpus_per_worker,
        )  # fmt: skip
        begun, space = _begin(out, settings, space, dataset.digest, resume)
        points = [space.check_point(point, "tune.points") for point in settings.tune.points]
        study = Study(out, begun, space, settings)
        write_begun(out, begun)
        write_settings(out / SETTINGS, settings)
        study.begin([space.start(settings), *points], earlier)
        sweep = Sweep(out, settings, study, dataset, budget, at_once)
        output.say(
            f"{sweep.in_words()}\nSweep: {out}\nStudy: {study.place}\nRay's logs: {ray_logs}"
        )
        try:
            whole = sweep.run(output)
            results = collect(out, settings, space, study, budget)
            page = write_sweep(out, results)
            if results.best:
                hand_over(out, settings, results)
            if whole and results.best and settings.tune.confirm_seeds:
                results = confirm(out, settings, results, dataset, budget, at_once, output)
                write_sweep(out, results)
            if whole and results.best and settings.tune.retrain_best:
                results = retrain(out, settings, results, dataset, budget, at_once, output)
                write_sweep(out, results)
        except KeyboardInterrupt:
            _say_stopped(out, output)
            sys.stdout.flush()
            # Ray's threads are at work, and would bring the process down where they are ended.
            os._exit(INTERRUPTED)
        if not whole:
            _say_stopped(out, output)
            sys.exit(INTERRUPTED)
    tell(results, out, page, output)
    return results


def _say_stopped(out: Path, output: Output) -> None:
    output.say(f"Stopped; go on with --resume {out}")
    output.emit({"event": "interrupted", "out": str(out)})


def _is_empty(out: Path) -> bool:
    """Whether nothing but the lock of a process that was killed is in a folder."""
    return out.is_dir() and {each.name for each in out.iterdir()} <= {LOCK}


def _begin(
    out: Path, settings: Settings, given: Space | None, data_digest: str, resume: bool
) -> tuple[Begun, Space]:
    """What the sweep is begun with, or was, and the space that it searches.

    Args:
        out: The sweep's folder.
        settings: What all trials have in common.
        given: The space that the settings name.
        data_digest: Of the crops.
        resume: Whether it goes on.

    Raises:
        UserError: It was begun with something else, or its space does not fit the settings.
    """
    if resume:
        begun = read_begun(out)
        before = resolve_settings(out / SETTINGS)
        refuse_changes(out, begun, before, settings, data_digest)
        return begun, Space.parse(begun.space, BEGUN)
    space = given or default_space(settings)
    space.check_base(settings)
    return Begun.new(out, settings.tune, space.tree(), data_digest), space


def _common(settings: Settings) -> Settings:
    """The settings of every trial, but for what is searched."""
    workers = settings.tune.workers_per_trial
    train = settings.train.model_copy(update={"num_workers": workers})
    return settings.model_copy(update={"train": train})


def _refuse_busy(out: Path) -> None:
    raise UserError(f"another process is at work on {out}; wait for it, or stop it first.")


def resume_sweep(
    name: str,
    data: Sequence[str],
    given: Given,
    out: Path | None,
    output: Output,
    allow_leakage: bool = False,
) -> SweepResults:
    """Goes on with a sweep, with its own settings and what the command line changes of them.

    Raises:
        UserError: There is no such sweep, or `--out` names another folder.
    """
    for folder in (Path(name), runs_folder() / name):
        if (folder / BEGUN).is_file():
            break
    else:
        raise UserError(
            f"--resume {name}: there is no sweep there nor at {runs_folder() / name}; check the "
            "name."
        )
    settings = resumed_settings(folder, out, given)
    return tune(data, settings, folder, output, resume=True, allow_leakage=allow_leakage)


class Sweep:
    """Trials on a cluster.

    Args:
        out: The sweep's folder.
        settings: What all trials have in common.
        study: Where the trials are kept.
        dataset: The crops.
        budget: What each trial gets.
        at_once: Trials at once.
    """

    def __init__(
        self,
        out: Path,
        settings: Settings,
        study: Study,
        dataset: TrainingData,
        budget: Budget,
        at_once: int,
    ) -> None:
        self._out, self._settings = out, settings
        self._study, self._dataset = study, dataset
        self._budget, self._at_once = budget, at_once

    def in_words(self) -> str:
        """What is about to happen."""
        tune, budget = self._settings.tune, self._budget
        done, here = self._study.ended(), Resources.of_cluster()
        kind = "GPU" if budget.use_gpu else "CPU"
        part = budget.use_gpu and budget.gpus_per_worker < 1
        share = f" on {budget.gpus_per_worker:g} GPU" if part else ""
        have = plural(here.gpus, "GPU") if budget.use_gpu else f"{here.cpus:g} CPUs"
        return (
            f"{plural(tune.trials, 'trial')}{f', {done} of them done' if done else ''}, of up to "
            f"{plural(self._settings.train.epochs, 'epoch')}"
            f"{', those that fall behind stopped by ASHA' if tune.stops else ''}.\n"
            f"{have}, {plural(budget.workers, f'{kind} worker')}{share} a trial: "
            f"{self._at_once} at once."
        )

    def run(self, output: Output) -> bool:
        """Runs what is left of the trials; False where it was asked to stop."""
        (self._out / TRIALS).mkdir(exist_ok=True)
        mailbox = new_mailbox()

        def is_stop_asked() -> bool:
            return bool(ray.get(mailbox.is_stop_asked.remote()))

        def ending(number: int) -> Ending:
            folder = trial_folder(self._out, number)
            end = ray.get(mailbox.end_of.remote(str(folder)))
            if end is not None and end["interrupted"]:
                return Ending(interrupted=True)
            scores = scores_of(folder, self._settings.tune.objectives)
            return Ending(scores, end["message"] if end is not None else None)

        def told(number: int, end: Ending, stopped: bool) -> None:
            state = "failed" if end.failure else "stopped" if stopped else "finished"
            event = {
                "event": "trial_end",
                "run": str(trial_folder(self._out, number)),
                "trial": number,
                "state": "interrupted" if end.interrupted else state,
                "scores": end.scores,
                "failure": end.failure,
            }
            ray.get(mailbox.push.remote(event))

        if self._study.ended() >= self._settings.tune.trials:
            return True
        search = StudySearch(self._study, self._settings.tune.trials, ending, told, is_stop_asked)
        cache = fill_cache(self._dataset, self._settings, output)  # all trials read the same crops
        trials = Trials(
            self._out,
            self._settings,
            self._dataset.paths,
            data_summary(self._dataset),
            self._budget,
            mailbox,
            cache,
        )
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(trials.driver(), {"CPU": DRIVER_CPUS}),
            tune_config=ray.tune.TuneConfig(
                num_samples=self._settings.tune.trials,
                max_concurrent_trials=self._at_once,
                search_alg=search,
                scheduler=StudyStops(self._study, search),
            ),
            run_config=ray.tune.RunConfig(
                name="ray",
                storage_path=str(self._out),
                verbose=0,
                callbacks=[Silent()],
                failure_config=ray.tune.FailureConfig(self._settings.train.max_failures),
            ),
        )
        done = self._study.ended()
        with tune_display(output, self._settings, done, self._at_once) as display:
            follow(mailbox, partial(_fit, tuner), display.handle)
        return not is_stop_asked()


def _fit(tuner: ray.tune.Tuner) -> None:
    """Runs all trials.

    Raises:
        UserError: The study's database does not answer.
    """
    try:
        tuner.fit()
    except Exception as error:
        found = user_error_in(error)
        raise (found or error) from None


if __name__ == "__main__":
    from ray_jobs.cli import main

    main(["tune", *sys.argv[1:]])
