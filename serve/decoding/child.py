"""The process that decodes, as its parent sees it: started, asked, listened to and ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from serve.decoding.wire import (
    ANSWER,
    MAX_HEADER_BYTES,
    Answer,
    ClipRequest,
    CropsRequest,
    Ready,
    Refusal,
    Start,
)

DECODER = (sys.executable, "-P", "-m", "serve.decoding.decoder")

START_S = 60
"""It is ready in half a second; longer only where the machine is overloaded."""

PATIENCE_S = 2.0
"""One that has closed its socket is about to end; its memory takes a moment to be freed."""

Raw = bytes | memoryview | NDArray[np.uint8]
"""A file's content; an array is one-dimensional."""

CHUNK = 1_000_000
"""Bytes that are copied at a time, so that other requests need not wait for a large file."""

# One thread: processes run side by side (see genconvit.data.video), and the address space that
# further ones reserve counts as memory. What else the parent's environment holds, such as keys of
# a cloud, is not for a process that reads untrusted files.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "OPENCV_IO_MAX_IMAGE_PIXELS": str(2**27),
}
_INHERITED = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "GENCONVIT_DETECTOR_FILE")


class ChildError(Exception):
    """The process answers what it should not, or has ended."""


class ChildEndedError(ChildError):
    """The process has ended."""


class NoChildError(Exception):
    """The process cannot be started. The message is a sentence for the one who runs the server."""


class Child:
    """One process that decodes. It is asked one thing at a time, by whoever holds it.

    Args:
        command: What to run.

    Raises:
        NoChildError: It cannot be started.
    """

    def __init__(self, command: Sequence[str] = DECODER) -> None:
        self.served = 0
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        package = str(Path(__file__).parents[2])
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join([package, *filter(None, sys.path)])
        try:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                cwd="/",
                env=environment | _ENVIRONMENT,
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
        except OSError as error:
            self._socket.close()
            raise NoChildError(f"the process that decodes does not start: {error}") from error
        finally:
            theirs.close()

    async def get_ready(self, start: Start) -> None:
        """Waits until it takes requests.

        Raises:
            NoChildError: It will not.
        """
        try:
            async with asyncio.timeout(START_S):
                await self.ask(start)
                answer = await self.header()
        except (ChildError, TimeoutError) as error:
            status = await self.end(PATIENCE_S)
            raise NoChildError(
                f"the process that decodes does not start (exit status {status})"
            ) from error
        except BaseException:
            await self.end()
            raise
        if not isinstance(answer, Ready):
            await self.end()
            detail = answer.detail if isinstance(answer, Refusal) else f"it says {answer.answer}"
            raise NoChildError(f"the process that decodes does not start: {detail}")

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    async def ask(
        self,
        request: Start | ClipRequest | CropsRequest,
        contents: Sequence[Raw] = (),
    ) -> None:
        """Hands it a request and, one behind the other, the bytes that go with it.

        Raises:
            ChildEndedError: It has ended.
        """
        files = []
        try:
            for parts in ([request.model_dump_json().encode()], contents):
                files.append(os.memfd_create("request"))
                await _write(files[-1], parts)
            socket.send_fds(self._socket, [b"?"], files)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChildEndedError("it has ended") from error
        finally:
            for file in files:
                os.close(file)

    async def header(self) -> Answer:
        """What it answers next.

        Raises:
            ChildError: It has ended, or says nothing that makes sense.
        """
        length = int.from_bytes(await self.read(4), "big")
        if length > MAX_HEADER_BYTES:
            raise ChildError(f"it announces a header of {length} bytes")
        text = await self.read(length)
        try:
            return ANSWER.validate_json(text.tobytes())
        except ValidationError as error:
            raise ChildError(f"its header has {error.error_count()} faults") from error

    async def read(self, length: int) -> NDArray[np.uint8]:
        """So many of the bytes that it sends next.

        Raises:
            ChildEndedError: It has ended.
        """
        content = np.empty(length, np.uint8)
        await self.read_into(content)
        return content

    async def read_into(self, content: NDArray[np.uint8]) -> None:
        """Fills an array with the bytes that it sends next.

        Raises:
            ChildEndedError: It has ended.
        """
        loop = asyncio.get_running_loop()
        view = content.reshape(-1).data
        while view:
            try:
                read = await loop.sock_recv_into(self._socket, view)
            except ConnectionError:
                read = 0
            if read == 0:
                raise ChildEndedError("it has ended")
            view = view[read:]

    def stop(self) -> None:
        """Ends it under the eyes of who reads its answer, who then learns that it has ended."""
        self._process.kill()

    def kill(self) -> None:
        """Ends it when nobody reads. Somebody has to call `end` later."""
        self._process.kill()
        self._socket.close()

    async def end(self, patience_s: float = 0.0) -> int:
        """Ends it, once it had so long to end by itself.

        Returns:
            Its exit status, or minus the signal that ended it.
        """
        if patience_s > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, patience_s)
        self.kill()
        return await asyncio.to_thread(self._process.wait)


async def _write(file: int, contents: Sequence[Raw]) -> None:
    for content in contents:
        rest = memoryview(content.data if isinstance(content, np.ndarray) else content)
        while rest:
            rest = rest[os.write(file, rest[:CHUNK]) :]
            if rest:
                await asyncio.sleep(0)
