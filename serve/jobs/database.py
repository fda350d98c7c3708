"""The database of the jobs' store: SQLite in one file."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from genconvit.errors import UserError
from serve.problems import ProblemError

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the tables below; raised with every change."""

# `free_at` is when a job that has not ended may be taken: the end of the lease of one that runs,
# the end of the pause of one that broke off. Large columns stand last, where a scan skips them.
TABLES = (
    """CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        owner TEXT,
        state TEXT NOT NULL,
        progress REAL NOT NULL,
        attempts INTEGER NOT NULL,
        created_at REAL NOT NULL,
        started_at REAL,
        ended_at REAL,
        free_at REAL NOT NULL,
        name TEXT NOT NULL,
        options TEXT NOT NULL,
        problem TEXT,
        detection TEXT
    )""",
    "CREATE INDEX unfinished ON jobs (created_at) WHERE ended_at IS NULL",
    """CREATE TABLE parts (
        job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
        points TEXT NOT NULL
    )""",
    "CREATE INDEX parts_of_job ON parts (job)",
    f"PRAGMA user_version = {VERSION}",
)
BUSY_S = 30.0  # another process holds the lock for milliseconds; a network folder can be slow
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Database:
    """Transactions on the tables, from any thread and any process.

    Each transaction has a connection of its own, which takes a tenth of a millisecond: nothing is
    shared between threads, or inherited by a process. The rollback journal is kept where others
    turn on the write-ahead log, for two reasons: the log needs memory that only processes of one
    machine share, and what was deleted stays readable in it.
    """

    path: Path

    def create(self) -> None:
        """Makes the tables where there are none, and looks whether the file is sound.

        Raises:
            UserError: The file is damaged, of another version, or cannot be opened.
        """
        try:
            # Made here, so that nobody else can read it; SQLite's journal has the same mode.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            with self._connection() as db, _transaction(db, "IMMEDIATE"):
                self._create_tables(db)
                found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be opened ({error.strerror}); choose another serve.state."
            ) from error
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{self.path} cannot be used ({error}); look whether its disk is full or has no "
                "locks, or choose another serve.state."
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error
        if found != "ok":
            raise self._damaged(found.splitlines()[-1])

    def _create_tables(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        empty = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if version == 0 and empty:
            for statement in TABLES:
                db.execute(statement)
        elif version != VERSION:
            raise UserError(
                f"{self.path} was written by another version of this program; choose another "
                "serve.state, or delete the file: its jobs are then lost."
            )

    def _damaged(self, what: str) -> UserError:
        return UserError(
            f"{self.path} is damaged ({what}); delete the file, or choose another serve.state: "
            "its jobs are lost and must be sent again."
        )

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees one state of the tables and disturbs nobody.

        Raises:
            ProblemError: The store cannot be used; 503.
        """
        with as_problem(), self._connection() as db, _transaction(db, "DEFERRED"):
            yield db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is alone: it is kept as a whole, or undone when the block raises.

        Raises:
            ProblemError: The store cannot be used; 503.
        """
        with as_problem(), self._connection() as db, _transaction(db, "IMMEDIATE"):
            yield db

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        # "rw": where the file is not there, a new one would be a store that nobody else looks at.
        uri = f"file:{quote(str(self.path))}?mode=rw"
        with closing(sqlite3.connect(uri, BUSY_S, isolation_level=None, uri=True)) as db:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA secure_delete = ON")  # deleted is overwritten, not only unlinked
            yield db


@contextmanager
def _transaction(db: sqlite3.Connection, kind: str) -> Iterator[None]:
    db.execute(f"BEGIN {kind}")
    with db:  # commits or rolls back
        yield


@contextmanager
def as_problem() -> Iterator[None]:
    """Turns what goes wrong with files and the database into an answer; the log says what it was.

    Raises:
        ProblemError: 503.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        logger.error(
            "the jobs' store cannot be used: %s (the folder serve.state must be there on every "
            "node, and writable)",
            error,
        )
        raise _no_space() if _is_full(error) else _not_usable() from error


def _is_full(error: OSError | sqlite3.Error) -> bool:
    if isinstance(error, OSError):
        return error.errno in NO_SPACE
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _no_space() -> ProblemError:
    detail = "There is no space left for jobs; try again later, or send a smaller file."
    return ProblemError(503, detail, "no space", retry_after_s=60)


def _not_usable() -> ProblemError:
    detail = "Jobs cannot be stored or found just now; try again later."
    return ProblemError(503, detail, "no store", retry_after_s=10)
