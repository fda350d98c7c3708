"""Training as `genconvit train` does it, with Ray Train and Ray Data, for a few timed steps."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train.torch
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from genconvit.config import Settings
from genconvit.data.training_data import Epochs, TrainingData
from genconvit.errors import UserError
from genconvit.train.batch_size import find_batch_size
from genconvit.train.batches import BatchPlan
from genconvit.train.distributed import gather_from_workers, rank_and_world
from genconvit.train.loop import Data, train_epoch
from genconvit.train.measure import Marks, forget_peaks, peak_memory, summary
from genconvit.train.measured_steps import run_step
from genconvit.train.network import compiles, speed_up, start_network
from genconvit.train.watch import Watch
from ray_jobs.bench_train_worker import (
    OUT_OF_MEMORY,
    compile_cache,
    name_of,
    since_start,
)
from ray_jobs.cluster import Resources, train_budget
from ray_jobs.stream import Batch, start_workers
from ray_jobs.train_worker import wrap
from ray_jobs.training_stream import training_stream

ALONE_STEPS = 10
"""Steps without exchange of gradients; the first two of them do not count."""


def train_streamed(
    workers: int,
    paths: Sequence[str],
    settings: Settings,
    mailbox: Any,
    storage: Path,
    *,
    steps: int,
    warmup: int,
) -> None:
    """Trains on so many workers; what it took comes to the mailbox, or why it failed.

    Args:
        workers: Each has a GPU where the settings and the cluster say so.
        paths: The datasets.
        settings: Of the run.
        mailbox: An actor.
        storage: A folder for Ray Train.
        steps: Timed steps.
        warmup: Steps before them.

    Raises:
        ray.train.TrainingFailedError: It failed.
    """
    train = settings.train.model_copy(update={"num_workers": workers})
    budget = train_budget(train, Resources.of_cluster())
    config = {
        "settings": settings.model_dump_json(),
        "data": list(paths),
        "mailbox": mailbox,
        "data_cpus": budget.data_cpus,
        "steps": steps,
        "warmup": warmup,
        "asked_at": time.time(),
    }
    resources = {"CPU": budget.cpus_per_worker, **({"GPU": 1} if budget.use_gpu else {})}
    start_workers()  # as training does
    TorchTrainer(
        stream_worker,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=budget.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(storage_path=str(storage), name=f"bench-{time.time_ns()}"),
    ).fit()


def stream_worker(config: dict[str, Any]) -> None:
    """Trains on streamed crops as a run does, and tells the mailbox what it took.

    Args:
        config: `settings` (JSON), `data` (locations), `mailbox` (an actor), `data_cpus`, `steps`,
            `warmup`, `asked_at`.
    """
    config["entered_at"] = time.time()
    try:
        outcome = _streamed(config)
    except torch.cuda.OutOfMemoryError:
        ray.get(config["mailbox"].push.remote({"error": OUT_OF_MEMORY}))
        raise  # the other workers wait for this one
    if rank_and_world()[0] == 0:
        ray.get(config["mailbox"].push.remote(outcome))


def _streamed(config: dict[str, Any]) -> dict[str, Any]:
    settings = Settings.model_validate_json(config["settings"])
    steps, warmup = config["steps"], config["warmup"]
    rank, world = rank_and_world()
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where the marks are made
    compiled = compiles(settings.train, device)
    cache = compile_cache() if compiled else None
    network = start_network(settings, device, new=False)
    rows = settings.train.batch_rows
    if settings.train.batch_size == "auto":
        rows = min(gather_from_workers(find_batch_size(settings, network, device)))
        forget_peaks(device)
    epochs = Epochs(
        TrainingData.open(config["data"]),
        settings.stream,
        batch_size=rows,
        seed=settings.seed,
        rank=rank,
        world=world,
    )
    if epochs.rows < rows:
        raise UserError(
            f"the data has {epochs.rows} training crops a worker, less than a batch of {rows}; "
            "lower --batch-size or give more data."
        )
    marks = Marks(device)
    step = run_step(
        settings,
        network,
        device,
        marks,
        wrap=wrap,
        accelerate=lambda one: speed_up(one, settings.train, device),
        compiled=compiled,
        rows=rows,
    )

    train = training_stream(
        epochs, settings, batch_size=rows, num_cpus=config["data_cpus"], rank=rank
    )

    def batches() -> Iterator[Batch]:
        for epoch in itertools.count(1):
            # The last one of an epoch may be smaller, and is no step to time.
            yield from (batch for batch in train(epoch, 0) if len(batch["image"]) == rows)

    endless = batches()
    watch = Watch(settings, step.state, device, lambda *_: None, lambda event: None, lambda: "")

    def timed(count: int) -> np.ndarray:
        plan = BatchPlan(rows, rows, 1, rows * world)
        data = Data(
            lambda epoch, skip: itertools.islice(endless, count),
            lambda: (),
            rows=count * rows,
            class_counts=(1, 1),
            plan=plan,
        )
        step.state.batches = 0
        marks.begin()
        train_epoch(step, data, 1, device, watch)
        return marks.read()

    found = summary(timed(warmup + steps)[warmup:])
    memory = peak_memory(device)
    exchange = None
    if world > 1:
        with step.network.no_sync():  # type: ignore[operator]
            alone = summary(timed(ALONE_STEPS)[2:])
        busy = [one["step_ms"] - one["parts_ms"]["data_wait"] for one in (found, alone)]
        exchange = busy[0] - busy[1]
    everyone = gather_from_workers((found, memory, exchange))
    return {
        "batch_size": rows,
        "precision": name_of(step.precision),
        "compiled": compiled,
        "compile_cache": cache,
        "step_ms": float(np.mean([one["step_ms"] for one, _, _ in everyone])),
        "parts_ms": {
            part: float(np.mean([one["parts_ms"][part] for one, _, _ in everyone]))
            for part in found["parts_ms"]
        },
        "steps_ms": found["steps_ms"],
        "exchange_ms": None if world == 1 else float(np.mean([ms for _, _, ms in everyone])),
        **{name: max(held[name] for _, held, _ in everyone) for name in memory},
        "threads": torch.get_num_threads(),
        **since_start(config["asked_at"], config["entered_at"], marks),
    }
