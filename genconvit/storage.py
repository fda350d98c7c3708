"""Detectors on local disks and behind any fsspec URL (s3://, gs://, memory://).

https://filesystem-spec.readthedocs.io
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from genconvit.errors import UserError

_EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}
"""Of this package, by kind of address."""


def is_url(location: str | Path) -> bool:
    """Whether a location is a URL and not a path of this machine."""
    return "://" in str(location)


def absolute(location: str | Path) -> str:
    """A location that means the same from any current folder of this machine."""
    return str(location) if is_url(location) else str(Path(location).resolve())


def read_remote(url: str, name: str) -> bytes | None:
    """The content of a file in a remote folder; None where there is no such file.

    Raises:
        UserError: The URL's kind is unknown here, or the store refuses.
    """
    with explained(url):
        system, folder = _open(url)
        try:
            content: bytes = system.cat_file(f"{folder}/{name}")
        except FileNotFoundError:
            return None
        return content


@contextlib.contextmanager
def fetched(location: str | Path, name: str) -> Iterator[Path]:
    """A local file with the content of one in a folder: itself, or a copy that goes with the block.

    Args:
        location: A local folder or a URL.
        name: The file; where it is not there, neither is the path that is given.

    Raises:
        UserError: The URL's kind is unknown here, or the store refuses.
    """
    if not is_url(location):
        yield Path(location) / name
        return
    with tempfile.TemporaryDirectory(prefix="genconvit-") as folder:
        copy = Path(folder) / name
        with explained(str(location)):
            system, remote = _open(str(location))
            with contextlib.suppress(FileNotFoundError):
                if system.isdir(f"{remote}/{name}"):  # a clip may be a folder of frames
                    system.get(f"{remote}/{name}", str(copy), recursive=True)
                else:
                    system.get_file(f"{remote}/{name}", str(copy))
        yield copy


def upload(folder: Path, url: str, last: str) -> None:
    """Copies the files of a local folder to a remote one.

    A store cannot rename a folder, so `last` is removed first and comes last: a reader who finds it
    finds the whole.

    Raises:
        UserError: The URL's kind is unknown here, or the store refuses.
    """
    with explained(url):
        system, remote = _open(url)
        if isinstance(system, LocalFileSystem):  # stores have no folders, and a bucket is asked for
            system.makedirs(remote, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            system.rm_file(f"{remote}/{last}")
        for file in sorted(folder.iterdir(), key=lambda file: file.name == last):
            system.put_file(str(file), f"{remote}/{file.name}")


def _open(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the folder in it."""
    system, folder = fsspec.core.url_to_fs(url)
    return system, folder.rstrip("/")


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Makes one sentence of what a store raises.

    Raises:
        UserError: The URL's kind is unknown here, or the store refuses.
    """
    try:
        yield
    except ImportError as error:
        extra = _EXTRAS.get(url.split("://")[0])
        remedy = f"; run pip install 'genconvit[{extra}]'" if extra else ""
        raise UserError(f"{url} needs a package that is not here ({error}){remedy}.") from error
    except UserError:
        raise
    except Exception as error:  # every store has errors of its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{url} cannot be read or written ({reason}); check it.") from error


def list_files(url: str) -> dict[str, int]:
    """Every file below a remote folder, at any depth, with its bytes.

    Returns:
        Sizes by name relative to the folder, with forward slashes. A URL that is itself a file
        gives one with the name "". Nothing where there is nothing.

    Raises:
        UserError: The URL's kind is unknown here, or the store refuses.
    """
    with explained(url):
        system, folder = _open(url)
        found = system.find(folder, detail=True)
    return {
        name[len(folder) :].lstrip("/"): int(about.get("size") or 0)
        for name, about in found.items()
    }
