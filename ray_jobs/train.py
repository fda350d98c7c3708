"""Training on Ray: TorchTrainer runs the loop of `genconvit.train` as DDP over GPUs and nodes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from genconvit.config import Settings
from genconvit.data.training_data import TrainingData, crops_to_train_on, refuse_leaks
from genconvit.errors import RunStoppedError, UserError
from genconvit.evaluate.training_figure import training_curves
from genconvit.files import locked
from genconvit.train.run_folder import (
    RESULTS,
    STATES,
    RunFolder,
    find_run,
    finished,
    read_results,
)
from genconvit.wording import plural
from ray_jobs.cache import Cache
from ray_jobs.cache_fill import fill_cache
from ray_jobs.cluster import Budget, Resources, connected, train_budget
from ray_jobs.extract import dataset_for
from ray_jobs.fit import fit_run
from ray_jobs.mailbox import follow, new_mailbox
from ray_jobs.options import Given
from ray_jobs.output import Output, new_out_folder, runs_folder
from ray_jobs.stream import start_workers
from ray_jobs.train_display import train_display
from ray_jobs.train_settings import (
    data_summary,
    refuse_missing,
    refuse_unwritable,
    resumed_settings,
    settings_for,
)

INTERRUPTED = 130
"""Exit code of a run that was asked to stop: 128 + SIGINT."""


def train(
    data: Sequence[str | Path],
    settings: Settings,
    out: Path | None,
    output: Output,
    *,
    resume: bool = False,
    allow_leakage: bool = False,
) -> dict[str, Any]:
    """Trains a detector.

    Args:
        data: Shards, or folders or lists of clips, which are extracted first; several are mixed.
        settings: All settings.
        out: The run's folder; by default a new one in `runs_folder()`.
        output: Where to tell of it.
        resume: Continue the run in `out`.
        allow_leakage: Train even where validation clips are known from training.

    Returns:
        The content of `results.json`.

    Raises:
        UserError: The data, the settings or the cluster do not allow it.
    """
    out = (out or new_out_folder("train")).resolve()
    refuse_missing(data)
    if resume and finished(out, settings):
        results = read_results(out)
        output.say(f"{out} is finished ({results['epochs']} epochs); nothing to do.")
        output.emit({"event": "finished", "out": str(out), "best_epoch": results["best_epoch"]})
        return results
    if not resume and ((out / RESULTS).exists() or any(out.glob(f"{STATES}/*"))):
        raise UserError(
            f"{out} holds a run already; continue it with --resume {out}, or choose another --out."
        )
    refuse_unwritable(out)
    with locked(out, partial(_refuse_busy, out)), connected(output) as ray_logs:
        dataset = TrainingData.of(*(dataset_for(one, settings, output) for one in data))
        if settings.train.train_on_val:
            dataset = dataset.joined()
        settings = settings_for(dataset, settings, begun=resume)
        refuse_leaks(dataset, allow_leakage)
        budget = train_budget(settings.train, Resources.of_cluster())
        if settings.train.sync_bn and not budget.use_gpu:
            raise UserError(
                "train.sync_bn needs a GPU for every worker; leave it out, or ask for the GPUs "
                "with train.device=cuda."
            )
        crops = crops_to_train_on(dataset, settings.stream)
        kind = "real crop" if settings.stream.real_only else "crop"
        if crops < budget.workers:
            raise UserError(f"{dataset.path} has fewer {kind}s to train on than there are workers.")
        folder = RunFolder(out, settings, data_summary(dataset))
        if resume:
            folder.check()
        folder.start()
        output.say(
            f"Training {settings.model.preset} {settings.model.net} "
            f"on {plural(budget.workers, 'worker')} ({'GPU' if budget.use_gpu else 'CPU'}), "
            f"{_batch_in_words(settings)}, "
            f"{plural(crops, kind)}"
            f"{' of the train and val splits' if dataset.on_val else ''}.\n"
            f"Run: {out}\nRay's logs: {ray_logs}"
        )
        cache = fill_cache(dataset, settings, output) if settings.stream.cache else None
        try:
            _fit_on_ray(folder, dataset.paths, budget, output, cache)
        except RunStoppedError as error:
            _say_stopped(str(error), out, output)
            sys.exit(INTERRUPTED)
        except KeyboardInterrupt:
            _say_stopped("stopped; what was done since the newest state is lost.", out, output)
            sys.stdout.flush()
            # Ray's threads are at work, and would bring the process down where they are ended.
            os._exit(INTERRUPTED)
    results = read_results(out)
    training_curves(out, results["history"])
    _show(results, out, output)
    return results


def _refuse_busy(out: Path) -> None:
    raise UserError(f"another process is training in {out}; wait for it, or stop it first.")


def _say_stopped(why: str, out: Path, output: Output) -> None:
    output.say(f"{why[0].upper()}{why[1:]}\nRun: {out}")
    output.emit({"event": "interrupted", "out": str(out)})


def _batch_in_words(settings: Settings) -> str:
    train = settings.train
    if train.batch_size == "auto":
        return "as many crops a pass as fit"
    passes = train.grad_accum_steps
    return f"{train.batch_size} crops a pass and worker" + (
        f", {passes} passes a step" if passes > 1 else ""
    )


def resume_run(
    name: str,
    data: Sequence[str],
    given: Given,
    out: Path | None,
    output: Output,
    allow_leakage: bool = False,
) -> dict[str, Any]:
    """Continues a run with its own settings, and what the command line changes of them.

    Raises:
        UserError: There is no such run, or `--out` names another folder.
    """
    run = find_run(name, runs_folder())
    settings = resumed_settings(run, out, given)
    return train(data, settings, run, output, resume=True, allow_leakage=allow_leakage)


def _fit_on_ray(
    folder: RunFolder, data: list[str], budget: Budget, output: Output, cache: Cache | None
) -> None:
    mailbox = new_mailbox()
    if cache is None:
        start_workers()  # while the training processes start
    with train_display(output, folder.settings) as display:
        follow(mailbox, lambda: fit_run(folder, data, budget, mailbox, cache), display.handle)


def _show(results: dict[str, Any], out: Path, output: Output) -> None:
    output.say(
        f"{_end_in_words(results)}, {results['seconds']:g} s.\n"
        f"Detector: {out / 'best'}\nResults: {out / RESULTS}"
    )
    output.emit(
        {
            "event": "trained",
            "out": str(out),
            "detector": str(out / "best"),
            **json.loads(
                json.dumps({k: results[k] for k in ("epochs", "best_epoch", "best", "seconds")})
            ),
        }
    )


def _end_in_words(results: dict[str, Any]) -> str:
    if results["best"] is None:
        return (
            f"Trained {plural(results['epochs'], 'epoch')} on the train and val splits; nothing "
            "was validated, and the last epoch is kept"
        )
    auc = results["best"]["clip_auc"]
    return (
        f"Best epoch {results['best_epoch']} of {results['epochs']}"
        f"{' (stopped early)' if results['stopped_early'] else ''}: validation clip AUC "
        f"{'undefined' if auc is None else format(auc, '.4f')}"
    )


if __name__ == "__main__":
    import sys

    from ray_jobs.cli import main

    main(["train", *sys.argv[1:]])
