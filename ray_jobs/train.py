"""Training on Ray: TorchTrainer runs the loop of `genconvit.train` as DDP over GPUs and nodes."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from genconvit.config import Settings
from genconvit.data.detectors import with_detector_digest
from genconvit.data.shards import FrameDataset
from genconvit.data.training_data import Epochs, TrainingData, check_mix, refuse_leaks
from genconvit.errors import UserError
from genconvit.evaluate.plots import training_curves
from genconvit.losses import check_trainable, without_idle_heads
from genconvit.models.registry import build_from_settings
from genconvit.overrides import resolve_settings
from genconvit.storage import is_url
from genconvit.train.distributed import rank_and_world
from genconvit.train.loop import Data, Event, fit
from genconvit.train.run_folder import (
    RESULTS,
    SETTINGS,
    RunFolder,
    epoch_line,
    find_run,
    read_results,
)
from ray_jobs.cache import Cache, fill_cache
from ray_jobs.cluster import Budget, Resources, connected, train_budget
from ray_jobs.extract import dataset_for
from ray_jobs.mailbox import new_mailbox, watch
from ray_jobs.options import Given
from ray_jobs.output import Output, new_out_folder, runs_folder
from ray_jobs.stream import start_workers, stream


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
    if not resume and (out / RESULTS).exists():
        raise UserError(
            f"{out} holds a run already; continue it with --resume {out}, or choose another --out."
        )
    with connected(output) as ray_logs:
        dataset = TrainingData.of(*(dataset_for(one, settings, output) for one in data))
        settings = settings_for(dataset, settings)
        refuse_leaks(dataset, allow_leakage)
        budget = train_budget(settings.train, Resources.of_cluster())
        if sum(dataset.counts["train"].values()) < budget.workers:
            raise UserError(f"{dataset.path} has fewer training crops than there are workers.")
        folder = RunFolder(out, settings, data_summary(dataset))
        folder.check()
        folder.start()
        output.say(
            f"Training {settings.model.preset} {settings.model.net} "
            f"on {plural(budget.workers, 'worker')} ({'GPU' if budget.use_gpu else 'CPU'}), "
            f"{settings.train.batch_size} crops a step and worker, "
            f"{sum(dataset.counts['train'].values())} crops.\nRun: {out}\nRay's logs: {ray_logs}"
        )
        cache = fill_cache(dataset, settings, output) if settings.stream.cache else None
        _fit_on_ray(folder, dataset, budget, output, cache)
    results = read_results(out)
    training_curves(out, results["history"])
    _show(results, out, output)
    return results


def refuse_missing(data: Sequence[str | Path]) -> None:
    """Whether there is something at every `--data`.

    Raises:
        UserError: There is not.
    """
    for one in data:
        if not is_url(one) and not Path(one).exists():
            raise UserError(f"{one} does not exist; check --data.")


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
    if out is not None and out.resolve() != run.resolve():
        raise UserError(f"--resume continues in {run}; leave --out away.")
    settings = given.settings(base=resolve_settings(run / SETTINGS))
    return train(data, settings, run, output, resume=True, allow_leakage=allow_leakage)


def settings_for(dataset: FrameDataset | TrainingData, settings: Settings) -> Settings:
    """The settings with the dataset's preprocessing, checked against its crops.

    Raises:
        UserError: The dataset was extracted otherwise than asked for, lacks a class or a
            validation split, or the settings leave a part of the network without a gradient.
    """
    preprocess = settings.preprocess
    asked = bool(preprocess.model_fields_set)
    if asked and with_detector_digest(preprocess).fingerprint() != dataset.preprocess.fingerprint():
        raise UserError(
            f"{dataset.path} was extracted with other preprocess settings than those given; "
            f"leave them out, or extract again."
        )
    if isinstance(dataset, TrainingData):
        check_mix(dataset, settings.stream)
    for label in ("fake", "real"):
        blended = label == "fake" and settings.augment.self_blend > 0
        if not dataset.counts["train"].get(label) and not blended:
            hint = " (or augment.self_blend, which makes fakes of real crops)"
            raise UserError(
                f"{dataset.path} has no {label} crops in its train split; training needs both "
                f"classes{hint if label == 'fake' else ''}."
            )
    if not any(dataset.counts["val"].values()):
        raise UserError(
            f"{dataset.path} has no val split; extract with split.val_fraction=0.2 or so."
        )
    model = without_idle_heads(settings.model, settings.loss)
    if model.weights is not None:  # workers have another current folder
        model = model.model_copy(update={"weights": model.weights.resolve()})
    check_trainable(model, settings.loss)
    with torch.device("meta"):  # what does not fit is told here, not by a worker
        build_from_settings(model.model_copy(update={"pretrained": False, "weights": None}))
    sampling = settings.sampling if settings.sampling.model_fields_set else dataset.sampling
    return settings.model_copy(
        update={"preprocess": dataset.preprocess, "sampling": sampling, "model": model}
    )


def data_summary(dataset: TrainingData) -> dict[str, Any]:
    """What results.json says of the data."""
    return {"path": dataset.path, "digest": dataset.digest, "crops": dataset.counts}


def train_worker(config: dict[str, Any]) -> None:
    """Runs on every worker: plain PyTorch, but for the numbered lines.

    Args:
        config: `settings` (JSON), `data` (locations), `out` (a path), `mailbox` (an actor),
            `data_cpus`, `cache` (a `Cache` or None), `summary`.
    """
    settings = Settings.model_validate_json(config["settings"])
    rank, world = rank_and_world()
    batch_size = settings.train.batch_size
    epochs = Epochs(
        TrainingData.open(config["data"]),
        settings.stream,
        batch_size=batch_size,
        seed=settings.seed,
        rank=rank,
        world=world,
    )
    torch.manual_seed(settings.seed)
    folder = RunFolder(Path(config["out"]), settings, config["summary"])
    begun = {"pretrained": False, "weights": None} if folder.last.exists() else {}
    network = build_from_settings(settings.model.model_copy(update=begun))
    # 1. Ray Train gives each worker its device.
    device = ray.train.torch.get_device()
    network.to(device)

    read = {
        "image_size": settings.model.image_size,
        "num_cpus": config["data_cpus"],
        "cache": config["cache"],
    }

    def train_batches(epoch: int) -> Any:
        # 2. Ray Data decodes in tasks beside the training.
        return stream(epochs.train(epoch), batch_size=batch_size, **read)

    def val_batches() -> Any:
        columns = ("label", "video_id")
        return stream(epochs.validate(), batch_size=4 * batch_size, columns=columns, **read)

    def on_event(event: Event) -> None:
        if rank == 0 and config["mailbox"] is not None:
            config["mailbox"].push.remote({"run": config["out"], **event})
        if event["event"] == "epoch":
            # 3. Every worker reports every epoch: report() waits for all of them.
            ray.train.report(report_of(event, folder.best))

    fit(
        settings,
        network,
        Data(
            train=train_batches,
            validate=val_batches,
            steps=-(-epochs.rows // batch_size),
            class_counts=epochs.class_counts,
        ),
        folder,
        device=device,
        # 4. DDP, where there is more than one worker.
        wrap=ray.train.torch.prepare_model,
        on_event=on_event,
    )


def report_of(event: Event, detector: Path) -> dict[str, Any]:
    """An epoch as flat numbers for Ray Train and Ray Tune."""
    val = event["val"]
    return {
        "epoch": event["epoch"],
        "train_loss": event["train"]["loss"],
        "val_loss": val["loss"],
        "val_classification": val["classification"],
        "val_clip_auc": val["clip_auc"],
        "best_epoch": event["best_epoch"],
        "best_clip_auc": event["best_clip_auc"],
        "detector": str(detector),
    }


def trainer_for(
    folder: RunFolder,
    dataset: TrainingData,
    budget: Budget,
    mailbox: Any = None,
    cache: Cache | None = None,
    **run: Any,
) -> TorchTrainer:
    """The TorchTrainer of a run.

    Args:
        folder: The run's folder.
        dataset: The crops.
        budget: What it gets of the cluster.
        mailbox: Told of every event; None where nobody watches.
        cache: Decoded crops, if they are kept.
        run: Reaches Ray's RunConfig.
    """
    config = {
        "settings": folder.settings.model_dump_json(),
        "data": dataset.paths,
        "out": str(folder.path),
        "summary": folder.data,
        "mailbox": mailbox,
        "data_cpus": budget.data_cpus,
        "cache": cache,
    }
    scaling = ScalingConfig(
        num_workers=budget.workers,
        use_gpu=budget.use_gpu,
        resources_per_worker={
            "CPU": budget.cpus_per_worker,
            **({"GPU": 1} if budget.use_gpu else {}),
        },
    )
    return TorchTrainer(
        train_worker,
        train_loop_config=config,
        scaling_config=scaling,
        run_config=RunConfig(
            storage_path=str(folder.path / "ray"),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=2),
            **{"name": f"train-{time.time_ns()}", **run},
        ),
    )


def finished(out: Path, settings: Settings) -> bool:
    """Whether a run has come to the end of its epochs or of its patience."""
    if not (out / RESULTS).is_file():
        return False
    results = read_results(out)
    waited = results["epochs"] - results["best_epoch"]
    patience = settings.train.early_stopping_patience
    return bool(results["epochs"] >= settings.train.epochs or waited >= patience)


def _fit_on_ray(
    folder: RunFolder, dataset: TrainingData, budget: Budget, output: Output, cache: Cache | None
) -> None:
    mailbox = new_mailbox()
    if cache is None:
        start_workers()  # while the training processes start
    trainer = trainer_for(folder, dataset, budget, mailbox, cache)
    with output.bar("starting workers") as bar:

        def handle(event: Event) -> None:
            if event["event"] == "step":
                title = f"epoch {event['epoch']} of {folder.settings.train.epochs}"
                bar.set(event["step"], event["steps"], title)
            else:
                output.say(epoch_line(event, parts=False))
                output.emit(event)

        watch(mailbox, trainer.fit, handle)


def plural(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _show(results: dict[str, Any], out: Path, output: Output) -> None:
    best = results["best"]
    auc = best["clip_auc"]
    output.say(
        f"Best epoch {results['best_epoch']} of {results['epochs']}"
        f"{' (stopped early)' if results['stopped_early'] else ''}: validation clip AUC "
        f"{'undefined' if auc is None else format(auc, '.4f')}, {results['seconds']:g} s.\n"
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


if __name__ == "__main__":
    import sys

    from ray_jobs.cli import main

    main(["train", *sys.argv[1:]])
