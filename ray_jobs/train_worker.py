"""What every worker of a training run does: plain PyTorch, but for the numbered lines."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ray
import ray.train
import ray.train.torch
import torch
from torch import nn

from genconvit.config import Settings
from genconvit.data.training_data import Epochs, TrainingData
from genconvit.errors import RunEndedError, RunStoppedError, UserError
from genconvit.kernels import DISTRUSTED
from genconvit.train.batch_size import find_batch_size
from genconvit.train.batches import BatchPlan, plan_batches
from genconvit.train.distributed import ddp_options, gather_from_workers, rank_and_world
from genconvit.train.loggers import build_loggers
from genconvit.train.loop import Data, fit
from genconvit.train.network import compiles, speed_up, start_network
from genconvit.train.run_folder import SETTINGS
from genconvit.train.run_writer import RunWriter
from genconvit.train.state import read_state
from genconvit.train.watch import Event
from genconvit.wording import plural
from ray_jobs.failures import reason_of
from ray_jobs.stream import stream
from ray_jobs.training_stream import training_stream

OUT_OF_MEMORY = (
    "a GPU has too little memory for the run; lower --batch-size (or give auto), or take "
    "--grad-checkpointing, and start again."
)
VALIDATION_ROWS = 256
"""Crops in a batch of the validation, unless a training batch is larger: enough for any GPU."""
WRONG = "computes something else than PyTorch on this GPU and is not used; it is slower so"


def train_worker(config: dict[str, Any]) -> None:
    """Trains, and tells the mailbox why if the run ends before its time.

    Args:
        config: `settings` (JSON), `data` (locations), `out` (a path), `mailbox` (an actor),
            `data_cpus`, `cache` (a `Cache` or None), `summary`, `logger_variables`.
    """
    mailbox, out = config["mailbox"], config["out"]
    if ray.get(mailbox.end_of.remote(out)) is not None:
        return  # Ray started the workers anew, and what ended the run would end it again
    try:
        _train(config)
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError):
            error = UserError(OUT_OF_MEMORY)  # it would come again
        if not isinstance(error, UserError):
            text = f"a worker failed: {reason_of(error)}"
            ray.get(mailbox.push.remote({"run": out, "event": "note", "text": text}))
            raise
        end = {"message": str(error), "interrupted": isinstance(error, RunStoppedError)}
        ray.get(mailbox.end.remote(out, end))
        if not isinstance(error, RunEndedError):
            raise error  # the other workers wait for this one


def _train(config: dict[str, Any]) -> None:
    settings = Settings.model_validate_json(config["settings"])
    train, mailbox = settings.train, config["mailbox"]
    rank, world = rank_and_world()
    folder = RunWriter(Path(config["out"]), settings, config["summary"])
    if not (folder.path / SETTINGS).is_file():
        raise UserError(
            f"{folder.path} is not there on every node; give --out a folder that all nodes share."
        )
    # 1. Ray Train gives each worker its device.
    device = ray.train.torch.get_device()

    def tell(event: Event) -> None:
        if rank == 0:
            mailbox.push.remote({"run": config["out"], **event})

    found = folder.newest_state() if rank == 0 else (None, [])
    [(newest, damaged), *_] = gather_from_workers(found)  # all go on from the same
    resumed = read_state(newest) if newest is not None else None
    network = start_network(settings, device, new=resumed is None)
    plan = _plan(settings, network, device, resumed, tell)
    if resumed is not None:
        tell({"event": "note", "text": _going_on(resumed, damaged, world)})
    dataset = TrainingData.open(config["data"])
    epochs = Epochs(
        dataset.joined() if train.train_on_val else dataset,
        settings.stream,
        batch_size=plan.rows,
        seed=settings.seed,
        rank=rank,
        world=world,
    )
    decoding = {"num_cpus": config["data_cpus"], "cache": config["cache"]}
    os.environ.update(config["logger_variables"] if rank == 0 else {})
    loggers = (
        build_loggers(
            settings,
            folder.path,
            folder.path.name,
            warn=lambda text: tell({"event": "note", "text": text}),
        )
        if rank == 0
        else None
    )

    def on_event(event: Event) -> None:
        tell(event)
        if loggers is not None and event["event"] == "step":
            loggers.step(event["update"], event)
        if event["event"] == "epoch":
            if loggers is not None:
                loggers.epoch(event)
            # 2. Every worker reports every epoch: report() waits for all of them.
            ray.train.report(report_of(event, folder.best))

    def faster(network: nn.Module) -> nn.Module:
        network = speed_up(network, train, device)
        for kernel in sorted(DISTRUSTED):
            tell({"event": "note", "text": f"the kernel of {kernel} {WRONG}."})
        return network

    compiled = compiles(train, device)
    tell({"event": "phase", "title": "compiling" if compiled else "reading the first crops"})
    try:
        fit(
            settings,
            network,
            Data(
                # 3. Ray Data decodes in tasks beside the training.
                train=training_stream(
                    epochs, settings, batch_size=plan.rows, rank=rank, **decoding
                ),
                validate=lambda: stream(
                    epochs.validate(),
                    image_size=settings.model.image_size,
                    batch_size=max(plan.rows, min(4 * plan.rows, VALIDATION_ROWS)),
                    columns=("label", "video_id", "box"),
                    **decoding,
                ),
                rows=epochs.rows,
                class_counts=epochs.class_counts,
                plan=plan,
            ),
            folder,
            device=device,
            resumed=resumed,
            wrap=partial(wrap, passes=plan.passes, sync_bn=train.sync_bn),
            accelerate=faster,
            compiled=compiled,
            on_event=on_event,
            ask=_Ask(mailbox, tell),
        )
    finally:
        if loggers is not None:
            loggers.close()


def wrap(network: nn.Module, passes: int = 1, sync_bn: bool = False) -> nn.Module:
    """DDP, where there is more than one worker.

    Args:
        network: On its device; its batch norms may be exchanged.
        passes: Passes a step.
        sync_bn: Take batch statistics over all workers.
    """
    if sync_bn and rank_and_world()[1] > 1:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    # 4. Ray Train knows the worker's device.
    wrapped: nn.Module = ray.train.torch.prepare_model(
        network, parallel_strategy_kwargs=ddp_options(passes)
    )
    return wrapped


def _plan(
    settings: Settings,
    network: nn.Module,
    device: torch.device,
    resumed: dict[str, Any] | None,
    tell: Any,
) -> BatchPlan:
    """How the crops of a step are shared out among the workers that there are now."""
    train, world = settings.train, rank_and_world()[1]
    if resumed is not None:
        return plan_batches(resumed["batch_size"], resumed["step_rows"], world)
    size = train.batch_rows
    if train.batch_size == "auto":
        tell({"event": "phase", "title": "finding the batch size"})
        size = min(gather_from_workers(find_batch_size(settings, network, device)))
        tell({"event": "batch_size", "batch_size": size})
    most = train.worker_range[1] if train.worker_range else world
    return plan_batches(size, size * train.grad_accum_steps * most, world)


def _going_on(state: dict[str, Any], damaged: list[str], world: int) -> str:
    place = f"epoch {len(state['history']) + 1}, batch {state['batches'] + 1}"
    lost = f" ({', '.join(damaged)} is damaged and was left out)" if damaged else ""
    return f"going on from {place}, with {plural(world, 'worker')}{lost}."


class _Ask:
    """Whether the run is to be saved or stopped: for a node that is to go, or for its user."""

    def __init__(self, mailbox: Any, tell: Any) -> None:
        self._mailbox, self._tell = mailbox, tell
        self._notice: Any = None

    def __call__(self) -> Literal["", "save", "stop"]:
        # 5. Ray says when a node that a worker is on will be taken away. All workers ask.
        notice = ray.train.get_preemption_info()
        if ray.get(self._mailbox.is_stop_asked.remote()):
            return "stop"
        if notice is None or notice == self._notice:
            return ""
        self._notice = notice
        self._tell(
            {"event": "note", "text": "a node will be taken away; the run's state is saved."}
        )
        return "save"


def report_of(event: Event, detector: Path) -> dict[str, Any]:
    """An epoch as flat numbers for Ray Train and Ray Tune."""
    val = event["val"] or {}
    return {
        "epoch": event["epoch"],
        "train_loss": event["train"]["loss"],
        "val_loss": val.get("loss"),
        "val_classification": val.get("classification"),
        "val_clip_auc": val.get("clip_auc"),
        "best_epoch": event["best_epoch"],
        "best_clip_auc": event["best_clip_auc"],
        "detector": str(detector),
    }
