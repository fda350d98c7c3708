from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from genconvit.answers import Job
from serve.jobs.queue import Claim
from serve.jobs.runner import JobRunner, OnPart
from serve.jobs.store import JobStore
from serve.problems import ProblemError
from serve.scoring.work import Judged
from tests.serve.jobs.job_samples import (
    PARTS,
    detection,
    judge,
    new_store,
    point,
    run_for_ever,
    runner,
    start,
)


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return new_store(tmp_path, lease_s=2.5)


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def meanwhile(runner: JobRunner, check: Callable[[], Any]) -> Any:
    """Calls a blocking check while a runner works, then stops the runner."""

    async def both() -> Any:
        running = asyncio.create_task(runner.run())
        try:
            return await asyncio.to_thread(check)
        finally:
            running.cancel()
            await asyncio.wait({running})

    return asyncio.run(both())


def finished(store: JobStore, runner: JobRunner, **options: Any) -> Job:
    """A new job after a runner has worked on it."""
    job = store.create(options, b"a clip", "clip.mp4")

    def ended() -> bool:
        return store.get(job.id).ended_at is not None

    meanwhile(runner, lambda: until(ended))
    assert store.spool.stored() == set()
    return store.get(job.id)


def test_a_job_is_judged_and_seen_on_its_way(store: JobStore) -> None:
    job = store.create({"part_s": 0.1}, b"a clip", "clip.mp4")
    seen: list[int] = []

    def watch() -> None:
        while (now := store.get(job.id)).state != "done":
            assert now.progress == len(now.timeline) / PARTS
            seen.append(len(now.timeline))
            time.sleep(0.01)

    meanwhile(runner(store), watch)
    assert seen == sorted(seen) and {1, 2, 3} <= set(seen)
    done = store.get(job.id)
    assert done.detection == detection("clip.mp4 of 6 bytes")
    assert (done.attempts, done.progress) == (1, 1)


def test_a_killed_runner_is_followed_by_another(store: JobStore) -> None:
    job = store.create({"part_s": 0.6}, b"a clip", "clip.mp4")
    first = start(run_for_ever, store)
    until(lambda: len(store.get(job.id).timeline) >= 2)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert [each.frame_index for each in store.get(job.id).timeline] == [0, 1]
    second = start(run_for_ever, store)
    seen = []

    def ended() -> bool:
        seen.append([each.frame_index for each in store.get(job.id).timeline])
        return store.get(job.id).state == "done"

    try:
        until(ended)
    finally:
        second.kill()
        second.join()
    assert store.get(job.id).attempts == 2
    assert all(each == list(range(len(each))) for each in seen)  # nothing twice
    assert store.spool.stored() == set()


def test_a_job_that_takes_longer_than_its_lease_is_begun_once(store: JobStore) -> None:
    async def no_news(content: bytes, claim: Claim, on_part: OnPart) -> Judged:
        await asyncio.sleep(1.2 * store.lease_s)
        return Judged(detection("clip.mp4"))

    assert finished(store, runner(store, no_news, at_once=2)).attempts == 1


def test_what_is_deleted_on_its_way_stops_soon(store: JobStore) -> None:
    job = store.create({}, b"a clip", "clip.mp4")
    events = []

    async def endless(content: bytes, claim: Claim, on_part: OnPart) -> Judged:
        events.append("began")
        try:
            for index in range(10_000):
                await on_part([point(index)], 0.1)
                await asyncio.sleep(0.05)
        finally:
            events.append("stopped")
        raise AssertionError

    def delete() -> None:
        until(lambda: bool(store.get(job.id).timeline))
        store.delete(job.id)
        assert store.spool.stored() == set()
        until(lambda: "stopped" in events, 2)
        time.sleep(0.3)  # enough for a runner to begin it again
        with pytest.raises(ProblemError, match="404"):
            store.get(job.id)

    meanwhile(runner(store, endless), delete)
    assert events == ["began", "stopped"]
    left = b"".join(path.read_bytes() for path in store.folder.rglob("*") if path.is_file())
    assert job.id.encode() not in left and b"frame_index" not in left


