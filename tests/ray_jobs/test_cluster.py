from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genconvit.config import TrainSettings
from genconvit.errors import UserError
from ray_jobs.cluster import Resources, train_budget


def test_two_workers_fit_two_cpus_and_leave_one_for_the_data() -> None:
    budget = train_budget(TrainSettings(num_workers=2), Resources(2))
    assert budget.cpus_per_worker == 0.5
    assert budget.data_cpus == 1.0


def test_one_cpu_is_shared_by_worker_and_data() -> None:
    budget = train_budget(TrainSettings(num_workers=1), Resources(1))
    assert (budget.cpus_per_worker, budget.data_cpus) == (0.5, 0.5)


@given(
    st.none() | st.integers(1, 64),
    st.integers(1, 128),
    st.integers(0, 16),
    st.sampled_from(["auto", "cpu", "cuda"]),
    st.integers(1, 4),
)
def test_what_fits_leaves_room_for_the_data_and_what_does_not_is_refused(
    workers: int | None, cpus: int, gpus: int, device: str, runs: int
) -> None:
    settings = TrainSettings(num_workers=workers, device=device)
    try:
        budget = train_budget(settings, Resources(cpus, gpus), runs)
    except UserError as error:
        budget = None
        message = str(error)
    if budget is None:
        assert "use fewer workers" in message
        total = (workers or max(1, gpus // runs)) * runs
        assert cpus < (total + 1) / 2 or (device == "cuda" and gpus < total)
    else:
        assert workers in (None, budget.workers)
        assert budget.workers * runs * budget.cpus_per_worker + budget.data_cpus <= cpus
        assert not budget.use_gpu or budget.workers * runs <= gpus


@given(st.integers(1, 16), st.integers(0, 16), st.integers(1, 64), st.integers(1, 8))
def test_elastic_workers_leave_room_for_the_data_on_every_node(
    fewest: int, more: int, node_cpus: int, nodes: int
) -> None:
    """However many nodes are left, as many workers as fit leave some CPU of each."""
    settings = TrainSettings(num_workers=f"{fewest}:{fewest + more}", device="cpu")
    try:
        budget = train_budget(settings, Resources(nodes * node_cpus, 0, node_cpus))
    except UserError:
        return
    if more:
        assert (budget.workers, budget.elastic_to) == (fewest, fewest + more)
    else:
        assert budget.elastic_to is None
        return
    on_a_node = int(node_cpus / budget.cpus_per_worker + 1e-9)
    assert on_a_node * nodes >= fewest
    if node_cpus > 1:
        assert node_cpus - on_a_node * budget.cpus_per_worker >= budget.data_cpus - 1e-9


def test_elastic_workers_have_a_gpu_each() -> None:
    budget = train_budget(TrainSettings(num_workers="2:8"), Resources(32, gpus=4))
    assert (budget.workers, budget.elastic_to, budget.use_gpu) == (2, 8, True)
    budget = train_budget(TrainSettings(num_workers="2:8"), Resources(32, gpus=1))
    assert not budget.use_gpu


def test_without_a_number_there_is_a_worker_a_gpu() -> None:
    budget = train_budget(TrainSettings(), Resources(32, gpus=4))
    assert (budget.workers, budget.use_gpu) == (4, True)
    assert train_budget(TrainSettings(), Resources(32)).workers == 1


def test_more_workers_than_gpus_train_on_the_cpu_unless_cuda_is_asked_for() -> None:
    budget = train_budget(TrainSettings(num_workers=2), Resources(32, gpus=1))
    assert not budget.use_gpu
    with pytest.raises(UserError, match="2 workers need as many GPUs, and this cluster has 1"):
        train_budget(TrainSettings(num_workers=2, device="cuda"), Resources(32, gpus=1))


def test_no_worker_asks_for_more_than_a_node_has() -> None:
    budget = train_budget(TrainSettings(num_workers=1), Resources(32, largest_node_cpus=4))
    assert budget.cpus_per_worker == 4


def test_what_ray_says_of_a_dead_process_stays_off_stdout() -> None:
    """It would stand between the lines of `--json`."""
    script = """
import os, signal, ray
from ray_jobs.cluster import connected
from ray_jobs.output import Output

@ray.remote(max_retries=0)
def die():
    os.kill(os.getpid(), signal.SIGKILL)

with connected(Output(as_json=True)):
    try:
        ray.get(die.remote())
    except ray.exceptions.WorkerCrashedError:
        import time
        time.sleep(1)  # its message comes a moment later
        print("died")
"""
    environment = {**os.environ, "RAY_ADDRESS": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout == "died\n"
