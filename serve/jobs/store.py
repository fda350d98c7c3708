"""The store of long jobs, as clients see it."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from genconvit.answers import Detection, Job, JobState, Problem
from genconvit.config import ServeSettings
from genconvit.errors import UserError
from genconvit.verdict import TimelinePoint
from genconvit.wording import plural
from serve.jobs.database import Database, as_problem
from serve.jobs.spool import Spool
from serve.problems import ProblemError

LEASE_S = 15.0
"""A job whose worker gave no sign of life for so long is taken by another one, seconds."""
FULL_S = 60.0
"""After so long one may try again where too many jobs wait, seconds."""

POINTS = TypeAdapter(list[TimelinePoint])
UNFINISHED = "ended_at IS NULL"


@dataclass(frozen=True)
class JobStore:
    """Jobs in a folder, shared by any number of threads and processes.

    All methods block for milliseconds; `asyncio.to_thread` keeps them out of an event loop. Each
    raises ProblemError 503 where the store cannot be used.

    Attributes:
        folder: `jobs.db`, and the uploads in `spool`.
        max_jobs: Jobs that wait or run; further ones are refused.
        max_jobs_per_owner: The same of one owner; who is no owner counts as one.
        keep_s: Jobs are forgotten so long after their end, seconds.
        lease_s: A worker has a job for so long after its last sign of life, seconds.
        clock: Seconds since 1970, nearly the same on all machines that share the folder.
    """

    folder: Path
    max_jobs: int = 100
    max_jobs_per_owner: int = 25
    keep_s: float = 3600.0
    lease_s: float = LEASE_S
    clock: Callable[[], float] = time.time

    @property
    def database(self) -> Database:
        """Everything but the uploads."""
        return Database(self.folder / "jobs.db")

    @property
    def spool(self) -> Spool:
        """The uploads."""
        return Spool(self.folder / "spool")

    def prepare(self) -> None:
        """Makes the folder what it should be; once, before the store is used.

        Raises:
            UserError: The folder cannot be used, or its database is damaged.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.spool.create()
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot hold the jobs ({error.strerror}); choose another "
                "serve.state."
            ) from error
        self.database.create()

    def refuse_when_full(self, owner: str | None = None) -> None:
        """Says whether a job would be taken, before its upload is read.

        Raises:
            ProblemError: As of `create`.
        """
        with self.database.reading() as db:
            self._refuse_when_full(db, owner)

    def create(
        self,
        options: Mapping[str, Any],
        content: bytes | memoryview,
        name: str,
        owner: str | None = None,
    ) -> Job:
        """Queues a job.

        Args:
            options: What the work needs to know, as JSON can hold it.
            content: The uploaded file.
            name: What the client calls it.
            owner: Name of the API key; only it will find the job.

        Raises:
            ProblemError: 429 where the owner has too many jobs that wait or run; 503 where there
                are too many in all, or the upload cannot be stored.
        """
        self.refuse_when_full(owner)  # before the upload is written in vain
        job_id = secrets.token_urlsafe(16)
        now = self.clock()
        try:
            with as_problem():
                self.spool.write(job_id, content)
            with self.database.writing() as db:
                self._refuse_when_full(db, owner)
                db.execute(
                    "INSERT INTO jobs (id, owner, state, progress, attempts, created_at, free_at, "
                    "name, options) VALUES (?, ?, 'queued', 0, 0, ?, ?, ?, ?)",
                    (job_id, owner, now, now, name, json.dumps(dict(options))),
                )
        except BaseException:
            self.spool.erase(job_id)
            raise
        return self.get(job_id, owner)

    def get(self, job_id: str, owner: str | None = None) -> Job:
        """A job as it is now, with the timeline so far.

        Raises:
            ProblemError: 404 where there is none of this owner.
        """
        with self.database.reading() as db:
            query = "SELECT * FROM jobs WHERE id = ? AND owner IS ?"
            row = db.execute(query, (job_id, owner)).fetchone()
            if row is None:
                raise self._no_such_job()
            parts = db.execute("SELECT points FROM parts WHERE job = ? ORDER BY rowid", (job_id,))
            timeline = [point for part in parts for point in POINTS.validate_json(part[0])]
        detection = row["detection"] and Detection.model_validate_json(row["detection"])
        return Job(
            id=job_id,
            state=row["state"],
            progress=row["progress"],
            created_at=_datetime(row["created_at"]),
            started_at=row["started_at"] and _datetime(row["started_at"]),
            ended_at=row["ended_at"] and _datetime(row["ended_at"]),
            attempts=row["attempts"],
            timeline=detection.timeline if detection else timeline,
            detection=detection,
            problem=row["problem"] and Problem.model_validate_json(row["problem"]),
        )

    def delete(self, job_id: str, owner: str | None = None) -> None:
        """Erases a job in any state at once, with upload, timeline and result.

        A worker that has it is refused from then on, and stops.

        Raises:
            ProblemError: 404 where there is none of this owner.
        """
        with self.database.writing() as db:
            query = "DELETE FROM jobs WHERE id = ? AND owner IS ?"
            if not db.execute(query, (job_id, owner)).rowcount:
                raise self._no_such_job()
            # Before the end of the transaction: on a full disk, that needs the space.
            self.spool.erase(job_id)

    def counts(self) -> dict[JobState, int]:
        """How many jobs there are, by state."""
        with self.database.reading() as db:
            rows = db.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall()
        return {row[0]: row[1] for row in rows}

    def forget_old(self) -> None:
        """Deletes what nobody may ask for any more, and uploads that a dead process left."""
        ended = "FROM jobs WHERE ended_at <= ?"
        before = self.clock() - self.keep_s
        with as_problem():
            stored = self.spool.stored()  # first, so that no job in the list below is missed
        with self.database.reading() as db:
            old = db.execute(f"SELECT 1 {ended} LIMIT 1", (before,)).fetchone()
            rows = db.execute(f"SELECT id FROM jobs WHERE {UNFINISHED}").fetchall()
        with as_problem():
            self.spool.erase_orphans(stored - {row["id"] for row in rows})
        if old is not None:
            with self.database.writing() as db:
                db.execute(f"DELETE {ended}", (before,))

    def _refuse_when_full(self, db: sqlite3.Connection, owner: str | None) -> None:
        unfinished = f"SELECT count(*) FROM jobs WHERE {UNFINISHED}"
        own = db.execute(f"{unfinished} AND owner IS ?", (owner,)).fetchone()[0]
        if own >= self.max_jobs_per_owner:
            whose = "this server" if owner is None else f"the key {owner}"
            raise ProblemError(
                429,
                f"{whose} has {plural(own, 'unfinished job')}, which is the limit; try again when "
                "one has ended.",
                "jobs of a key",
                retry_after_s=FULL_S,
            )
        count = db.execute(unfinished).fetchone()[0]
        if count >= self.max_jobs:
            raise ProblemError(
                503,
                f"{count} jobs wait or run already, and no more are taken; try again later.",
                "too many jobs",
                retry_after_s=FULL_S,
            )

    def _no_such_job(self) -> ProblemError:
        return ProblemError(
            404,
            "There is no such job: it was deleted, was forgotten "
            f"{self.keep_s:.0f} s after its end, or belongs to another key.",
            "no such job",
        )


def open_store(settings: ServeSettings) -> JobStore:
    """The store that the settings name, ready for use.

    Raises:
        UserError: No folder is named, it cannot be used, or its database is damaged.
    """
    if settings.state is None:
        raise UserError("the jobs have no folder; set serve.state.")
    if "://" in settings.state:
        raise UserError(f"serve.state={settings.state} is an address; give a folder.")
    store = JobStore(
        Path(settings.state).absolute(),
        max_jobs=settings.max_jobs,
        max_jobs_per_owner=settings.max_jobs_per_key,
        keep_s=settings.keep_jobs_s,
    )
    store.prepare()
    return store


def _datetime(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
