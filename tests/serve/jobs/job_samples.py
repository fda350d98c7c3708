"""A store, results, and workers in processes of their own, for the tests of jobs."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genconvit.answers import Detection, ModelId, Timings
from genconvit.verdict import TimelinePoint
from serve.jobs.queue import Claim, JobQueue
from serve.jobs.runner import JobRunner, OnPart
from serve.jobs.store import JobStore
from serve.scoring.work import Judged

PARTS = 4


def new_store(folder: Path, **options: Any) -> JobStore:
    store = JobStore(folder / "state", **options)
    store.prepare()
    return store


def point(index: int) -> TimelinePoint:
    return TimelinePoint(
        time_s=float(index), frame_index=index, track=0, box=(0, 0, 9, 9), probability_fake=0.25
    )


def detection(clip: str, points: int = PARTS) -> Detection:
    return Detection(
        clip=clip,
        verdict="REAL",
        probability_fake=0.25,
        reason="It looks real.",
        frames_sampled=points,
        frames_with_face=points,
        tracks=[],
        timeline=[point(index) for index in range(points)],
        threshold=0.5,
        band=(0.4, 0.6),
        model=ModelId(name="default", id="v2-nano-12345678", fingerprint="12345678"),
        timings_ms=Timings(wait=1, decode=2, queue=3, network=4, total=10),
    )


async def judge(content: bytes, claim: Claim, on_part: OnPart) -> Judged:
    """Looks at a part at a time; the options say how long each takes."""
    for index in range(PARTS):
        await on_part([point(index)], (index + 1) / PARTS)
        await asyncio.sleep(claim.options.get("part_s", 0))
    return Judged(detection(f"{claim.name} of {len(content)} bytes"))


def runner(store: JobStore, judge: Any = judge, budget_s: float = 60, **options: Any) -> JobRunner:
    """One that notices everything soon."""
    return JobRunner(store, judge, budget_s, poll_s=0.02, watch_s=0.05, pause_s=0.05, **options)


def start(function: Callable[..., None], *arguments: Any) -> Any:
    """A process of its own, which shares nothing with this one."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    return process


def run_for_ever(store: JobStore) -> None:
    asyncio.run(runner(store).run())


def take_all(store: JobStore, ready: Path, other: Path, taken: Path) -> None:
    """Takes jobs until there is none, once the other process is ready too."""
    queue = JobQueue(store)
    ready.touch()
    while not other.exists():
        pass
    with taken.open("w") as file:
        while (claim := queue.claim()) is not None:
            file.write(f"{claim.id}\n")
            assert queue.finish(claim, detection(claim.name))
            time.sleep(0.002)  # who waits for SQLite's lock sleeps too, and would get no turn
