from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from genconvit.data.shards import open_dataset
from tests.conftest import Cluster


def submit(cluster: Cluster, *entrypoint: object) -> subprocess.CompletedProcess[str]:
    ray = Path(sys.executable).parent / "ray"
    command = [ray, "job", "submit", "--address", cluster.dashboard, "--working-dir", ".", "--"]
    return subprocess.run(
        [*map(str, command), sys.executable, *map(str, entrypoint)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "RAY_ADDRESS": ""},
        check=False,
    )


def test_a_job_runs_on_the_cluster(cluster: Cluster, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    done = submit(
        cluster, "ray_jobs/extract.py", clips.parent / "test", out, "--frames", "1",
        "preprocess.size=64",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert open_dataset(out).manifest["clips"] == 16


@pytest.mark.slow
def test_a_job_with_bad_input_fails_and_says_why(cluster: Cluster, tmp_path: Path) -> None:
    done = submit(cluster, "ray_jobs/train.py", "--data", tmp_path / "nowhere")
    assert done.returncode != 0
    printed = done.stdout + done.stderr
    assert "nowhere does not exist" in printed, printed
    assert "exit code 2" in printed


@pytest.mark.parametrize("job", ["tune", "evaluate", "predict"])
def test_the_other_jobs_are_scripts_too(job: str) -> None:
    subprocess.run(
        [sys.executable, f"ray_jobs/{job}.py", "--help"],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
