"""The deployment that holds a detector, and puts crops of many requests through it together."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from genconvit.answers import Evidence
from genconvit.checkpoint import DetectorInfo, read_info
from genconvit.config import ServeSettings
from genconvit.errors import UserError
from genconvit.predict import CROPS_A_PASS, Detector, load_detector
from genconvit.self_check import check_detector
from genconvit.verdict import TimelinePoint
from serve.decoding.stored import Images, LostError, load, side_of
from serve.problems import ProblemError
from serve.scoring.evidence import evidence_of
from serve.scoring.together import Together

logger = logging.getLogger(__name__)

PASSES = 2
"""Under way: one is computed while the next is put together."""


@dataclass(frozen=True)
class Crops:
    """Crops to be scored.

    Attributes:
        images: The crops.
        preprocess: Fingerprint of how they were made; None where the client made them.
        version: `Loaded.version` of the detector that the server was told to load, if any.
    """

    images: Images
    preprocess: str | None
    version: str | None


Waiting: TypeAlias = tuple[Crops, float]
"""Crops, and when they came."""


@dataclass(frozen=True)
class Loaded:
    """The detector of a scoring process, as it is described to others."""

    info: DetectorInfo
    loaded_at: datetime
    device: str

    @cached_property
    def version(self) -> str:
        """Digest of the weights and of all that goes with them, such as a calibration."""
        return version_of(self.info)


def version_of(info: DetectorInfo) -> str:
    """The same for the same detector, in any process."""
    return hashlib.sha256(info.model_dump_json().encode()).hexdigest()


@dataclass(frozen=True)
class Scores:
    """What became of crops.

    Attributes:
        logits: (N, R, 2), as `Detector.logits` has them; None where the crops must be made anew:
            for `loaded`, which has taken the place of another detector, or since they are lost.
        loaded: What scored them.
        queue_ms: Until their pass through the network began.
        network_ms: Of that pass.
        batch_crops: Crops in it.
    """

    logits: np.ndarray | None
    loaded: Loaded
    queue_ms: float = 0.0
    network_ms: float = 0.0
    batch_crops: int = 0


class Scorer:
    """One detector.

    Args:
        location: Its folder or URL.
        settings: Of the server.
    """

    def __init__(self, location: str, settings: ServeSettings) -> None:
        self._location = location
        self._detector, self._loaded = self._load()
        self._refused: str | None = None
        self._adopting: asyncio.Task[None] | None = None
        # One pass at a time: two would only share the processor.
        self._turn = threading.Lock()
        # Ray Serve's own batches begin when their first request comes, however many passes are
        # waiting: under load each request would have a pass of its own.
        self._together: Together[Waiting, Scores] = Together(
            self._score_together,
            settings.batch_crops,
            PASSES,
            weigh=lambda waiting: len(waiting[0].images),
        )

    async def describe(self) -> Loaded:
        """What is loaded."""
        return self._loaded

    async def score(self, crops: Crops) -> Scores:
        """Scores crops, at most as many as a batch holds."""
        self._look_for(crops.version)
        scores: Scores = await self._together((crops, time.monotonic()))
        if scores.logits is None and self._adopting is not None and not self._adopting.done():
            # They are likely to be for the detector that is being loaded.
            await asyncio.wait({self._adopting})
            scores = await self._together((crops, time.monotonic()))
        return scores

    async def _score_together(self, waiting: list[Waiting]) -> list[Scores]:
        return await asyncio.to_thread(self._score, waiting)

    def _score(self, waiting: list[Waiting]) -> list[Scores]:
        detector, loaded = self._detector, self._loaded
        images = [_fitting(crops, detector.info) for crops, _ in waiting]
        fitting = [each for each in images if each is not None]
        count = sum(map(len, fitting))
        together = np.concatenate(fitting) if fitting else None
        with self._turn:
            begin = time.monotonic()
            a_pass = CROPS_A_PASS if detector.device.type == "cpu" else max(count, 1)
            logits = None if together is None else detector.logits(together, a_pass)
            took = 1000 * (time.monotonic() - begin)
        found, start = [], 0
        for (crops, came), own in zip(waiting, images, strict=True):
            if own is None or logits is None:
                found.append(Scores(None, loaded))
                continue
            rows = logits[start : start + len(crops.images)]
            start += len(crops.images)
            found.append(Scores(rows, loaded, 1000 * (begin - came), took, count))
        return found

    async def explain(
        self, crops: np.ndarray, points: list[TimelinePoint], judged_by: str, told: str | None
    ) -> tuple[list[Evidence] | None, Loaded]:
        """Why crops are judged as they are.

        Args:
            crops: uint8 RGB (N, S, S, 3).
            points: Their points of the timeline.
            judged_by: `Loaded.version` of what judged them.
            told: As `Crops.version`.

        Returns:
            The evidence, None where another detector has taken the place of that one: it would
            explain another verdict. And what is loaded.
        """
        self._look_for(told)
        if self._loaded.version != judged_by and self._adopting is not None:
            await asyncio.wait({self._adopting})
        detector, loaded = self._detector, self._loaded
        if loaded.version != judged_by:
            return None, loaded
        return await asyncio.to_thread(evidence_of, detector, crops, points), loaded

    async def reload(self) -> Loaded:
        """Reads the detector's location again, and takes what is there if it passes its check.

        Raises:
            ProblemError: It is no detector, or one that computes nonsense; the old one stays.
        """
        try:
            found = await asyncio.to_thread(self._load)
        except UserError as error:
            raise ProblemError(422, f"the old detector stays: {error}", "reload") from None
        self._detector, self._loaded = found
        return self._loaded

    def _load(self) -> tuple[Detector, Loaded]:
        detector = load_detector(self._location, fast=True)
        check_detector(detector)
        return detector, Loaded(detector.info, datetime.now(UTC), detector.device.type)

    def _look_for(self, version: str | None) -> None:
        """Follows another process of this detector that has been told to reload."""
        if version in (None, self._loaded.version, self._refused):
            return
        if self._adopting is None or self._adopting.done():
            self._adopting = asyncio.create_task(self._adopt(str(version)))

    async def _adopt(self, version: str) -> None:
        try:
            if version_of(await asyncio.to_thread(read_info, self._location)) == version:
                await self.reload()
                return
            why = "another one is there by now"
        except (UserError, ProblemError) as error:
            why = str(error)
        self._refused = version  # it would be tried with every request
        logger.error("%s: the reloaded detector was not taken over: %s", self._location, why)

    def __reduce__(self) -> Any:
        raise TypeError("a scoring process stays where it is")


def _fitting(crops: Crops, info: DetectorInfo) -> np.ndarray | None:
    """The crops, if they are there and were made for this detector."""
    if crops.preprocess not in (None, info.preprocess_fingerprint):
        return None
    if side_of(crops.images) != info.model.image_size:
        return None
    try:
        return load(crops.images)
    except LostError:
        return None
