"""Files of a request, read from the disk as they are sent."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, cast

from genconvit.errors import ClipError

Content = str | Path | bytes
"""A file's path, or what is in it."""
OnUpload = Callable[[int, int], None]
"""Takes how many bytes of the files are sent, and of how many; a repeated request begins anew."""


class Uploads:
    """The files of one request.

    Args:
        tell: Told of what is read to be sent.

    Attributes:
        sent: Bytes that were read to be sent.
        total: Bytes of all files.
    """

    def __init__(self, tell: OnUpload | None) -> None:
        self.sent = self.total = 0
        self._tell = tell

    def open(self, content: Content, opened: ExitStack) -> tuple[str, BinaryIO]:
        """Name and content of a form's field.

        Raises:
            ClipError: The file cannot be read.
        """
        if isinstance(content, bytes):
            self.total += len(content)
            return "upload", self._told(io.BytesIO(content), "upload")
        path = Path(content)
        try:
            file = opened.enter_context(path.open("rb"))
        except OSError as error:
            raise ClipError(f"{path} cannot be read ({error.strerror}).", "missing") from error
        self.total += os.fstat(file.fileno()).st_size
        name = path.name.encode(errors="replace").decode()
        return name, self._told(file, str(path))

    def count(self, size: int) -> None:
        """So many more bytes are on their way."""
        self.sent += size
        if self._tell is not None and size:
            self._tell(self.sent, self.total)

    def _told(self, file: BinaryIO, name: str) -> BinaryIO:
        return cast(BinaryIO, _Told(file, name, self))  # it has what httpx asks of one


class _Told(io.BufferedIOBase):
    """A file that tells of what is read of it."""

    def __init__(self, file: BinaryIO, name: str, uploads: Uploads) -> None:
        self._file, self._name, self._uploads = file, name, uploads

    def read(self, size: int | None = -1) -> bytes:
        try:
            chunk = self._file.read(-1 if size is None else size)
        except OSError as error:
            raise ClipError(f"{self._name} cannot be read ({error.strerror}).") from error
        self._uploads.count(len(chunk))
        return chunk

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
