"""Runs that are cut off and go on."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from genconvit.checkpoint import WEIGHTS, load_network
from genconvit.config import Settings
from genconvit.errors import RunEndedError, RunStoppedError, UserError
from genconvit.train import watch
from genconvit.train.batches import plan_batches
from genconvit.train.run_folder import STATES, RunFolder, read_results
from genconvit.train.run_writer import RunWriter
from genconvit.train.state import newest_state, read_state, save_state
from tests.train.little import crops, data_of, run, run_in, settings, state_of

PLAIN = (
    "train.deterministic=true",
    # No epoch after the first is progress, so that the rate is halved after the second.
    "train.early_stopping_min_delta=1",
    "train.lr_patience=0",
)
ON_VAL = (*PLAIN, "train.train_on_val=true", "train.early_stopping_patience=1")
EVERYTHING = (
    "train.deterministic=true",
    "train.grad_accum_steps=2",
    "train.model_ema=true",
    "train.model_ema_decay=0.9",
    "train.sched=cosine",
    "train.warmup_epochs=0.5",
    "train.layer_decay=0.8",
    "train.freeze_epochs=1",
    "train.precision=fp16",
    "augment.mixup=0.4",
    "augment.cutmix=0.4",
    "augment.self_blend=0.3",
    "model.seam_branch=true",
    "loss.label_smoothing=0.1",
    "loss.focal_gamma=2",
)


def job_of(options: tuple[str, ...]) -> tuple[Settings, Any]:
    """Three epochs of three optimiser steps; the last batch is smaller than the others."""
    passes = 2 if options is EVERYTHING else 1
    rows = 20 if passes == 1 else 44
    data = data_of(crops(rows), crops(12, seed=1), batch_size=8, passes=passes)
    return settings("model.dropout_rate=0.3", "train.epochs=3", *options), data


@pytest.fixture(
    scope="module", params=[PLAIN, ON_VAL, EVERYTHING], ids=["plain", "on_val", "everything"]
)
def uninterrupted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tuple[str, ...], RunFolder]:
    job, data = job_of(request.param)
    return request.param, run(tmp_path_factory.mktemp("whole") / "run", job, data)


class StopAfter:
    """Asks a run to stop after so many optimiser steps."""

    def __init__(self, updates: int) -> None:
        self.left = updates

    def __call__(self) -> str:
        self.left -= 1
        return "" if self.left else "stop"


@pytest.mark.parametrize("updates", [1, 2, 6, 8])
def test_a_run_that_is_stopped_at_any_step_ends_with_the_same_weights(
    uninterrupted: tuple[tuple[str, ...], RunFolder],
    updates: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options, whole = uninterrupted
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_QUESTIONS", 0.0)
    job, data = job_of(options)
    with pytest.raises(RunStoppedError, match="--resume"):
        run(tmp_path / "run", job, data, ask=StopAfter(updates))
    resumed = run(tmp_path / "run", job, data)
    for kind in ("best", "last"):
        expected, found = (load_file(f.path / kind / WEIGHTS) for f in (whole, resumed))
        for name, tensor in expected.items():
            assert torch.equal(tensor, found[name]), (kind, name)
    first, second = (read_results(f.path)["history"] for f in (whole, resumed))
    for one, other in zip(first, second, strict=True):
        for part in ("train", "val", "lr", "best"):
            assert one[part] == other[part]


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.train.test_resume import PLAIN, job_of
from tests.train.little import run
job, data = job_of(PLAIN)
job = job.model_copy(
    update={"train": job.train.model_copy(update={"checkpoint_minutes": 1e-9})}
)
def die(event):
    if event["event"] == "step" and event["update"] == 5:
        os.kill(os.getpid(), signal.SIGKILL)
run(Path(sys.argv[1]), job, data, on_event=die)
"""


