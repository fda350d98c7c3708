"""Fixtures for all tests. Threads are bounded before anything imports an OpenMP library."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from genconvit.checkpoint import DetectorInfo, save_detector
from genconvit.config import Settings
from genconvit.data.demo import write_demo_clips
from genconvit.models.registry import build_from_settings
from genconvit.overrides import parse_assignment, resolve_settings

SMALL = ("model.preset=nano", "preprocess.size=64", "sampling.frames=4")


def small_settings(*texts: str) -> Settings:
    """The smallest settings that still do everything."""
    return resolve_settings(assignments=[parse_assignment(text) for text in (*SMALL, *texts)])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real clips and recorded references, named by GENCONVIT_SHARED."""
    folder = Path(os.environ.get("GENCONVIT_SHARED", "../shared")).resolve()
    if not (folder / "data" / "manifest.csv").is_file():
        pytest.skip(f"no shared data at {folder}; set GENCONVIT_SHARED")
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CSV of the demo's clips."""
    return write_demo_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole detector that has learned nothing."""
    path = tmp_path_factory.mktemp("detector") / "best"
    torch.manual_seed(0)
    settings = small_settings()
    info = DetectorInfo(
        model=settings.model,
        preprocess=settings.preprocess,
        sampling=settings.sampling,
        decision=settings.decision,
    )
    save_detector(path, build_from_settings(settings.model).state_dict(), info)
    return path


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """The one Ray cluster of the tests: four CPUs on paper, whatever the machine has."""
    import ray

    ray.init(num_cpus=4, include_dashboard=True, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
