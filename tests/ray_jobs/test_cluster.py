from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genconvit.config import TrainSettings
from genconvit.errors import UserError
from ray_jobs.cluster import train_budget


def test_two_workers_fit_two_cpus_and_leave_one_for_the_data() -> None:
    budget = train_budget(TrainSettings(num_workers=2), {"CPU": 2.0})
    assert budget.cpus_per_worker == 0.5
    assert budget.data_cpus == 1.0


def test_one_cpu_is_shared_by_worker_and_data() -> None:
    budget = train_budget(TrainSettings(num_workers=1), {"CPU": 1.0})
    assert (budget.cpus_per_worker, budget.data_cpus) == (0.5, 0.5)


@given(
    st.integers(1, 64), st.integers(1, 128), st.integers(0, 16), st.sampled_from(["auto", "cpu"])
)
def test_what_fits_leaves_room_for_the_data_and_what_does_not_is_refused(
    workers: int, cpus: int, gpus: int, device: str
) -> None:
    settings = TrainSettings(num_workers=workers, device=device)
    resources = {"CPU": float(cpus), "GPU": float(gpus)}
    on_gpus = device == "auto" and gpus > 0
    if cpus < (workers + 1) / 2 or (on_gpus and workers > gpus):
        with pytest.raises(UserError, match="--num-workers"):
            train_budget(settings, resources)
    else:
        budget = train_budget(settings, resources)
        assert budget.workers * budget.cpus_per_worker + budget.data_cpus <= cpus
        assert budget.use_gpu == on_gpus


def test_without_a_number_there_is_a_worker_a_gpu() -> None:
    budget = train_budget(TrainSettings(), {"CPU": 32.0, "GPU": 4.0})
    assert (budget.workers, budget.use_gpu) == (4, True)
    assert train_budget(TrainSettings(), {"CPU": 32.0}).workers == 1


def test_more_workers_than_gpus_are_refused() -> None:
    with pytest.raises(UserError, match="4 workers need as many GPUs, and this cluster has 2"):
        train_budget(TrainSettings(num_workers=4), {"CPU": 32.0, "GPU": 2.0})
    with pytest.raises(UserError, match="has 0"):
        train_budget(TrainSettings(device="cuda"), {"CPU": 32.0})
