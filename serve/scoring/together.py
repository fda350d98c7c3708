"""Calls that are made as one, where a call through Ray Serve costs more than what it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np

from serve.decoding.cropper import ClipWork, Cropper
from serve.decoding.sniff import HEAD_BYTES, sniff
from serve.decoding.stored import MESSAGE_BYTES, Stored, load, side_of
from serve.scoring.replicas import Replicas
from serve.scoring.scorer import Crops, Scores

FILES_TOGETHER = 8
SMALL_BYTES = 1_000_000
"""Larger images are decoded for so long that others had better not wait for them."""
CALLS_WAIT = 1
"""Beyond one for each process that decodes: it is there when the first of them is done."""

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class Together(Generic[Asked, Answered]):
    """Collects what is asked, and asks for it together.

    What comes in the same turn of the event loop goes together, and so does what has to wait since
    enough is under way. A lone request waits for nobody.

    Args:
        ask: Gets up to `size` questions; answers each, or with an exception in its place.
        size: Most questions of a call.
        calls: Most calls under way; None for any number.
    """

    def __init__(
        self,
        ask: Callable[[list[Asked]], Awaitable[Sequence[Answered | Exception]]],
        size: int,
        calls: int | None = None,
    ) -> None:
        self._ask, self._size = ask, size
        self.calls = calls
        self._waiting: list[tuple[Asked, asyncio.Future[Answered]]] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def __call__(self, asked: Asked) -> Answered:
        """The answer.

        Raises:
            Exception: What came in its place, or what the call raised.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answered] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._start)
        self._waiting.append((asked, answer))
        return await answer

    def _start(self) -> None:
        while self._waiting and (self.calls is None or len(self._under_way) < self.calls):
            some, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
            task = asyncio.get_running_loop().create_task(self._call(some))
            self._under_way.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._start()

    async def _call(self, some: list[tuple[Asked, asyncio.Future[Answered]]]) -> None:
        some = [(asked, answer) for asked, answer in some if not answer.done()]  # who still waits
        if not some:
            return
        try:
            found = await self._ask([asked for asked, _ in some])
        except Exception as error:
            found = [error] * len(some)
        for (_, answer), result in zip(some, found, strict=True):
            if answer.done():
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)


class Croppers:
    """The processes that decode; small images that wait are sent together.

    Args:
        replicas: Of the deployment.
        here: Decodes behind this process. A lone small image goes to it, which saves a call through
            Ray Serve.
    """

    def __init__(self, replicas: Replicas, here: Cropper) -> None:
        self._replicas, self._here = replicas, here
        self._busy_here = False
        self._images: Together[ClipWork, Any] = Together(
            self._clips, FILES_TOGETHER, 1 + CALLS_WAIT
        )

    def are(self, count: int) -> None:
        """So many processes there are now."""
        self._images.calls = max(1, count) + CALLS_WAIT

    async def call(self, method: str, *args: Any) -> Any:
        """As `Replicas.call`."""
        if method == "clip" and _is_small_image(args[0]):
            return await self._images(args[0])
        return await self._replicas.call(method, *args)

    def stream(self, method: str, *args: Any) -> AsyncGenerator[Any, None]:
        """As `Replicas.stream`."""
        return self._replicas.stream(method, *args)

    async def _clips(self, works: list[ClipWork]) -> Sequence[Any]:
        if len(works) == 1 and not self._busy_here:
            self._busy_here = True
            try:
                return await self._here.clips(works)
            finally:
                self._busy_here = False
        size = sum(len(work.content) for work in works)
        found: list[Any] = await self._replicas.call("clips", works, by_value=size <= MESSAGE_BYTES)
        return found


def _is_small_image(work: ClipWork) -> bool:
    if len(work.content) > SMALL_BYTES:
        return False
    what = sniff(work.content[:HEAD_BYTES].tobytes())
    return what is not None and what.medium == "image"


class Scorers:
    """The processes of a detector; crops that come at the same time are sent together.

    Args:
        replicas: Of the deployment.
        batch_crops: Most crops of a call.
    """

    def __init__(self, replicas: Replicas, batch_crops: int) -> None:
        self._replicas, self._batch_crops = replicas, batch_crops
        self._crops: Together[Crops, Scores] = Together(self._score, batch_crops)

    async def call(self, method: str, *args: Any) -> Any:
        """As `Replicas.call`."""
        if method == "score":
            return await self._crops(args[0])
        return await self._replicas.call(method, *args)

    def stream(self, method: str, *args: Any) -> AsyncGenerator[Any, None]:
        """As `Replicas.stream`."""
        return self._replicas.stream(method, *args)

    async def _score(self, asked: list[Crops]) -> list[Scores | Exception]:
        groups: list[list[int]] = []
        for place, crops in enumerate(asked):
            last = groups[-1] if groups else []
            count = sum(len(asked[other].images) for other in last) + len(crops.images)
            if last and count <= self._batch_crops and _alike(asked[last[0]], crops):
                last.append(place)
            else:
                groups.append([place])
        answers = await asyncio.gather(
            *(self._score_alike([asked[place] for place in group]) for group in groups)
        )
        return [scores for answer in answers for scores in answer]

    async def _score_alike(self, asked: list[Crops]) -> list[Scores]:
        images = [crops.images for crops in asked]
        joined = asked[0]
        if len(asked) > 1:  # then none is stored
            joined = replace(joined, images=np.concatenate([load(image) for image in images]))
        small = not isinstance(joined.images, Stored) and joined.images.nbytes <= MESSAGE_BYTES
        scores: Scores = await self._replicas.call("score", joined, by_value=small)
        if scores.logits is None:
            return [scores] * len(asked)
        ends = np.cumsum([len(image) for image in images])[:-1]
        return [replace(scores, logits=rows) for rows in np.split(scores.logits, ends)]


def _alike(one: Crops, other: Crops) -> bool:
    return (
        not isinstance(one.images, Stored)
        and not isinstance(other.images, Stored)
        and one.preprocess == other.preprocess
        and one.version == other.version
        and side_of(one.images) == side_of(other.images)
    )
