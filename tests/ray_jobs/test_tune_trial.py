"""What the process that starts a trial, and waits for it, has to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ray import cloudpickle

from ray_jobs.cache import Cache
from ray_jobs.cluster import Budget
from ray_jobs.tune_trial import Trials
from tests.conftest import small_settings


def test_a_process_that_waits_for_a_trial_imports_nothing_that_computes(tmp_path: Path) -> None:
    budget = Budget(workers=1, cpus_per_worker=1, use_gpu=False, data_cpus=1)
    trials = Trials(tmp_path, small_settings(), ["shards"], {}, budget, None, Cache({}))
    code = "import pickle, sys; pickle.load(sys.stdin.buffer); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=cloudpickle.dumps(trials.driver()),
        stdout=subprocess.PIPE,
        check=True,
    )
    imported = set(done.stdout.decode().split())
    assert "ray_jobs.fit" in imported
    assert not imported & {"cv2", "ray_jobs.train_worker", "sklearn", "timm", "torchvision"}
