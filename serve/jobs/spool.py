"""The uploads of jobs that have not ended, one file each."""

from __future__ import annotations

import os
import time
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

ORPHAN_S = 600.0
"""A file without a job is left alone for so long, seconds: its job may be about to be created."""


@dataclass(frozen=True)
class Spool:
    """A folder that only the server's own user can read."""

    folder: Path

    def create(self) -> None:
        """Makes the folder where there is none."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)

    def write(self, job_id: str, content: bytes | memoryview) -> None:
        """Keeps an upload: all of it, on the disk, or nothing.

        Raises:
            OSError: It cannot be written, such as on a full disk.
        """
        aside = self._aside(job_id)
        try:
            handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb", buffering=0) as file:
                rest = memoryview(content)
                while rest:  # a write may be cut short
                    rest = rest[file.write(rest) or 0 :]
                os.fsync(handle)
            aside.replace(self._path(job_id))
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def read(self, job_id: str) -> bytes:
        """An upload.

        Raises:
            FileNotFoundError: There is none.
        """
        return self._path(job_id).read_bytes()

    def erase(self, job_id: str) -> None:
        """Deletes an upload where there is one."""
        self._path(job_id).unlink(missing_ok=True)

    def stored(self) -> set[str]:
        """Ids of the jobs whose uploads are here, and `.ID` of what is being written."""
        return {path.name for path in self.folder.iterdir()}

    def erase_orphans(self, names: Set[str]) -> None:
        """Deletes files that a process left behind when it died.

        Args:
            names: Of `stored`, those that belong to no job.
        """
        for path in (self.folder / name for name in names):
            try:
                if path.stat().st_mtime < time.time() - ORPHAN_S:
                    path.unlink()
            except FileNotFoundError:  # another process was faster
                continue

    def _path(self, job_id: str) -> Path:
        return self.folder / job_id

    def _aside(self, job_id: str) -> Path:
        return self.folder / f".{job_id}"
