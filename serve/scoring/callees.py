"""The processes that decode, and those of a detector, as the ingress calls them.

A call through Ray Serve costs more than decoding a small image: what can go together does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from serve.decoding.cropper import ClipWork, Cropper
from serve.decoding.sniff import HEAD_BYTES, sniff
from serve.decoding.stored import MESSAGE_BYTES, Stored, load, side_of
from serve.scoring.replicas import Replicas
from serve.scoring.scorer import Crops, Scores
from serve.scoring.together import Together

FILES_TOGETHER = 8
SMALL_BYTES = 1_000_000
"""Larger images are decoded for so long that others had better not wait for them."""
CALLS_WAIT = 1
"""Beyond one for each process that decodes: it is there when the first of them is done."""


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
            *(self._score_alike([asked[place] for place in group]) for group in groups),
            return_exceptions=True,
        )
        found: list[Scores | Exception] = []
        for group, answer in zip(groups, answers, strict=True):
            if isinstance(answer, Exception):  # the other groups have their scores all the same
                found += [answer] * len(group)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found += answer
        return found

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
