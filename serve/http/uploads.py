"""The files of a request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from genconvit.wording import plural
from serve.problems import ProblemError

FIELD = "file"
FIELDS = 8
"""Other fields of a form, which are read and left alone."""
NAME_LENGTH = 255


@dataclass(frozen=True)
class Upload:
    """One file.

    Attributes:
        name: As the client calls it; for the answer alone.
        content: uint8 (N,); Ray hands it on without copying it.
    """

    name: str
    content: np.ndarray


def documented(several: bool = False) -> dict[str, Any]:
    """The body of a request, for the OpenAPI document."""
    file: dict[str, Any] = {"type": "string", "format": "binary"}
    if several:
        file = {"type": "array", "items": file, "minItems": 1}
    schema = {"type": "object", "properties": {FIELD: file}, "required": [FIELD]}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


async def read_files(request: Request, most: int) -> list[Upload]:
    """The files in the multipart field `file`, in their order.

    Args:
        request: Its body has not been read; how large it may be is watched elsewhere.
        most: Files.

    Raises:
        ProblemError: It has no file, or too many.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ProblemError(
            415, "send the file as multipart/form-data, in the field `file`.", "not multipart"
        )
    async with _parsed(request, most) as form:
        files = form.getlist(FIELD)
        if not files or not all(isinstance(file, UploadFile) for file in files):
            raise ProblemError(422, "send at least one file in the field `file`.", "no file")
        if len(files) > most:
            raise _too_many(most)
        return [await _read(file) for file in files if isinstance(file, UploadFile)]


async def read_file(request: Request) -> Upload:
    """The one file of a request.

    Raises:
        ProblemError: There is none, it is empty, or there is more than one.
    """
    upload = (await read_files(request, 1))[0]
    if not len(upload.content):
        raise ProblemError(422, f"{upload.name} is empty; send it again.", "empty")
    return upload


@asynccontextmanager
async def _parsed(request: Request, most: int) -> AsyncIterator[FormData]:
    try:
        form = await request.form(max_files=most + 1, max_fields=FIELDS)
    except HTTPException as error:
        if str(error.detail).startswith("Too many files"):
            raise _too_many(most) from None
        raise
    except ValueError:  # of a codec that the request names, for names that are not in it
        raise ProblemError(
            422, "its headers cannot be read; send file names in UTF-8.", "protocol"
        ) from None
    try:
        yield form
    finally:
        await form.close()


def _too_many(most: int) -> ProblemError:
    return ProblemError(413, f"send at most {plural(most, 'file')} a request.", "too many files")


async def _read(file: UploadFile) -> Upload:
    # Some codecs that a request may name give half characters, which are in no answer.
    name = (file.filename or "upload")[:NAME_LENGTH].encode(errors="replace").decode()
    return Upload(name, np.frombuffer(await file.read(), np.uint8))