def failing(*errors: Exception) -> Callable[..., Awaitable[Judged]]:
    """Fails once with each error, then works."""
    left = list(errors)

    async def judge_or_fail(content: bytes, claim: Claim, on_part: OnPart) -> Judged:
        await on_part([point(7)], 0.5)
        if left:
            raise left.pop(0)
        return await judge(content, claim, on_part)

    return judge_or_fail


def test_a_verdict_is_told_once_however_many_parts_and_attempts_it_took(store: JobStore) -> None:
    told: list[Judged] = []
    broken = failing(RuntimeError("a replica died"))
    job = finished(store, runner(store, broken, on_done=told.append))
    assert job.attempts == 2
    assert [judged.detection for judged in told] == [job.detection]


def test_no_verdict_is_told_of_what_was_deleted_or_has_failed(store: JobStore) -> None:
    told: list[Judged] = []
    problem = ProblemError(422, "This is no clip.", "no clip")
    finished(store, runner(store, failing(problem), on_done=told.append))
    job = store.create({}, b"a clip", "clip.mp4")

    async def deleted_at_the_end(content: bytes, claim: Claim, on_part: OnPart) -> Judged:
        judged = await judge(content, claim, on_part)
        store.delete(job.id)
        return judged

    last = runner(store, deleted_at_the_end, on_done=told.append)
    meanwhile(last, lambda: until(lambda: not store.counts().get("running")))
    assert told == []


def test_a_bad_clip_is_not_tried_again(store: JobStore) -> None:
    problem = ProblemError(422, "This is no clip.", "no clip")
    job = finished(store, runner(store, failing(problem)))
    assert (job.state, job.attempts) == ("failed", 1)
    assert job.problem == problem.document()
    assert job.timeline == [point(7)]


def test_what_breaks_off_is_tried_again(store: JobStore) -> None:
    job = finished(store, runner(store, failing(RuntimeError("a replica died"), OSError())))
    assert (job.state, job.attempts) == ("done", 3)


def test_after_three_attempts_it_has_failed(
    store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [RuntimeError("SECRET /tmp/x.mp4") for _ in range(3)]
    with caplog.at_level(logging.ERROR):
        job = finished(store, runner(store, failing(*errors)))
    assert (job.state, job.attempts) == ("failed", 3)
    assert job.problem is not None and job.problem.status == 500
    assert "broke off 3 times" in job.problem.detail
    assert "SECRET" not in job.model_dump_json() and "Traceback" not in job.model_dump_json()
    assert caplog.text.count("RuntimeError: SECRET") == 3


def test_what_is_told_to_come_later_comes_later(store: JobStore) -> None:
    busy = [ProblemError(503, "Too much to do.", "busy", retry_after_s=0.1) for _ in range(3)]
    job = finished(store, runner(store, failing(*busy[:2])))
    assert (job.state, job.attempts) == ("done", 3)
    job = finished(store, runner(store, failing(*busy)))
    assert job.state == "failed" and job.problem == busy[0].document()


def test_a_job_has_a_time_budget(store: JobStore) -> None:
    job = finished(store, runner(store, budget_s=0.2), part_s=60)
    assert (job.state, job.attempts) == ("failed", 1)
    assert job.problem is not None and job.problem.status == 504
    assert "0.2 s" in job.problem.detail


def test_a_job_without_its_upload_fails(store: JobStore) -> None:
    job = store.create({}, b"a clip", "clip.mp4")
    (store.folder / "spool" / job.id).unlink()
    meanwhile(runner(store), lambda: until(lambda: store.get(job.id).state == "failed"))
    problem = store.get(job.id).problem
    assert problem is not None and "send it again" in problem.detail


def test_two_jobs_run_at_once(store: JobStore) -> None:
    jobs = [store.create({"part_s": 0.2}, b"a clip", "clip.mp4").id for _ in range(3)]

    def states() -> list[str]:
        return [store.get(each).state for each in jobs]

    meanwhile(runner(store, at_once=2), lambda: until(lambda: states().count("running") == 2, 5))
    assert states().count("queued") == 1


def test_a_runner_outlives_trouble_with_the_store(store: JobStore, tmp_path: Path) -> None:
    away = tmp_path / "away"

    def move() -> None:
        store.folder.rename(away)
        time.sleep(0.3)
        away.rename(store.folder)
        job = store.create({}, b"a clip", "clip.mp4")
        until(lambda: store.get(job.id).state == "done")

    meanwhile(runner(store), move)
