"""The runs of `genconvit bench recipe`: crops decoded once, and a Ray task a run."""

from __future__ import annotations

import math
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import ray
import torch

from genconvit.config import TrainSettings
from genconvit.data.plan import Chunk
from genconvit.data.shards import FrameDataset
from genconvit.errors import UserError
from genconvit.recipe.resident import COLUMNS, Crops, read_crops
from genconvit.recipe.run import Part, RunScores, run_recipe
from genconvit.recipe.runs import VAL, Run, RunRecord, record_of
from genconvit.train.feed import Batch
from ray_jobs.cluster import Resources
from ray_jobs.failures import reason_of
from ray_jobs.mailbox import new_mailbox, watch
from ray_jobs.stream import load_rows

OUT_OF_MEMORY = (
    "the GPU has too little memory; lower --at-once or train.batch_size, or take "
    "train.grad_checkpointing."
)
DECODING_AHEAD = 2
"""Chunks a CPU that are decoded and not yet taken."""


def fit_runs(
    runs: Sequence[Run],
    dataset: FrameDataset,
    *,
    at_once: int,
    every: int | None,
    on_epoch: Callable[[str], None],
    on_record: Callable[[Run, RunRecord], None],
) -> None:
    """Decodes the crops, and trains and judges every run in a task of its own.

    Args:
        runs: What is to be done.
        dataset: The shards. Its val split is opened where a run is judged by it.
        at_once: Runs that share a GPU, or a machine without one.
        every: Also judge after each so many epochs.
        on_epoch: Told of the run of which an epoch is done.
        on_record: Told of each run that has ended, also of one that failed.

    Raises:
        UserError: A run asks for a GPU, and there is none.
    """
    cluster = Resources.of_cluster()
    places = {run.name: share_of(run.settings.train, cluster, at_once) for run in runs}
    wanted = {
        (split, run.settings.model.image_size) for run in runs for split in ("train", _judged(run))
    }
    crops = {
        (split, size): ray.put(read_crops(dataset, split, size, partial(_decoded, size)))
        for split, size in sorted(wanted)
    }
    tasks = {
        (cpus, gpus): ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_run)
        for cpus, gpus in places.values()
    }
    mailbox = new_mailbox()

    def fit_all() -> None:
        running: dict[Any, Run] = {}
        for run in runs:
            (cpus, gpus), size = places[run.name], run.settings.model.image_size
            train, judged = crops["train", size], crops[_judged(run), size]
            started = tasks[cpus, gpus].remote(run, train, judged, cpus, gpus > 0, every, mailbox)
            running[started] = run
        while running:
            for done in ray.wait(list(running))[0]:
                run = running.pop(done)
                on_record(run, _record(run, done, dataset.digest))

    watch(mailbox, fit_all, lambda event: on_epoch(event["run"]))


def _record(run: Run, done: Any, dataset_digest: str) -> RunRecord:
    """What is kept of a run whose task has ended."""
    try:
        scores, device = ray.get(done)
    except Exception as error:  # the other runs go on
        return record_of(run, dataset_digest, failure=reason_of(error))
    return record_of(
        run,
        dataset_digest,
        clips=scores.clips,
        curve=scores.curve,
        seconds=scores.seconds,
        device=device,
    )


def _judged(run: Run) -> str:
    """The split that a run is judged by."""
    return "val" if run.fold == VAL else "train"


def share_of(train: TrainSettings, cluster: Resources, at_once: int) -> tuple[float, float]:
    """CPUs and GPUs of a run.

    Args:
        train: `device` says where.
        cluster: What there is.
        at_once: Runs that share a GPU, or a machine without one.

    Raises:
        UserError: It asks for a GPU, and there is none.
    """
    if train.device == "cuda" and not cluster.gpus:
        raise UserError("train.device=cuda needs a GPU, and this cluster has none; leave it out.")
    if train.device != "cpu" and cluster.gpus:
        cpus = cluster.cpus / (cluster.gpus * at_once)
        return min(1.0, math.floor(100 * cpus) / 100), math.floor(10_000 / at_once) / 10_000
    return float(max(1, int(min(cluster.cpus, cluster.largest_node_cpus) / at_once))), 0.0


def _run(
    run: Run, train: Crops, judged: Crops, cpus: float, gpu: bool, every: int | None, mailbox: Any
) -> tuple[RunScores, str]:
    """Runs in a Ray task; the name of the device comes along.

    What Ray has in its store is shared by all tasks of a node: the crops are not copied.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or max(1, int(cpus))))
    device = torch.device("cuda", 0) if gpu else torch.device("cpu")
    held_out = train if _judged(run) == "train" else judged  # once on a GPU, not twice
    names = tuple(clip.name for clip in run.judged_by)
    try:
        scores = run_recipe(
            run.settings,
            Part(train, run.trained_on),
            Part(held_out, names),
            device,
            every,
            on_epoch=lambda epoch: mailbox.push.remote({"run": run.name, "epoch": epoch}),
        )
    except torch.OutOfMemoryError as error:
        raise UserError(OUT_OF_MEMORY) from error
    return scores, torch.cuda.get_device_name() if gpu else "CPU"


def _decoded(image_size: int, chunks: Iterable[Chunk]) -> Iterator[Batch]:
    """Decodes chunks in tasks on all nodes; they come in their order."""
    load = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(load_rows)
    ahead = max(1, int(DECODING_AHEAD * Resources.of_cluster().cpus))
    waiting: deque[Any] = deque()
    for chunk in chunks:
        waiting.append(load.remote({"chunk": [pickle.dumps(chunk)]}, image_size, COLUMNS))
        if len(waiting) >= ahead:
            yield ray.get(waiting.popleft())
    while waiting:
        yield ray.get(waiting.popleft())
