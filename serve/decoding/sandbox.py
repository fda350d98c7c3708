"""Where untrusted files are decoded: in a process of its own, with limits on memory and time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from genconvit.config import PreprocessSettings, SamplingSettings
from serve.decoding.child import (
    DECODER,
    PATIENCE_S,
    Child,
    ChildEndedError,
    ChildError,
    NoChildError,
    Raw,
)
from serve.decoding.conversation import Conversation, Part, RefusedError
from serve.decoding.sniff import HEAD_BYTES, READ_HERE, Content, sniff
from serve.decoding.wire import CLIP_PATH, ClipRequest, CropsRequest, Limits, Refusal, Start
from serve.problems import ProblemError

LOG = logging.getLogger(__name__)


class Sandbox:
    """A process that decodes one file at a time; those who come meanwhile wait in line.

    A file that needs too much memory or time, or crashes the process, fails alone: the process is
    ended and another one started at once.

    Args:
        preprocess: Whose face detector is built before the first request comes.
        memory_mb: What the process may grow to, MB (1,000,000 bytes).
        exchange_after: Requests after which the process is exchanged for a new one, in case a
            decoder leaks.
    """

    command: ClassVar[Sequence[str]] = DECODER

    def __init__(
        self, preprocess: PreprocessSettings, memory_mb: int, *, exchange_after: int = 5000
    ) -> None:
        self._start = Start(memory_mb=memory_mb, preprocess=preprocess)
        self._exchange_after = exchange_after
        self._turn = asyncio.Lock()
        self._child: Child | None = None
        self._successor: asyncio.Task[Child] | None = None
        self._closed = False

    async def start(self) -> None:
        """Starts the process, for which the first request need not wait then.

        Raises:
            NoChildError: It does not start.
        """
        async with self._turn:
            await self._take()

    async def close(self) -> None:
        """Ends the process, and with it what it works on."""
        self._closed = True
        if self._child is not None:
            self._child.stop()
        if self._successor is not None:
            self._successor.cancel()
        async with self._turn:
            if self._child is not None:
                await self._child.end()
            if self._successor is not None:
                with contextlib.suppress(asyncio.CancelledError, NoChildError):
                    await (await self._successor).end()
            self._child = self._successor = None

    async def clip(
        self,
        content: Raw,
        name: str,
        *,
        preprocess: PreprocessSettings,
        sampling: SamplingSettings,
        image_size: int,
        limits: Limits,
    ) -> AsyncGenerator[Part]:
        """Crops the faces of a clip or image, as `genconvit.data.crops.extract_crops` does.

        Use it in `contextlib.aclosing`: who stops early, or is cancelled, ends the process's work.

        Args:
            content: The file.
            name: As the client calls it, for sentences; it decides nothing.
            preprocess: From a frame to a crop.
            sampling: Which frames.
            image_size: Side S of the crops, pixels.
            limits: What is refused.

        Yields:
            Parts, at least one. Before the last one the next request is let in.

        Raises:
            ProblemError: 413, 415 or 422: there is no result because of the file. 503: the process
                does not start.
        """
        what = _what_it_is(content, name)
        request = ClipRequest(
            medium=what.medium,
            kind=what.kind,
            preprocess=preprocess,
            sampling=sampling,
            image_size=image_size,
            limits=limits,
        )
        crops = 0
        part: Part | None = None
        async with self._conversation(name, limits) as talk:
            await talk.ask(request, [content])
            while part is None or not part.last:
                if part is not None:
                    yield part
                part = await talk.next_part(request)
                crops += len(part.places)
                if crops > limits.max_crops:
                    raise ChildError("it sends more crops than are allowed")
        yield part

    async def crops(
        self, contents: Sequence[Raw], *, image_size: int, limits: Limits
    ) -> NDArray[np.uint8]:
        """Decodes ready crops.

        Args:
            contents: JPEG, PNG, WebP or BMP, square.
            image_size: Side S, pixels.
            limits: What is refused.

        Returns:
            RGB (N, S, S, 3), in their order.

        Raises:
            ProblemError: As of `clip`.
        """
        if len(contents) > limits.max_crops:
            raise ProblemError(
                413,
                f"{len(contents)} crops are more than the {limits.max_crops} that are allowed; "
                "send them in several requests.",
                "too large",
            )
        for position, content in enumerate(contents, 1):
            what = sniff(bytes(content[:HEAD_BYTES]))
            if what is None or what.medium != "image":
                raise ProblemError(
                    415,
                    f"crop {position} of {len(contents)} is no JPEG, PNG, WebP or BMP image; send "
                    "it as one.",
                    "unknown format",
                )
        crops_NHWC = np.empty((len(contents), image_size, image_size, 3), np.uint8)
        if not contents:
            return crops_NHWC
        sizes = [len(content) for content in contents]
        request = CropsRequest(sizes=sizes, image_size=image_size, limits=limits)
        async with self._conversation("the request", limits) as talk:
            await talk.ask(request, contents)
            done = 0
            while done < len(contents):
                done += await talk.next_crops(crops_NHWC[done:])
        return crops_NHWC

    @contextlib.asynccontextmanager
    async def _conversation(self, name: str, limits: Limits) -> AsyncIterator[Conversation]:
        """Holds the process for a request, and replaces it where that went wrong."""
        async with self._turn:
            try:
                child = await self._take()
            except NoChildError as error:
                LOG.error("%s", error)
                raise ProblemError(
                    503, "no file can be decoded now; try again later.", "no decoder", 5
                ) from error
            fit = False
            try:
                yield Conversation(child, limits.time_s)
                fit = True
            except RefusedError as error:
                fit = error.refusal.cause != "memory"
                raise self._problem(error.refusal, name) from error
            except TimeoutError as error:
                raise ProblemError(
                    422,
                    f"{name} takes longer than {limits.time_s:g} s to be decoded; scale it down "
                    "or send a shorter part of it.",
                    "time",
                ) from error
            except ChildError as error:
                raise await self._obituary(child, error, name) from error
            finally:
                if fit:
                    self._count(child)
                else:
                    self._replace(child)

    async def _take(self) -> Child:
        """A process that takes requests. Only who has the turn may call it."""
        if self._closed:
            raise NoChildError("the sandbox is closed")
        if self._child is not None and not self._child.lives:
            self._replace(self._child)
        if self._child is None and self._successor is None:
            self._successor = asyncio.create_task(self._new_child(None))
        if self._successor is not None and (self._child is None or self._successor.done()):
            old = self._child
            try:
                # A request that is cancelled does not take the process with it.
                self._child = await asyncio.shield(self._successor)
            except NoChildError as error:
                if old is None:
                    raise
                LOG.error("%s", error)
                return old
            finally:
                if self._successor.done():
                    self._successor = None
            if old is not None:
                await old.end()
        assert self._child is not None
        return self._child

    async def _new_child(self, old: Child | None) -> Child:
        if old is not None:
            await old.end()
        child = Child(self.command)
        await child.get_ready(self._start)
        return child

    def _replace(self, child: Child) -> None:
        """Ends the process and has another one started."""
        child.kill()
        if self._closed:  # who closes it waits for the end
            return
        self._child = None
        if self._successor is None:
            self._successor = asyncio.create_task(self._new_child(child))

    def _count(self, child: Child) -> None:
        """After enough requests another process is started, which then takes this one's place."""
        child.served += 1
        if child.served >= self._exchange_after and self._successor is None:
            self._successor = asyncio.create_task(self._new_child(None))

    def _problem(self, refusal: Refusal, name: str) -> ProblemError:
        if refusal.cause == "memory":
            return self._memory(name)
        if refusal.cause == "fault":
            LOG.warning("A file broke the decoder: %r", refusal.detail)
            return _broken(name)
        detail = refusal.detail.replace(CLIP_PATH, name)
        status = 413 if refusal.cause == "too large" else 422
        return ProblemError(status, f"{detail}.", refusal.kind)

    async def _obituary(self, child: Child, error: ChildError, name: str) -> ProblemError:
        status = None
        if isinstance(error, ChildEndedError):
            status = await child.end(PATIENCE_S)
        LOG.warning("The process that decodes is replaced: %s (exit status %s)", error, status)
        # The kernel kills it where the machine has no memory left.
        return self._memory(name) if status == -signal.SIGKILL else _broken(name)

    def _memory(self, name: str) -> ProblemError:
        return ProblemError(
            422,
            f"{name} needs more than {self._start.memory_mb} MB to be decoded; scale it down or "
            "send a shorter part of it.",
            "memory",
        )


def _what_it_is(content: Raw, name: str) -> Content:
    if not len(content):
        raise ProblemError(422, f"{name} is empty; send it again.", "empty")
    what = sniff(bytes(content[:HEAD_BYTES]))
    if what is None:
        raise ProblemError(
            415,
            f"{name} is neither a video nor an image that can be read; send {READ_HERE}.",
            "unknown format",
        )
    return what


def _broken(name: str) -> ProblemError:
    return ProblemError(422, f"{name} broke the decoder; it is damaged. Encode it again.", "broken")
