"""Detectors on local disks and behind any fsspec URL (s3://, gs://, memory://).

https://filesystem-spec.readthedocs.io
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec

from genconvit.errors import UserError


def is_url(location: str | Path) -> bool:
    """Whether a location is a URL and not a path of this machine."""
    return "://" in str(location)


def absolute(location: str | Path) -> str:
    """A location that means the same from any current folder of this machine."""
    return str(location) if is_url(location) else str(Path(location).resolve())


def read_remote(url: str, names: Sequence[str]) -> dict[str, bytes | None]:
    """Contents of files in a remote folder by name; None where there is no such file.

    Raises:
        UserError: The URL's kind is unknown here, or the store refuses.
    """
    with _explained(url):
        system, folder = fsspec.core.url_to_fs(url)
        paths = {name: f"{folder.rstrip('/')}/{name}" for name in names}
        return {n: system.cat_file(p) if system.isfile(p) else None for n, p in paths.items()}


@contextlib.contextmanager
def fetched(location: str | Path, names: Sequence[str]) -> Iterator[Path]:
    """A local folder with the files of a location: itself, or a copy that goes with the block.

    Args:
        location: A local folder or a URL.
        names: The files to fetch; those that are not there are left out.

    Raises:
        UserError: The URL's kind is unknown here, or the store refuses.
    """
    if not is_url(location):
        yield Path(location)
        return
    with tempfile.TemporaryDirectory(prefix="genconvit-") as copy:
        with _explained(str(location)):
            system, folder = fsspec.core.url_to_fs(str(location))
            for name in names:
                path = f"{folder.rstrip('/')}/{name}"
                if system.isfile(path):
                    system.get_file(path, str(Path(copy, name)))
        yield Path(copy)


def upload(folder: Path, url: str, last: str) -> None:
    """Copies the files of a local folder to a remote one.

    A store cannot rename a folder, so `last` is removed first and comes last: a reader who finds it
    finds the whole.

    Raises:
        UserError: The URL's kind is unknown here, or the store refuses.
    """
    with _explained(url):
        system, remote = fsspec.core.url_to_fs(url)
        remote = remote.rstrip("/")
        system.makedirs(remote, exist_ok=True)
        if system.isfile(f"{remote}/{last}"):
            system.rm_file(f"{remote}/{last}")
        files = sorted(folder.iterdir(), key=lambda file: file.name == last)
        for file in files:
            system.put_file(str(file), f"{remote}/{file.name}")


@contextlib.contextmanager
def _explained(url: str) -> Iterator[Any]:
    try:
        yield
    except ImportError as error:
        raise UserError(f"{url}: {error}.") from error
    except ValueError as error:
        raise UserError(f"{url}: fsspec knows no such kind of address ({error}).") from error
    except OSError as error:
        raise UserError(f"{url} cannot be read or written ({error}); check it.") from error
