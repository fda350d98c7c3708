"""From an upload to a detection: crops from the decoding processes, scores from the network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from genconvit.answers import Detection, Evidence, ModelCard, ModelId, Timings
from genconvit.checkpoint import DetectorInfo
from genconvit.config import ORIGINAL_SAMPLING, SamplingSettings, ServeSettings
from genconvit.evaluate.aggregate import decide
from genconvit.evaluate.clip_interval import clip_interval
from genconvit.explain import deciding
from genconvit.predict import timeline_point
from genconvit.reference import Statistics
from genconvit.verdict import TimelinePoint
from serve.decoding.cropper import ClipWork, Cropped, Decoded
from serve.decoding.stored import Images, load_some, part_of
from serve.problems import ProblemError
from serve.scoring.scorer import Crops, Loaded, Scores
from serve.scoring.work import Judged, Options, ScoredCrops

EXCHANGES = 3
"""So often a clip is cropped anew because another detector has taken the place of the one asked."""


class Callee(Protocol):
    """A deployment's processes, or in a test one object."""

    async def call(self, method: str, *args: Any) -> Any:
        """The method's result."""

    def stream(self, method: str, *args: Any) -> AsyncGenerator[Any]:
        """What the method yields."""


@dataclass
class _Sums:
    """Of the parts of a clip."""

    loaded: Loaded
    """The detector that it was cropped for, then the one that scored it."""
    timeline: list[TimelinePoint] = field(default_factory=list)
    images: list[Images] = field(default_factory=list)
    """The crops, where they are to be explained."""
    statistics: list[Statistics] = field(default_factory=list)
    batch_crops: list[int] = field(default_factory=list)
    wait_ms: float = 0.0
    decode_ms: float = 0.0
    queue_ms: float = 0.0
    network_ms: float = 0.0
    last: Cropped | None = None


class ExchangedError(Exception):
    """The detector was exchanged while a clip was on its way: for one whose crops are made
    otherwise, or for one that would judge the rest of the clip, or explain what it did not
    judge."""


OnPart = Callable[[list[TimelinePoint], float], Awaitable[None]]
"""Takes new points of a timeline, and the share of the frames that was looked at."""


