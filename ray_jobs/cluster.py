"""Connecting to Ray, and whether a job fits the cluster."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

# Before Ray starts its processes: they inherit this. Idle OpenMP threads that spin halve the speed
# of small machines.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Ray Tune's own tables would go between our lines, and into our JSON.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Each worker sees its own GPU alone, as cuda:0: PyTorch compiles anew for every other number. What
# workers exchange goes through NVLink all the same.
os.environ.setdefault("TRAIN_ENABLE_SHARE_CUDA_VISIBLE_DEVICES", "0")
# This program tells nobody what it does.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import ray.data
import ray.train
import ray.tune

from genconvit.config import TrainSettings
from genconvit.errors import UserError
from ray_jobs.output import Output

SMALL_CLUSTER_CPUS = 4
DRIVER_CPUS = 0.01
"""Of what starts one of many runs: it only waits, its workers compute."""


@contextmanager
def connected(output: Output, *, dashboard: bool = False) -> Iterator[Path]:
    """Connects to the cluster that RAY_ADDRESS or `ray job submit` names, else starts one here.

    Args:
        output: Where to show that it takes a while.
        dashboard: A cluster started here gets one; Ray Tune needs it to free what a stopped trial
            held.

    Yields:
        The folder with Ray's logs.
    """
    if ray.is_initialized():
        yield _log_folder()
        return
    address = os.environ.get("RAY_ADDRESS", "")
    if "://" in address:
        raise UserError(
            f"RAY_ADDRESS={address} is no address of a cluster; give HOST:PORT or auto, or submit "
            "the job with ray job submit --address."
        )
    # Without "local", Ray would look for a cluster that someone else started on this machine.
    options = {} if address else {"address": "local", "include_dashboard": dashboard}
    try:
        with output.bar("starting Ray"):
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if not address:
            raise
        raise UserError(
            f"no Ray cluster answers at RAY_ADDRESS={address}; check or unset it."
        ) from error
    # The raylet's messages would go to stdout, between our lines and into our JSON.
    ray._private.worker._worker_logs_enabled = False
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    if ray.cluster_resources().get("CPU", 0.0) <= SMALL_CLUSTER_CPUS:
        # What Ray Data reserves for the light steps of a pipeline would leave one CPU of two to
        # the step that has the work.
        context.op_resource_reservation_enabled = False
    try:
        with _native_lines_in(_log_folder() / "genconvit-stderr.log"):
            yield _log_folder()
    finally:
        ray.shutdown()


def _log_folder() -> Path:
    return Path(ray._private.worker._global_node.get_session_dir_path()) / "logs"


@contextmanager
def _native_lines_in(path: Path) -> Iterator[None]:
    """Sends what Ray writes to the terminal, from Python and past it, to a file."""
    python_stderr, native_stderr = sys.stderr, os.dup(2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as log, os.fdopen(native_stderr, "w", buffering=1) as terminal:
        os.dup2(log.fileno(), 2)
        sys.stderr = terminal
        _log_to(logging.StreamHandler(log))
        try:
            yield
        finally:
            _log_to(logging.NullHandler())
            sys.stderr = python_stderr
            os.dup2(native_stderr, 2)


def _log_to(handler: logging.Handler) -> None:
    """Gives Ray's loggers one handler: without any, Python would write to the terminal."""
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logger = logging.getLogger(name)
        taken = (logging.StreamHandler, logging.NullHandler)
        logger.handlers = [h for h in logger.handlers if not isinstance(h, taken)]
        logger.addHandler(handler)
        logger.propagate = False


@dataclass(frozen=True)
class Budget:
    """What a training run gets of the cluster.

    Attributes:
        workers: Training processes; the fewest of an elastic run.
        cpus_per_worker: CPUs of each; a half where the cluster is smaller than workers + 1.
        use_gpu: Whether each has a GPU.
        data_cpus: CPUs a Ray Data task asks for; at least as many stay free.
        elastic_to: The most workers of an elastic run.
        gpus_per_worker: GPUs of each, where it has one; less than 1 is a part of one.
    """

    workers: int
    cpus_per_worker: float
    use_gpu: bool
    data_cpus: float
    elastic_to: int | None = None
    gpus_per_worker: float = 1.0


