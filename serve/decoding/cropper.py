"""The deployment that decodes files and cuts out the faces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

import numpy as np

from genconvit.config import PreprocessSettings, SamplingSettings, ServeSettings
from genconvit.reference import Statistics
from serve.decoding.sandbox import Part, Sandbox
from serve.decoding.stored import Images, stored
from serve.decoding.wire import Limits
from serve.problems import ProblemError
from serve.watching.drift import look_at

Where = tuple[int, float, int, tuple[int, int, int, int]]
"""Frame index, seconds, track, box."""


@dataclass(frozen=True)
class ClipWork:
    """A file to be cropped.

    Attributes:
        content: Its bytes, uint8 (N,).
        name: As the client calls it, for sentences.
        preprocess: From a frame to a crop.
        sampling: Which frames.
        image_size: Side S of the crops, pixels.
        is_job: The limits of a job hold, not those of a request.
        sent: When it was sent here, seconds since 1970.
    """

    content: np.ndarray
    name: str
    preprocess: PreprocessSettings
    sampling: SamplingSettings
    image_size: int
    is_job: bool
    sent: float


@dataclass(frozen=True)
class Cropped:
    """The faces of a clip, or of a part of it.

    Attributes:
        images: The crops.
        places: Where each was cut out.
        statistics: What some of them look like: `serve.watching.drift.look_at`.
        frames_sampled: So far.
        progress: Share of the frames that were looked at.
        duration_s: None for an image.
        width, height: Of a frame, pixels.
        wait_ms: Until a process had time for it.
        decode_ms: Since then, or since the part before.
    """

    images: Images
    places: list[Where]
    statistics: Statistics
    frames_sampled: int
    progress: float
    duration_s: float | None
    width: int
    height: int
    wait_ms: float
    decode_ms: float


@dataclass(frozen=True)
class Decoded:
    """Crops that the client made.

    Attributes:
        images: The crops.
        statistics: What some of them look like: `serve.watching.drift.look_at`.
        wait_ms: Until a process had time for them.
        decode_ms: Since then.
    """

    images: Images
    statistics: Statistics
    wait_ms: float
    decode_ms: float


class Cropper:
    """One process that decodes, behind a sandbox.

    Args:
        settings: Of the server.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._sandbox = Sandbox(PreprocessSettings(), settings.decode_memory_mb)
        # Ready before the first request; kept, since a task that nobody holds may vanish.
        self._starting = asyncio.get_running_loop().create_task(self._sandbox.start())

    async def clip(self, work: ClipWork) -> Cropped:
        """All faces of a clip.

        Raises:
            ProblemError: The file is refused.
        """
        cropped = await self._clip(work)
        return replace(cropped, images=stored(cropped.images))

    async def _clip(self, work: ClipWork) -> Cropped:
        """The same, with the crops as they are."""
        parts = [part async for part in self._parts(work)]
        last = parts[-1]
        return Cropped(
            images=np.concatenate([part.images for part in parts]),
            places=[place for part in parts for place in part.places],
            statistics={
                name: np.concatenate([part.statistics[name] for part in parts])
                for name in last.statistics
            },
            frames_sampled=last.frames_sampled,
            progress=1.0,
            duration_s=last.duration_s,
            width=last.width,
            height=last.height,
            wait_ms=sum(part.wait_ms for part in parts),
            decode_ms=sum(part.decode_ms for part in parts),
        )

    async def clips(self, works: list[ClipWork]) -> list[Cropped | ProblemError]:
        """All faces of several clips, one after the other; or why there is no result."""
        found: list[Cropped | ProblemError] = []
        for work in works:
            try:
                # As they are: what refers to Ray's store must go through it, and this does not.
                found.append(await self._clip(work))
            except ProblemError as problem:
                found.append(problem)
        return found

    async def parts(self, work: ClipWork) -> AsyncGenerator[Cropped]:
        """The faces of a clip as they are found.

        Raises:
            ProblemError: The file is refused.
        """
        async with aclosing(self._parts(work)) as parts:
            async for part in parts:
                yield replace(part, images=stored(part.images))

    async def _parts(self, work: ClipWork) -> AsyncGenerator[Cropped]:
        """The same, with the crops as they are."""
        decoded_s = 0.0
        found = self._sandbox.clip(
            work.content.data,
            work.name,
            preprocess=work.preprocess,
            sampling=work.sampling,
            image_size=work.image_size,
            limits=Limits.of(self._settings, job=work.is_job),
        )
        async with aclosing(found) as parts:
            async for part in parts:
                waited_s = 0.0
                if not decoded_s:  # of the first part
                    waited_s = max(0.0, time.time() - work.sent - part.decode_s)
                yield _cropped(part, 1000 * waited_s, 1000 * (part.decode_s - decoded_s))
                decoded_s = part.decode_s

    async def crops(
        self, content: np.ndarray, sizes: list[int], image_size: int, sent: float
    ) -> Decoded:
        """Decodes ready crops.

        Args:
            content: Their files, one behind the other, uint8 (N,): many arrays would take longer to
                hand over than to decode.
            sizes: Bytes of each.
            image_size: Side of the result, pixels.
            sent: When they were sent here, seconds since 1970.

        Raises:
            ProblemError: One of them is no crop.
        """
        begin = time.time()
        limits = Limits.of(self._settings)
        ends = np.cumsum(sizes).tolist()
        contents = [content[end - size : end].data for end, size in zip(ends, sizes, strict=True)]
        decoded = await self._sandbox.crops(contents, image_size=image_size, limits=limits)
        return Decoded(
            images=stored(decoded),
            statistics=look_at(decoded),
            wait_ms=max(0.0, 1000 * (begin - sent)),
            decode_ms=1000 * (time.time() - begin),
        )


def _cropped(part: Part, wait_ms: float, decode_ms: float) -> Cropped:
    return Cropped(
        images=part.crops_NHWC,
        places=[(p.frame_index, p.time_s, p.track, p.box) for p in part.places],
        statistics=look_at(part.crops_NHWC),
        frames_sampled=part.frames_sampled,
        progress=1.0 if part.last else part.frames_sampled / max(1, part.frames_total),
        duration_s=part.duration_s,
        width=part.width,
        height=part.height,
        wait_ms=wait_ms,
        decode_ms=decode_ms,
    )
