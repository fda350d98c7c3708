"""A folder on a disk or behind any fsspec URL (s3://, gs://, memory://), with whole files only."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq

from genconvit.errors import UserError
from genconvit.files import json_text, replaced_file
from genconvit.storage import absolute, explained, is_url


class Folder:
    """Reads and writes files by name. A reader never sees half a file.

    Args:
        location: A path or a URL.

    Attributes:
        location: The absolute path or the URL.
    """

    def __init__(self, location: str | Path) -> None:
        self.location = absolute(location).rstrip("/")

    def __str__(self) -> str:
        return self.location

    def at(self, name: str) -> str:
        """The path or URL of a file or folder in it."""
        return f"{self.location}/{name}"

    def folder(self, name: str) -> Folder:
        """A folder in it."""
        return Folder(self.at(name))

    def has(self, name: str) -> bool:
        """Whether there is a file or folder of this name."""
        if not is_url(self.location):
            return Path(self.at(name)).exists()
        with explained(self.location):
            system, path = fsspec.core.url_to_fs(self.at(name))
            return bool(system.exists(path))

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        try:
            if not is_url(self.location):
                return Path(self.at(name)).read_bytes()
            with explained(self.location):
                system, path = fsspec.core.url_to_fs(self.at(name))
                with contextlib.suppress(FileNotFoundError):
                    content: bytes = system.cat_file(path)
                    return content
        except (FileNotFoundError, NotADirectoryError):
            pass
        return None

    def read_json(self, name: str, what: str) -> Any:
        """The content of a JSON file.

        Raises:
            UserError: It cannot be read, or is not JSON.
        """
        content = self.read(name)
        if content is None:
            raise UserError(f"{self.at(name)}: {what} cannot be read; check the path.")
        try:
            return json.loads(content)
        except ValueError as error:
            raise UserError(
                f"{self.at(name)}: {what} is damaged (not JSON); make it anew."
            ) from error

    def write_json(self, name: str, content: Any) -> None:
        """Writes indented JSON; NaN is refused, since other programs cannot read it."""
        with self.written(name) as aside:
            aside.write_text(json_text(content), encoding="utf-8")

    @contextlib.contextmanager
    def written(self, name: str) -> Iterator[Path]:
        """Yields a local path to write to; the file is there when the block ends well."""
        if not is_url(self.location):
            with replaced_file(Path(self.at(name))) as aside:
                yield aside
            return
        with tempfile.TemporaryDirectory(prefix="genconvit-") as folder:
            aside = Path(folder) / "file"
            yield aside
            with explained(self.location):
                system, path = fsspec.core.url_to_fs(self.at(name))
                if "file" in (system.protocol if isinstance(system.protocol, tuple) else ()):
                    system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
                system.put_file(str(aside), path)

    def names(self) -> list[str]:
        """All files below it, relative to it, sorted. Files that are being written are left out."""
        if not is_url(self.location):
            root = Path(self.location)
            found = [file.relative_to(root) for file in root.rglob("*") if file.is_file()]
            return sorted(file.as_posix() for file in found if not file.name.startswith("."))
        with explained(self.location):
            system, path = fsspec.core.url_to_fs(self.location)
            system.invalidate_cache()
            return sorted(file[len(path) :].lstrip("/") for file in system.find(path))

    def remove(self, name: str) -> None:
        """Removes a file or a folder with all that is in it; one that is not there is no error."""
        with explained(self.location):
            system, path = fsspec.core.url_to_fs(self.at(name))
            with contextlib.suppress(FileNotFoundError):
                system.rm(path, recursive=True)


def open_parquet(location: str) -> pq.ParquetFile:
    """Opens a Parquet file on a disk (mapped into memory) or behind a URL."""
    if not is_url(location):
        return pq.ParquetFile(location, memory_map=True)
    with explained(location):
        system, path = fsspec.core.url_to_fs(location)
        return pq.ParquetFile(system.open(path, "rb"))