@dataclass(frozen=True)
class Resources:
    """What a cluster has."""

    cpus: float
    gpus: int = 0
    largest_node_cpus: float = float("inf")

    @classmethod
    def of_cluster(cls) -> Resources:
        """Those of the cluster that is connected."""
        total = ray.cluster_resources()
        nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
        return cls(total.get("CPU", 0.0), int(total.get("GPU", 0.0)), max(nodes, default=0.0))


def train_budget(settings: TrainSettings, cluster: Resources, runs: int = 1) -> Budget:
    """Checks training runs against the cluster before anything waits for ever.

    Args:
        settings: `num_workers` and `device`.
        cluster: What there is.
        runs: How many such runs go on at once.

    Raises:
        UserError: The cluster is too small; says what is missing.
    """
    fewest, most = settings.worker_range or (1, None)
    use_gpu = settings.device == "cuda" or (
        settings.device == "auto" and cluster.gpus >= fewest * runs
    )
    workers = fewest
    if settings.worker_range is None and use_gpu:
        workers = max(1, cluster.gpus // runs)
    total = workers * runs
    if use_gpu and cluster.gpus < total:
        raise UserError(
            f"{total} workers need as many GPUs, and this cluster has {cluster.gpus}; "
            f"use fewer workers (--num-workers) or train.device=cpu."
        )
    needed = (total + 1) / 2
    if cluster.cpus < needed:
        raise UserError(
            f"{total} workers and their data need {needed:g} CPUs, and this cluster has "
            f"{cluster.cpus:g}; use fewer workers (--num-workers)."
        )
    if most is not None and most > fewest:
        if runs > 1:
            raise UserError("an elastic run (--num-workers MIN:MAX) needs the cluster for itself.")
        here = min(most, cluster.gpus) if use_gpu else most
        cpus, data_cpus = _elastic_cpus(cluster, fewest, here)
        cpus = min(cpus, 1.0) if use_gpu else cpus
        return Budget(workers, cpus, use_gpu, data_cpus, elastic_to=most)
    if cluster.cpus < total + 1:
        return Budget(workers, 0.5, use_gpu, min(1.0, cluster.cpus - total / 2))
    # A quarter of the CPUs decodes; on a GPU machine decoding is what they are for.
    share = 1.0 if use_gpu else min(cluster.cpus * 0.75 / total, cluster.largest_node_cpus)
    return Budget(workers, float(max(1, int(share))), use_gpu, 1.0)


def sweep_budget(
    settings: TrainSettings, cluster: Resources, runs: int, gpus_per_worker: float = 1.0
) -> tuple[Budget, int]:
    """What each of many training runs gets, and how many go on at once: as many as fit.

    Args:
        settings: Of one run.
        cluster: What there is.
        runs: How many runs there are.
        gpus_per_worker: With a part of a GPU, so many more workers find room.

    Raises:
        UserError: The cluster is too small for one run.
    """
    shared = replace(cluster, gpus=cluster.gpus * int(1 / gpus_per_worker + 1e-9))
    budget, at_once = train_budget(settings, shared), 1
    while at_once < runs:
        try:
            more = train_budget(settings, shared, runs=at_once + 1)
        except UserError:
            break
        # Neither half-CPU workers nor leaving the GPUs is worth another run at once.
        if more.cpus_per_worker < 1 or more.use_gpu != budget.use_gpu:
            break
        budget, at_once = more, at_once + 1
    # The drivers take a little of the CPU that is left for the data; a whole one would never come.
    data_cpus = min(budget.data_cpus, 0.5)
    return replace(budget, data_cpus=data_cpus, gpus_per_worker=gpus_per_worker), at_once


def _elastic_cpus(cluster: Resources, fewest: int, most: int) -> tuple[float, float]:
    """CPUs of a worker and of a decoding task, such that every node keeps some for decoding.

    After nodes have come or gone Ray starts as many workers as fit; were they to fill a node, the
    crops would never come.
    """
    node = min(cluster.largest_node_cpus, cluster.cpus)
    nodes = max(1, round(cluster.cpus / node))
    on_a_node = max(-(-fewest // nodes), min(-(-most // nodes), int(2 * node) - 2), 1)
    # A quarter decodes; but one more worker than planned must not fit into what is left of a node.
    data = min(max(0.5, node / 4), 0.9 * node / (on_a_node + 1))
    return round((node - data) / on_a_node, 3), min(1.0, round(data - 0.001 * on_a_node, 3))
