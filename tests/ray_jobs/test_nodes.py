"""Runs that lose nodes. They have a cluster of their own, so they run beside the other tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genconvit.train.run_folder import read_results


@pytest.mark.timeout(1000)
@pytest.mark.slow
def test_an_elastic_run_survives_a_lost_node_and_one_that_is_taken_back(tmp_path: Path) -> None:
    program = Path(__file__).with_name("lost_nodes.py")
    done = subprocess.run(
        [sys.executable, program, tmp_path],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        cwd=program.parents[2],
        env={**os.environ, "PYTHONPATH": str(program.parents[2])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    steps = [event for event in events if event["event"] == "step"]
    workers = [event["workers"] for event in steps]
    assert workers == sorted(workers, reverse=True)
    assert {3, 1} <= set(workers) <= {3, 2, 1}
    # A step has as many crops as before: with fewer workers there are more batches.
    assert {event["workers"]: event["steps"] for event in steps}.items() <= {
        3: 15,
        2: 30,
        1: 45,
    }.items()
    notes = " ".join(event["text"] for event in events if event["event"] == "note")
    assert "with 2 workers." in notes
    assert "a node will be taken away; the run's state is saved." in notes
    assert "with 1 worker." in notes
    results = read_results(tmp_path / "run")
    assert results["finished"] and results["epochs"] == 4
    updates = [event["update"] for event in steps]
    assert max(updates) <= 4 * 15 + 2  # nothing was done over
