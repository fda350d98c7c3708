"""Who gets a job: races between processes, and every order of events against a model."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
)

from serve.jobs.queue import MAX_ATTEMPTS, Claim, JobQueue
from serve.jobs.store import JobStore
from serve.problems import ProblemError
from tests.serve.jobs.job_samples import detection, new_store, point, start, take_all

LEASE_S, KEEP_S, MAX_JOBS = 30.0, 100.0, 3


def test_two_processes_never_take_the_same_job(tmp_path: Path) -> None:
    store = new_store(tmp_path, max_jobs_per_owner=50)
    created = [store.create({}, b"a clip", f"{index}.mp4").id for index in range(50)]
    ready = [tmp_path / "ready0", tmp_path / "ready1"]
    taken = [tmp_path / "taken0", tmp_path / "taken1"]
    workers = [start(take_all, store, ready[i], ready[1 - i], taken[i]) for i in (0, 1)]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    shares = [path.read_text().split() for path in taken]
    assert sorted(shares[0] + shares[1]) == sorted(created)
    assert min(len(share) for share in shares) > 0
    assert all((job := store.get(each)).state == "done" and job.attempts == 1 for each in created)


def test_a_lease_holds_as_long_as_it_is_renewed(tmp_path: Path) -> None:
    now = [1e9]
    store = new_store(tmp_path, clock=lambda: now[0])
    queue = JobQueue(store)
    store.create({}, b"a clip", "clip.mp4")
    claim = queue.claim()
    assert claim is not None
    for share in [0.05] * 50 + [0.6] * 3:
        assert queue.renew(claim)
        now[0] += share * store.lease_s
        assert queue.claim() is None
    assert queue.renew(claim)
    now[0] += store.lease_s
    second = queue.claim()
    assert second is not None and second.attempt == 2
    assert not queue.renew(claim) and queue.renew(second)


def test_a_job_whose_workers_die_ends_with_a_sentence(tmp_path: Path) -> None:
    now = [1e9]
    store = new_store(tmp_path, clock=lambda: now[0])
    queue = JobQueue(store)
    job = store.create({}, b"a clip", "clip.mp4")
    for attempt in range(1, MAX_ATTEMPTS + 1):
        claim = queue.claim()
        assert claim is not None and claim.attempt == attempt
        now[0] += store.lease_s
    assert queue.claim() is None
    ended = store.get(job.id)
    assert ended.state == "failed" and ended.problem is not None
    assert "broke off 3 times" in ended.problem.detail
    assert store.spool.stored() == set()


@dataclass
class Expected:
    """A job of the model."""

    state: str = "queued"
    attempts: int = 0
    free_at: float = 0.0
    ended_at: float | None = None
    timeline: list[int] = field(default_factory=list)

    def end(self, state: str, now: float) -> None:
        self.state, self.ended_at = state, now


class Jobs(RuleBasedStateMachine):
    """The store against a dictionary, with a clock that only moves when told to."""

    ids = Bundle("ids")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")  # where there is one, no disk is waited for
        self.folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.now = 1e9
        self.store: JobStore = new_store(
            self.folder,
            max_jobs=MAX_JOBS,
            keep_s=KEEP_S,
            lease_s=LEASE_S,
            clock=lambda: self.now,
        )
        self.queue = JobQueue(self.store)
        self.jobs: dict[str, Expected] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def unfinished(self) -> list[str]:
        return [each for each, job in self.jobs.items() if job.ended_at is None]

    def held(self, claim: Claim) -> Expected | None:
        job = self.jobs.get(claim.id)
        held = job is not None and job.state == "running" and job.attempts == claim.attempt
        return job if held else None

    @rule(target=ids)
    def create(self) -> str | MultipleResults[str]:
        if len(self.unfinished()) < MAX_JOBS:
            job_id = self.store.create({}, b"a clip", "clip.mp4").id
            self.jobs[job_id] = Expected(free_at=self.now)
            return job_id
        with pytest.raises(ProblemError, match="503"):
            self.store.create({}, b"a clip", "clip.mp4")
        return multiple()

    @rule(target=claims)
    def claim(self) -> Claim | MultipleResults[Claim]:
        claim = self.queue.claim()
        free = [each for each in self.unfinished() if self.jobs[each].free_at <= self.now]
        for each in [each for each in free if self.jobs[each].attempts == MAX_ATTEMPTS]:
            self.jobs[each].end("failed", self.now)
            free.remove(each)
        if not free:
            assert claim is None
            return multiple()
        job = self.jobs[free[0]]  # the oldest
        job.state, job.free_at, job.timeline = "running", self.now + LEASE_S, []
        job.attempts += 1
        assert claim == Claim(free[0], job.attempts, "clip.mp4", {})
        assert self.queue.content(claim) == b"a clip"
        return claim

    @rule(claim=claims, index=st.integers(0, 10**6), count=st.integers(1, 3))
    def append(self, claim: Claim, index: int, count: int) -> None:
        job = self.held(claim)
        points = range(index, index + count)
        held = self.queue.append(claim, [point(each) for each in points], 0.5)
        assert held == (job is not None)
        if job is not None:
            job.timeline += points
            job.free_at = self.now + LEASE_S

    @rule(claim=claims)
    def renew(self, claim: Claim) -> None:
        job = self.held(claim)
        assert self.queue.renew(claim) == (job is not None)
        if job is not None and job.free_at - self.now <= 2 / 3 * LEASE_S:
            job.free_at = self.now + LEASE_S

    @rule(claim=claims)
    def finish(self, claim: Claim) -> None:
        job = self.held(claim)
        assert self.queue.finish(claim, detection("clip.mp4", 2)) == (job is not None)
        if job is not None:
            job.end("done", self.now)
            job.timeline = [0, 1]

    @rule(claim=claims)
    def fail(self, claim: Claim) -> None:
        job = self.held(claim)
        problem = ProblemError(422, "This is no clip.", "no clip").document()
        assert self.queue.fail(claim, problem) == (job is not None)
        if job is not None:
            job.end("failed", self.now)

    @rule(claim=claims, pause_s=st.sampled_from([0.0, 5.0]))
    def give_back(self, claim: Claim, pause_s: float) -> None:
        job = self.held(claim)
        assert self.queue.give_back(claim, pause_s, None) == (job is not None)
        if job is not None and job.attempts == MAX_ATTEMPTS:
            job.end("failed", self.now)
        elif job is not None:
            job.state, job.free_at = "queued", self.now + pause_s

    @rule(job_id=ids)
    def delete(self, job_id: str) -> None:
        if self.jobs.pop(job_id, None) is None:
            with pytest.raises(ProblemError, match="404"):
                self.store.delete(job_id)
        else:
            self.store.delete(job_id)

    @rule(seconds=st.sampled_from([5.0, 15.0, 15.0, LEASE_S, KEEP_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def forget_old(self) -> None:
        self.store.forget_old()
        kept = {}
        for job_id, job in self.jobs.items():
            if job.ended_at is None or job.ended_at > self.now - KEEP_S:
                kept[job_id] = job
        self.jobs = kept

    @rule(job_id=ids)
    def nothing_is_found_that_is_gone(self, job_id: str) -> None:
        if job_id not in self.jobs:
            with pytest.raises(ProblemError, match="404"):
                self.store.get(job_id)

    @invariant()
    def it_is_as_expected(self) -> None:
        for job_id, expected in self.jobs.items():
            job = self.store.get(job_id)
            assert (job.state, job.attempts) == (expected.state, expected.attempts)
            assert [each.frame_index for each in job.timeline] == expected.timeline
            assert (job.ended_at is None) == (expected.ended_at is None)
            assert (job.detection is not None) == (expected.state == "done")
            assert (job.problem is not None) == (expected.state == "failed")
        assert self.store.spool.stored() == set(self.unfinished())


TestJobs = Jobs.TestCase
TestJobs.settings = settings(max_examples=100, stateful_step_count=50)