def test_a_process_that_is_killed_leaves_a_run_that_goes_on_exactly(tmp_path: Path) -> None:
    job, data = job_of(PLAIN)
    whole = run(tmp_path / "whole", job, data)
    folder = tmp_path / "run"
    program = "from genconvit.train import watch; watch.SECONDS_BETWEEN_EVENTS = 0\n" + KILLED
    done = subprocess.run([sys.executable, "-c", program, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    state = state_of(folder)
    assert (len(state["history"]), state["batches"], state["updates"]) == (1, 2, 5)
    resumed = run(folder, job, data)
    expected, found = (load_file(f.last / WEIGHTS) for f in (whole, resumed))
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_a_state_that_was_cut_short_is_not_chosen(tmp_path: Path) -> None:
    whole, newest = (
        save_state(tmp_path, {"updates": updates, "numbers": torch.randn(1000)})
        for updates in (3, 7)
    )
    os.truncate(newest, newest.stat().st_size - 100)
    assert newest_state(tmp_path) == (whole, [newest.name])
    # What is written after the fall back is the newest, though it is of an earlier step.
    again = save_state(tmp_path, {"updates": 5})
    assert newest_state(tmp_path) == (again, [])
    for path in (tmp_path / STATES).iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no state there is whole"):
        newest_state(tmp_path)


def test_only_the_two_newest_states_are_kept(tmp_path: Path) -> None:
    states = [save_state(tmp_path, {"updates": updates}) for updates in (9, 99, 100)]
    (tmp_path / STATES / ".writing-7").write_bytes(b"left by a writer that was killed")
    assert newest_state(tmp_path)[0] == states[2]
    assert set((tmp_path / STATES).iterdir()) == set(states[1:])


def test_a_full_disk_ends_the_run_with_a_sentence_and_loses_nothing(tmp_path: Path) -> None:
    job, data = job_of(PLAIN)
    folder = run(tmp_path / "run", settings(*PLAIN, "train.epochs=1"), data)
    before = {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(RunEndedError, match=r"cannot be written.*--resume"):
            run(tmp_path / "run", job, data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for path, content in before.items():
        if path.parent.name in ("best", "last", STATES):
            assert path.read_bytes() == content, path
    assert load_network(folder.best)[1].training["epoch"] == 1
    assert not [p for p in folder.path.rglob(".*") if p.is_file()]  # nothing half-written stays
    assert read_results(run(tmp_path / "run", job, data).path)["epochs"] == 3


def test_a_state_that_could_run_code_is_not_read(tmp_path: Path) -> None:
    path = save_state(tmp_path, {"updates": 0, "history": [print]})
    with pytest.raises(UserError, match="holds more than numbers"):
        read_state(path)


def test_a_run_without_its_states_says_so(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", settings("train.epochs=1"))
    shutil.rmtree(folder.path / STATES)
    with pytest.raises(UserError, match="has lost its states"):
        folder.newest_state()


@given(
    batch_size=st.integers(2, 512),
    steps=st.integers(1, 8),
    most=st.integers(1, 64),
    workers=st.integers(1, 64),
)
def test_a_step_has_as_many_crops_with_any_number_of_workers(
    batch_size: int, steps: int, most: int, workers: int
) -> None:
    aim = batch_size * steps * most
    plan = plan_batches(batch_size, aim, workers)
    assert 1 <= plan.rows <= batch_size
    if workers <= most:
        assert abs(plan.rows * plan.passes * workers - aim) <= plan.passes * workers / 2
    if workers == most:
        assert (plan.rows, plan.passes) == (batch_size, steps)


def test_with_fewer_workers_the_epoch_goes_on_where_it_was(tmp_path: Path) -> None:
    """What two workers left after 2 of 3 batches each, one goes on with after 4 of 6."""
    job, data = job_of(PLAIN)
    folder = run(tmp_path / "run", settings(*PLAIN, "train.epochs=1"), data)
    state = state_of(folder.path)
    state["workers"] *= 2
    state["batches"], state["step_rows"], state["worker_rows"] = 1, 16, 8
    state["updates"] += 1
    save_state(folder.path, state)
    alone = data_of(crops(40), crops(12, seed=1), batch_size=8, passes=2)
    seen: list[int] = []
    train = alone.train
    object.__setattr__(alone, "train", lambda e, skip: (seen.append(skip), train(e, skip))[1])
    run(folder.path, job, alone)
    assert seen == [2, 0]


class SlowDisk(RunWriter):
    """Takes its time to write a state, as a gigabyte does."""

    def save_state(self, content: dict[str, Any]) -> None:
        time.sleep(watch.CHEAP_S)
        super().save_state(content)


def test_slow_saving_is_left_out_after_epochs_that_it_would_take_longer_than(
    tmp_path: Path,
) -> None:
    job, data = job_of(PLAIN)  # whose only progress is the first epoch
    whole = run(tmp_path / "whole", job, data)
    folder = SlowDisk(tmp_path / "slow", job, {"digest": "none"})
    saved: list[list[int]] = []

    def after_epoch(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            written = read_results(folder.path)["epochs"]
            saved.append([event["epoch"], len(state_of(folder.path)["history"]), written])

    run_in(folder, job, data, on_event=after_epoch)
    assert saved == [[1, 1, 1], [2, 1, 2], [3, 3, 3]]
    for kind in ("best", "last"):
        expected, found = (load_file(f.path / kind / WEIGHTS) for f in (whole, folder))
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_a_run_goes_on_from_the_epoch_that_was_saved_last(tmp_path: Path) -> None:
    job, data = job_of(PLAIN)
    whole = run(tmp_path / "whole", job, data)
    folder = SlowDisk(tmp_path / "slow", job, {"digest": "none"})

    def fall(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in(folder, job, data, on_event=fall)
    assert len(state_of(folder.path)["history"]) == 1
    resumed = run(folder.path, job, data)
    expected, found = (load_file(f.last / WEIGHTS) for f in (whole, resumed))
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert [e["epoch"] for e in read_results(folder.path)["history"]] == [1, 2, 3]
