"""The rows of `genconvit bench train`: each in processes of its own."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from genconvit.config import Settings
from genconvit.data.shards import FrameDataset
from genconvit.data.synthetic import write_synthetic_shards
from genconvit.train.measure import summary
from ray_jobs.bench_train_stream import ALONE_STEPS, train_streamed
from ray_jobs.bench_train_worker import OUT_OF_MEMORY, Place, Row
from ray_jobs.failures import reason_of
from ray_jobs.mailbox import new_mailbox

MOST_CROPS = 65_536
"""Made-up crops; a longer run reads them again."""

Report = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        variants: Some of `VARIANTS`.
        steps: Timed steps of each.
        warmup: Steps before them.
        profile: Whether the step of a run is profiled.
    """

    variants: Sequence[str]
    steps: int
    warmup: int
    profile: bool


def measure_resident(
    names: Sequence[str],
    plan: Plan,
    settings: Settings,
    place: Place,
    report: Report,
    out: Path,
    done: Callable[[str], None],
) -> None:
    """Fills in variants whose crops are on the device."""
    trained: dict[str, Report] = {}
    judged: dict[str, Report] = {}
    actors: dict[str, Any] = {}
    try:
        for name in names:
            actors[name] = remote(Row, place).remote(name, settings, place, time.time())
            row: Report = {"variant": name, "workers": 1}
            fill(row, actors[name].prepare)
            if name in plan.variants:
                trained[name] = dict(row)
                fill(trained[name], actors[name].warm_up, plan.warmup)
            if "verdict" in plan.variants:
                judged[name] = dict(row)
        report["train"] += trained.values()
        report["verdict"] += judged.values()
        for name, times in _take_turns(trained, actors, "time", plan.steps).items():
            trained[name] |= summary(times)
            fill(trained[name], actors[name].memory)
        for name, row in judged.items():
            ask(row, actors[name].judge, plan.warmup)
        for name, times in _take_turns(judged, actors, "judge", plan.steps).items():
            judged[name]["batch_ms"] = float(np.median(times))
        if plan.profile and "genconvit" in trained:
            _profile(trained["genconvit"], actors["genconvit"], report, out)
    finally:
        for name, actor in actors.items():
            ray.kill(actor)
            done(name)


def _profile(row: Report, actor: Any, report: Report, out: Path) -> None:
    found = ask(dict(row), actor.profile)  # a profile that fails leaves the row as it is
    if found is not None:
        trace, table, report["profile"] = found
        out.mkdir(parents=True, exist_ok=True)
        (out / "trace.json.gz").write_bytes(trace)
        (out / "profile.txt").write_text(table)


def _take_turns(
    rows: dict[str, Report], actors: dict[str, Any], method: str, steps: int
) -> dict[str, NDArray[np.float64]]:
    """Times of each row that has not failed.

    Several take turns step by step, so that what else happens on the machine meets them all.
    """
    times: dict[str, list[Any]] = {name: [] for name in rows}
    for share in [1] * steps if len(rows) > 1 else [steps]:
        for name, row in rows.items():
            found = ask(row, getattr(actors[name], method), share)
            times[name] += [] if found is None else [found]
    return {name: np.concatenate(times[name]) for name, row in rows.items() if "error" not in row}


def measure_streamed(
    dataset: FrameDataset | None,
    worlds: Sequence[int],
    plan: Plan,
    settings: Settings,
    report: Report,
    out: Path,
    done: Callable[[str], None],
) -> None:
    """Fills in a row for each number of workers."""
    with tempfile.TemporaryDirectory(prefix="genconvit-") as made:
        if dataset is None:
            steps = plan.warmup + plan.steps + ALONE_STEPS + 2
            automatic = settings.train.batch_size == "auto"
            crops = MOST_CROPS if automatic else settings.train.batch_rows * worlds[-1] * steps
            dataset = write_synthetic_shards(Path(made), min(crops, MOST_CROPS), settings)
        for world in worlds:
            row: Report = {"variant": "streamed", "workers": world}
            report["train"].append(row)
            mailbox = new_mailbox()
            try:
                train_streamed(
                    world,
                    [dataset.path],
                    settings,
                    mailbox,
                    out / "ray",
                    steps=plan.steps,
                    warmup=plan.warmup,
                )
            except ray.train.TrainingFailedError as error:
                _note(row, error)
            finally:
                for event in ray.get(mailbox.drain.remote()):
                    row |= event
                ray.kill(mailbox)
                shutil.rmtree(out / "ray", ignore_errors=True)
            done(f"streamed, {world}")


def remote(function: Any, place: Place) -> Any:
    """A function or a class for a process that has what a worker has."""
    # Whatever takes turns waits most of the time: it needs no CPU of its own.
    return ray.remote(num_cpus=0, num_gpus=1 if place.gpu else 0)(function)


def fill(row: Report, method: Any, *arguments: Any) -> None:
    """Adds what a process answers to a row, or why it does not."""
    row |= ask(row, method, *arguments) or {}


def ask(row: Report, method: Any, *arguments: Any) -> Any:
    """What a process answers; None where it fails, or its row has before. The row then says why."""
    if "error" in row:
        return None
    try:
        return ray.get(method.remote(*arguments))
    except ray.exceptions.RayError as error:
        _note(row, error)
        return None


def _note(row: Report, error: Exception) -> None:
    row["error"] = OUT_OF_MEMORY if OUT_OF_MEMORY in str(error) else reason_of(error)