class Judging:
    """What the endpoint and its jobs judge with.

    Args:
        cropper: The processes that decode and crop.
        scorers: Those of each detector, by its name; the first one is the default.
        settings: Limits.
    """

    def __init__(
        self, cropper: Callee, scorers: Mapping[str, Callee], settings: ServeSettings
    ) -> None:
        self._cropper, self._scorers, self._settings = cropper, dict(scorers), settings
        self._loaded: dict[str, Loaded] = {}
        self._versions: dict[str, str] = {}
        """What each detector was last told to load."""
        self.crops_under_way = 0
        """Sent to the network and not scored yet."""

    @property
    def default(self) -> str:
        """The name of the detector that answers unless another is asked for."""
        return next(iter(self._scorers))

    async def loaded(self, name: str) -> Loaded:
        """What a detector is, once one of its processes has said so."""
        if name not in self._loaded:
            self._loaded[name] = await self._scorer(name).call("describe")
        return self._loaded[name]

    def is_ready(self) -> bool:
        """Whether every detector has answered."""
        return len(self._loaded) == len(self._scorers)

    def ids(self) -> dict[str, str]:
        """The ids of the detectors that have answered, by name."""
        return {name: loaded.info.id for name, loaded in self._loaded.items()}

    def check(self, options: Options) -> None:
        """Refuses options before a file is read.

        Raises:
            ProblemError: There is no such model, or too many frames are asked for.
        """
        self._scorer(options.model or self.default)
        most = self._settings.max_frames
        if options.frames is not None and options.frames > most:
            detail = f"frames={options.frames} is too many; ask for at most {most}."
            raise ProblemError(422, detail, "frames")

    async def cards(self) -> list[ModelCard]:
        """All detectors."""
        return [self.card(name, await self.loaded(name)) for name in self._scorers]

    def card(self, name: str, loaded: Loaded) -> ModelCard:
        """A detector, as the endpoint shows it."""
        info = loaded.info
        return ModelCard(
            name=name,
            default=name == self.default,
            id=info.id,
            fingerprint=info.weights_sha256,
            loaded_at=loaded.loaded_at,
            arch=info.model.arch,
            preset=info.model.preset,
            image_size=info.model.image_size,
            frames=info.sampling.frames or info.sampling.max_frames,
            aggregation=info.decision.aggregation,
            threshold=info.decision.threshold,
            band=info.decision.band,
            calibrated=info.calibration is not None or info.decision.isotonic is not None,
            device=loaded.device,
            metrics=info.metrics,
            licence=info.licence,
        )

    async def reload(self, name: str) -> Loaded:
        """Reads a detector's location again.

        Raises:
            ProblemError: It is refused there; the old one stays.
        """
        loaded: Loaded = await self._scorer(name).call("reload")
        self._versions[name] = loaded.version
        self._loaded[name] = loaded
        return loaded

    async def detect(
        self,
        content: np.ndarray,
        clip: str,
        options: Options,
        *,
        on_part: OnPart | None = None,
        request_id: str = "",
    ) -> Judged:
        """Judges a clip or image.

        Args:
            content: The file's bytes, uint8 (N,).
            clip: Its name, for the answer alone.
            options: What the request chose.
            on_part: For a long clip: told of new points of the timeline and of the share of frames
                that was looked at. Without, the limits of a request hold, else those of a job.
            request_id: For the answer.

        Raises:
            ProblemError: The file is refused, or the server cannot judge it now.
        """
        self.check(options)
        name = options.model or self.default
        begin = time.monotonic()
        for _ in range(EXCHANGES):
            loaded = await self.loaded(name)
            try:
                sums = await self._crop_and_score(content, clip, name, loaded, options, on_part)
                return await self._judged(sums, clip, name, options, begin, request_id)
            except ExchangedError:
                if on_part is not None:  # the job begins anew, and with it the timeline it shows
                    break
        raise _being_exchanged()

    async def score(self, images: list[np.ndarray], model: str | None) -> ScoredCrops:
        """P(fake) of ready crops.

        Args:
            images: Each a file's bytes, JPEG or PNG, uint8 (N,).
            model: Name of the detector; None for the default.

        Raises:
            ProblemError: One is no crop, or the server cannot judge them now.
        """
        name = model or self.default
        self._scorer(name)
        content, sizes = np.concatenate(images), [len(image) for image in images]
        for _ in range(EXCHANGES):
            side = (await self.loaded(name)).info.model.image_size
            decoded: Decoded = await self._cropper.call("crops", content, sizes, side, time.time())
            try:
                passes = await self._scores(name, decoded.images, None)
            except ExchangedError:
                continue
            return ScoredCrops.of(name, decoded, passes)
        raise _being_exchanged()

    def _scorer(self, name: str) -> Callee:
        try:
            return self._scorers[name]
        except KeyError:
            names = ", ".join(self._scorers)
            raise ProblemError(
                404, f"there is no model of that name; there is {names}.", "unknown model"
            ) from None

    async def _crop_and_score(
        self,
        content: np.ndarray,
        clip: str,
        name: str,
        loaded: Loaded,
        options: Options,
        on_part: OnPart | None,
    ) -> _Sums:
        info = loaded.info
        work = ClipWork(
            content=content,
            name=clip,
            preprocess=info.preprocess,
            sampling=_sampling(info, options, self._settings),
            image_size=info.model.image_size,
            is_job=on_part is not None,
            sent=time.time(),
        )
        sums = _Sums(loaded)
        if on_part is None:
            cropped: Cropped = await self._cropper.call("clip", work)
            await self._add(sums, cropped, name, options)
            return sums
        async with aclosing(self._cropper.stream("parts", work)) as parts:
            async for part in parts:
                new = await self._add(sums, part, name, options)
                await on_part(new, sums.last.progress if sums.last else 0.0)
        return sums

    async def _add(
        self, sums: _Sums, cropped: Cropped, name: str, options: Options
    ) -> list[TimelinePoint]:
        """Scores a part of a clip and adds it to the others; gives its points.

        Raises:
            ExchangedError: Another detector is there than scored the parts before.
        """
        points: list[TimelinePoint] = []
        if len(cropped.images):
            fingerprint = sums.loaded.info.preprocess_fingerprint
            passes = await self._scores(name, cropped.images, fingerprint)
            loaded, info = passes[-1].loaded, passes[-1].loaded.info
            if sums.timeline and loaded.version != sums.loaded.version:
                raise ExchangedError
            sums.loaded = loaded
            decision = info.decision.with_aggregation(options.aggregation)
            rows = np.concatenate([scores.logits for scores in passes])
            for place, rows_RK in zip(cropped.places, rows, strict=True):
                points.append(timeline_point(*place, rows_RK, decision, info.temperature))
            sums.queue_ms += max(scores.queue_ms for scores in passes)
            sums.network_ms += sum(scores.network_ms for scores in passes)
            sums.batch_crops += [scores.batch_crops for scores in passes]
        sums.timeline += points
        if options.explain:
            sums.images.append(cropped.images)
        sums.statistics.append(cropped.statistics)
        sums.wait_ms += cropped.wait_ms
        sums.decode_ms += cropped.decode_ms
        sums.last = cropped
        return points

    async def _scores(self, name: str, images: Images, preprocess: str | None) -> list[Scores]:
        """Scores crops, in as many passes as they need; all at once, and by one detector.

        Raises:
            ExchangedError: Another detector is there, which takes other crops, or took some; or the
                crops are lost.
        """
        most, version = self._settings.batch_crops, self._versions.get(name)
        scorer = self._scorer(name)
        batches = [
            Crops(part_of(images, start, start + most), preprocess, version)
            for start in range(0, len(images), most)
        ]
        self.crops_under_way += len(images)
        try:
            calls = (scorer.call("score", batch) for batch in batches)
            passes: list[Scores] = list(await asyncio.gather(*calls))
        finally:
            self.crops_under_way -= len(images)
        for scores in passes:
            self._take_note(name, scores.loaded)
        if any(scores.logits is None for scores in passes):
            raise ExchangedError
        if len({scores.loaded.version for scores in passes}) > 1:
            raise ExchangedError
        return passes

    def _take_note(self, name: str, loaded: Loaded) -> None:
        """Of what scored; one that began before the last reload says nothing new."""
        if name not in self._loaded or self._loaded[name].loaded_at < loaded.loaded_at:
            self._loaded[name] = loaded

    async def _evidence(self, sums: _Sums, name: str, chosen: list[int]) -> list[Evidence]:
        """Why the chosen crops of the timeline are judged as they are.

        Raises:
            ExchangedError: Another detector is there than judged them. Evidence and verdict are
                shown side by side, so that both are to be had anew.
        """
        crops = await asyncio.to_thread(load_some, sums.images, chosen)
        points = [sums.timeline[place] for place in chosen]
        told = self._versions.get(name)
        arguments = (crops, points, sums.loaded.version, told)
        evidence, loaded = await self._scorer(name).call("explain", *arguments)
        self._take_note(name, loaded)
        if evidence is None:
            raise ExchangedError
        return list(evidence)

    async def _judged(
        self,
        sums: _Sums,
        clip: str,
        name: str,
        options: Options,
        begin: float,
        request_id: str,
    ) -> Judged:
        info, last = sums.loaded.info, sums.last
        assert last is not None  # a clip without a frame is refused
        decision = info.decision.with_aggregation(options.aggregation)
        timeline = sums.timeline
        verdict = decide(clip, timeline, last.frames_sampled, decision)
        evidence: list[Evidence] = []
        if options.explain and timeline:
            chosen = deciding(verdict, decision, count=1)
            evidence = await self._evidence(sums, name, chosen)
        detection = Detection(
            **verdict.model_dump(),
            threshold=decision.threshold,
            band=decision.band,
            probability_interval=clip_interval(timeline, decision),
            duration_s=last.duration_s,
            width=last.width,
            height=last.height,
            model=ModelId(name=name, id=info.id, fingerprint=info.weights_sha256),
            timings_ms=Timings(
                wait=sums.wait_ms,
                decode=sums.decode_ms,
                queue=sums.queue_ms,
                network=sums.network_ms,
                total=1000 * (time.monotonic() - begin),
            ),
            evidence=evidence,
            request_id=request_id,
        )
        return Judged(detection, sums.statistics, sums.batch_crops)


def _being_exchanged() -> ProblemError:
    return ProblemError(503, "the detector is being exchanged; try again.", "exchange", 2)


def _sampling(info: DetectorInfo, options: Options, settings: ServeSettings) -> SamplingSettings:
    """Which frames are looked at: as many as are asked for, or the detector's, within the limit."""
    most = settings.max_frames
    if options.frames is not None:
        return SamplingSettings(frames=options.frames, spacing=info.sampling.spacing)
    published = options.aggregation == "original" and info.decision.aggregation != "original"
    sampling = ORIGINAL_SAMPLING if published else info.sampling
    if sampling.frames is not None:
        return sampling.model_copy(update={"frames": min(sampling.frames, most)})
    return sampling.model_copy(update={"max_frames": min(sampling.max_frames or most, most)})
