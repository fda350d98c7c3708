"""Fixtures for all tests. Threads are bounded before anything imports an OpenMP library."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import torch

from genconvit.checkpoint import DetectorInfo, save_detector
from genconvit.config import Settings
from genconvit.data.demo import write_demo_clips
from genconvit.models.registry import build_from_settings
from genconvit.overrides import parse_assignment, resolve_settings

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

Weights = dict[str, torch.Tensor]

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
    return write_detector(tmp_path_factory.mktemp("detector") / "best", 0)


def write_detector(
    path: Path, seed: int, *settings: str, change: Callable[[Weights], Weights] = dict
) -> Path:
    """A detector whose weights nobody trained."""
    torch.manual_seed(seed)
    chosen = small_settings(*settings)
    info = DetectorInfo(
        model=chosen.model,
        preprocess=chosen.preprocess,
        sampling=chosen.sampling,
        decision=chosen.decision,
    )
    save_detector(path, change(build_from_settings(chosen.model).state_dict()), info)
    return path


@dataclass(frozen=True)
class Cluster:
    """The Ray cluster of a test process."""

    address: str
    """For `ray.init`."""
    dashboard: str
    """For `ray job submit`."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A local `ray start --head`: four CPUs on paper, whatever the machine has."""
    import ray

    port, dashboard, client, agent = free_ports(4)
    ray_program = str(Path(sys.executable).parent / "ray")
    command = [ray_program, "start", "--head", "--block", "--num-cpus=4", "--disable-usage-stats"]
    command += [f"--port={port}", f"--dashboard-port={dashboard}"]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    # A short path of its own: Ray's sockets lie in it, and other clusters here are left alone.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "RAY_TMPDIR": str(folder)},
        )
    found = Cluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}")
    try:
        url = f"{found.dashboard}/api/version"
        wait_until(lambda: answers(url), head, folder / "head.log")
        ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
        yield found
        ray.shutdown()
    finally:
        with contextlib.suppress(ProcessLookupError):  # it never started
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def dataset(cluster: Cluster, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the demo's clips as shards: two 64 px crops a clip."""
    from ray_jobs.extract import extract
    from ray_jobs.output import Output

    path = tmp_path_factory.mktemp("dataset") / "shards"
    half = clips.with_name("half.csv")
    header, *lines = clips.read_text().splitlines()
    half.write_text(
        "\n".join([header, *(line for line in lines if "_variant0" in line or "_variant1" in line)])
    )
    made = extract(half, path, small_settings("sampling.frames=2"), Output(as_json=True))
    return Path(made.path)


def without_test_split(dataset: Path, folder: Path) -> Path:
    """A copy of shards in `folder` with a test split that nobody can read."""
    copy = Path(shutil.copytree(dataset, folder / "shards"))
    for file in (copy / "test").glob("*.parquet"):
        file.write_bytes(bytes(file.stat().st_size))
    return copy


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on."""
    with contextlib.ExitStack() as held:  # one that is given back would be given again
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [int(free.getsockname()[1]) for free in sockets]


def free_port() -> int:
    """A port that nobody listens on."""
    return free_ports(1)[0]


def answers(url: str) -> bool:
    """Whether a server answers there."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits for a process to be of use, for a minute at most."""
    deadline = time.monotonic() + 60
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(log.read_text())
        time.sleep(0.3)
