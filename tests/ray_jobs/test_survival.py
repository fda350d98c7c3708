"""Runs whose workers or driver are killed, on the tests' cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file

from genconvit.checkpoint import WEIGHTS
from genconvit.config import Settings
from genconvit.data.synthetic import write_synthetic_shards
from genconvit.train.run_folder import STATES, read_results
from ray_jobs.output import Output
from ray_jobs.train import train
from tests.conftest import Cluster, small_settings

# Each start of Ray's workers takes its time.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
JOB = (
    "train.epochs=2",
    "train.batch_size=8",
    "train.num_workers=2",
    "train.lr=1e-3",
    "train.deterministic=true",
    "train.checkpoint_minutes=0.0001",  # a state after every step
    "train.log_to=none",
)


UPDATES = 192 // (2 * 8)
"""Of an epoch."""


def job(*texts: str) -> Settings:
    return small_settings(*JOB, *texts)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synthetic") / "shards"
    write_synthetic_shards(path, 192, job())
    return path


@pytest.fixture(scope="module")
def whole(cluster: Cluster, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train([shards], job(), out, Output(as_json=True))
    return out


def middle_of_epoch(run: Path, epoch: int) -> Callable[[], bool]:
    """Whether a state of a run lies inside an epoch (counted from 1)."""

    def is_there() -> bool:
        updates = [int(path.name.split("-")[1]) for path in (run / STATES).glob("update-*")]
        return any((epoch - 1) * UPDATES < number < epoch * UPDATES for number in updates)

    return is_there


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process is None or process.poll() is None, "the run ended before"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workers() -> list[int]:
    """Training processes of this cluster on this machine."""
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    ours = f"RAY_TMPDIR={session.parent.parent}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if b"ray::RayTrainWorker" in (folder / "cmdline").read_bytes():
                    found += [int(folder.name)] * (ours in (folder / "environ").read_bytes())
            except OSError:  # it has ended
                continue
    return found


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = (load_file(run / "last" / WEIGHTS) for run in (one, other))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_a_run_goes_on_by_itself_when_a_worker_is_killed(
    whole: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"

    def kill() -> None:
        wait_for(middle_of_epoch(out, 2))
        os.kill(max(workers()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    train([shards], job(), out, Output(as_json=True))
    killer.join()
    assert "going on from epoch 2" in capsys.readouterr().out
    assert read_results(out)["finished"]
    assert_same_weights(out, whole)


def start(cluster: Cluster, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.cli", "train", *map(str, arguments)],
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_stopped_and_then_killed_driver_leaves_a_run_to_continue(
    cluster: Cluster, whole: Path, shards: Path, tmp_path: Path
) -> None:
    out, settings = tmp_path / "run", tmp_path / "job.yaml"
    settings.write_text((whole / "settings.yaml").read_text())
    driver = start(cluster, "--data", shards, "--config", settings, "--out", out)
    wait_for(middle_of_epoch(out, 1), driver)
    driver.send_signal(signal.SIGINT)
    said, _ = driver.communicate(timeout=300)
    assert driver.returncode == 130, said
    assert "its state is saved; continue with --resume" in " ".join(said.split())
    assert "Traceback" not in said

    driver = start(cluster, "--data", shards, "--resume", out)
    wait_for(middle_of_epoch(out, 2), driver)
    driver.kill()
    driver.communicate()

    driver = start(cluster, "--data", shards, "--resume", out)
    said, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, said
    assert "going on from epoch" in said
    assert_same_weights(out, whole)
