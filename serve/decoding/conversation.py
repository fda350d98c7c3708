"""A request's talk with the process that decodes: what it answers, checked, within the time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from serve.decoding.child import Child, ChildError, Raw
from serve.decoding.wire import (
    Answer,
    ClipRequest,
    CropsHeader,
    CropsRequest,
    PartHeader,
    Place,
    Refusal,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Some of the crops of a clip, ordered by frame, then track, and what is known by then."""

    crops_NHWC: NDArray[np.uint8]  # noqa: N815
    """RGB (N, S, S, 3), as the network takes them."""
    places: list[Place]
    """Where each was cut out."""
    frames_sampled: int
    frames_with_face: int
    frames_total: int
    """Frames that will have been sampled in the end, unless the clip breaks off."""
    width: int
    """Of the first sampled frame, upright; 0 before there is one."""
    height: int
    duration_s: float | None
    """None for an image."""
    decode_s: float
    """How long the process was waited for."""
    last: bool


class RefusedError(Exception):
    """The process says why there is no result."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


@dataclass
class Conversation:
    """One request and its answers.

    Every method raises ChildError where the process ended or answers nonsense, RefusedError where
    it refuses, and TimeoutError when it was waited for longer than `time_s` altogether.
    """

    child: Child
    time_s: float
    waited_s: float = 0.0

    async def ask(self, request: ClipRequest | CropsRequest, contents: Sequence[Raw]) -> None:
        """Hands over the request and its bytes."""
        await self._in_time(self.child.ask(request, contents))

    async def next_part(self, request: ClipRequest) -> Part:
        """The next crops of a clip."""
        header, crops_NHWC = await self._in_time(self._next_part(request))
        return Part(
            crops_NHWC,
            header.places,
            header.frames_sampled,
            header.frames_with_face,
            header.frames_total,
            header.width,
            header.height,
            header.duration_s,
            self.waited_s,
            header.last,
        )

    async def next_crops(self, rest_NHWC: NDArray[np.uint8]) -> int:
        """Fills the first of (N, S, S, 3) with ready crops; how many."""
        return await self._in_time(self._next_crops(rest_NHWC))

    async def _next_part(self, request: ClipRequest) -> tuple[PartHeader, NDArray[np.uint8]]:
        header = await self._header()
        if not isinstance(header, PartHeader):
            raise ChildError(f"it answers {header.answer}")
        places, side = header.places, request.image_size
        crops_NHWC = np.empty((len(places), side, side, 3), np.uint8)
        await self.child.read_into(crops_NHWC)
        return header, crops_NHWC

    async def _next_crops(self, rest_NHWC: NDArray[np.uint8]) -> int:
        header = await self._header()
        if not isinstance(header, CropsHeader) or header.count > len(rest_NHWC):
            raise ChildError(f"it answers {header.answer}")
        await self.child.read_into(rest_NHWC[: header.count])
        return header.count

    async def _header(self) -> Answer:
        header = await self.child.header()
        if isinstance(header, Refusal):
            raise RefusedError(header)
        return header

    async def _in_time(self, work: Awaitable[T]) -> T:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(self.time_s - self.waited_s):
                return await work
        finally:
            self.waited_s += clock() - began
