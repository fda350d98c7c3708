"""The jobs' store as those see it who do the work."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from genconvit.answers import Detection, JobState, Problem
from genconvit.verdict import TimelinePoint
from serve.jobs.database import as_problem
from serve.jobs.store import POINTS, UNFINISHED, JobStore
from serve.problems import ProblemError

MAX_ATTEMPTS = 3

_HELD = "id = ? AND attempts = ? AND state = 'running'"


@dataclass(frozen=True)
class Claim:
    """A job in the hands of one worker; the store takes its results as long as it has it.

    Attributes:
        id: Of the job.
        attempt: From 1. It tells this claim from that of a worker before or after.
        name: What the client called the file.
        options: As they were given to `create`.
    """

    id: str
    attempt: int
    name: str
    options: dict[str, Any]


@dataclass(frozen=True)
class JobQueue:
    """Hands each job to one worker at a time.

    As those of the store, all methods block for milliseconds, and raise ProblemError 503 where the
    store cannot be used.
    """

    store: JobStore

    def claim(self) -> Claim | None:
        """Takes the oldest job that waits, or whose worker died; its timeline begins anew."""
        now = self.store.clock()
        free = f"FROM jobs WHERE {UNFINISHED} AND free_at <= ?"
        with self.store.database.reading() as db:  # the usual case, which must cost next to nothing
            if db.execute(f"SELECT 1 {free} LIMIT 1", (now,)).fetchone() is None:
                return None
        with self.store.database.writing() as db:
            spent = self._end_spent(db, free, now)
            query = f"SELECT id, attempts, name, options {free} ORDER BY created_at, rowid"
            row = db.execute(query, (now,)).fetchone()
            claim = None if row is None else self._begin(db, row, now)
        for each in spent:
            self._erase_upload(each)
        return claim

    def _end_spent(self, db: sqlite3.Connection, free: str, now: float) -> list[Claim]:
        """Ends the jobs whose worker died in the last attempt."""
        query = f"SELECT id, attempts, name {free} AND attempts >= ?"
        rows = db.execute(query, (now, MAX_ATTEMPTS))
        spent = [Claim(job_id, attempt, name, {}) for job_id, attempt, name in rows]
        for each in spent:
            self._end(db, each, "failed", None, _broke_off())
        return spent

    def _begin(self, db: sqlite3.Connection, row: sqlite3.Row, now: float) -> Claim:
        claim = Claim(row["id"], row["attempts"] + 1, row["name"], json.loads(row["options"]))
        db.execute("DELETE FROM parts WHERE job = ?", (claim.id,))
        db.execute(
            "UPDATE jobs SET state = 'running', progress = 0, attempts = ?, free_at = ?, "
            "started_at = coalesce(started_at, ?) WHERE id = ?",
            (claim.attempt, now + self.store.lease_s, now, claim.id),
        )
        return claim

    def content(self, claim: Claim) -> bytes:
        """The upload.

        Raises:
            ProblemError: 500 where it is lost.
        """
        with as_problem():
            try:
                return self.store.spool.read(claim.id)
            except FileNotFoundError:
                detail = "The upload of this job was lost; send it again."
                raise ProblemError(500, detail, "upload lost") from None

    def renew(self, claim: Claim) -> bool:
        """A sign of life; cheap enough for every second.

        Returns:
            Whether the worker still has the job. It has not when the job was deleted, or another
            worker took it.
        """
        now = self.store.clock()
        with self.store.database.reading() as db:
            row = db.execute(
                f"SELECT free_at FROM jobs WHERE {_HELD}", (claim.id, claim.attempt)
            ).fetchone()
        if row is None:
            return False
        if row["free_at"] - now > 2 / 3 * self.store.lease_s:
            return True
        with self.store.database.writing() as db:
            return self._update(db, claim, "free_at = ?", now + self.store.lease_s)

    def append(self, claim: Claim, points: Sequence[TimelinePoint], progress: float) -> bool:
        """Adds to the timeline so far.

        Args:
            claim: The job.
            points: What is new.
            progress: Share of the frames that were looked at, 0 to 1.

        Returns:
            As `renew`, which this is too.
        """
        end = self.store.clock() + self.store.lease_s
        with self.store.database.writing() as db:
            progress = min(max(progress, 0.0), 1.0)
            held = self._update(db, claim, "progress = ?, free_at = ?", progress, end)
            if held and points:
                text = POINTS.dump_json(list(points)).decode()
                db.execute("INSERT INTO parts (job, points) VALUES (?, ?)", (claim.id, text))
        return held

    def finish(self, claim: Claim, detection: Detection) -> bool:
        """Ends a job with a result; returns as `renew`."""
        return self._end_held(claim, "done", detection, None)

    def fail(self, claim: Claim, problem: Problem) -> bool:
        """Ends a job without a result; returns as `renew`. The timeline so far stays."""
        return self._end_held(claim, "failed", None, problem)

    def give_back(self, claim: Claim, pause_s: float, problem: Problem | None) -> bool:
        """Queues a job again after a failure that may pass, or ends it after the last attempt.

        Args:
            claim: The job.
            pause_s: Nobody takes it for so long, seconds.
            problem: What it ends with; None says that it broke off.

        Returns:
            As `renew`.
        """
        if claim.attempt >= MAX_ATTEMPTS:
            return self.fail(claim, problem or _broke_off())
        with self.store.database.writing() as db:
            free_at = self.store.clock() + pause_s
            return self._update(db, claim, "state = 'queued', free_at = ?", free_at)

    def _end_held(
        self, claim: Claim, state: JobState, detection: Detection | None, problem: Problem | None
    ) -> bool:
        with self.store.database.writing() as db:
            held = self._end(db, claim, state, detection, problem)
        if held:
            self._erase_upload(claim)
        return held

    def _end(
        self,
        db: sqlite3.Connection,
        claim: Claim,
        state: JobState,
        detection: Detection | None,
        problem: Problem | None,
    ) -> bool:
        result = (detection and detection.model_dump_json(), problem and problem.model_dump_json())
        held = self._update(
            db,
            claim,
            "state = ?, ended_at = ?, detection = ?, problem = ?",
            *(state, self.store.clock(), *result),
        )
        if held and detection:  # which holds the whole timeline
            db.execute("UPDATE jobs SET progress = 1 WHERE id = ?", (claim.id,))
            db.execute("DELETE FROM parts WHERE job = ?", (claim.id,))
        return held

    def _update(self, db: sqlite3.Connection, claim: Claim, assignments: str, *values: Any) -> bool:
        """Changes a job if it is still in these hands, and says whether it was."""
        query = f"UPDATE jobs SET {assignments} WHERE {_HELD}"
        return db.execute(query, (*values, claim.id, claim.attempt)).rowcount == 1

    def _erase_upload(self, claim: Claim) -> None:
        with as_problem():
            self.store.spool.erase(claim.id)


def _broke_off() -> Problem:
    return ProblemError(
        500,
        f"This job broke off {MAX_ATTEMPTS} times and is not tried again; tell who runs this "
        "server its id, or send another file.",
        "broke off",
    ).document()
