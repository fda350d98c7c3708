"""Writing so that a reader never sees half a file."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from genconvit.errors import UserError

LOCK = ".lock"


@contextmanager
def replaced_file(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Yields a path to write to, which takes the place of `path` when the block ends well.

    Its permissions are `mode` less what the umask takes away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        aside.chmod(mode & ~_umask())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Yields a new folder to write to, which takes the place of `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield aside
        aside.chmod(0o777 & ~_umask())
        old = aside.with_name(aside.name + ".old")
        if path.exists():
            path.replace(old)
        try:
            aside.replace(path)
        except OSError:
            if old.exists():
                old.replace(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def locked(folder: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Keeps other processes out of a folder, which is there only while something is in it.

    The lock goes with the process, however that ends. A file system without locks has none.

    Args:
        folder: The folder.
        busy: Called where another process holds it; unless this raises, it is waited for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy()
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass
        try:
            yield
        finally:
            with suppress(FileNotFoundError):
                if [each.name for each in folder.iterdir()] == [LOCK]:
                    shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON; NaN is refused, since other programs cannot read it."""
    with replaced_file(path) as aside:
        aside.write_text(json_text(content), encoding="utf-8")


def json_text(content: Any) -> str:
    """Indented JSON; NaN is refused, since other programs cannot read it."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False, default=str)
    return text + "\n"


def read_json(path: Path, what: str) -> Any:
    """Reads a JSON file.

    Args:
        path: The file.
        what: What it should be, for the message, such as "a detector's description".

    Raises:
        UserError: It cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {what} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise UserError(f"{path}: {what} is damaged (not JSON); make it anew.") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
