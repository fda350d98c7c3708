"""What goes together to the processes of a deployment."""

from __future__ import annotations

import asyncio
from typing import Any

import cv2
import numpy as np
import pytest

from genconvit.config import Settings
from serve.decoding.cropper import ClipWork
from serve.problems import ProblemError
from serve.scoring.callees import Croppers, Scorers
from serve.scoring.scorer import Crops, Scores


class Recorder:
    """In place of the processes of a deployment."""

    def __init__(self, answers: Any) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.answers = answers

    async def call(self, method: str, *args: Any, by_value: bool = False) -> Any:
        self.calls.append((method, args[0] if args else None))
        await asyncio.sleep(0.01)
        return self.answers(*args)


class Here:
    """In place of the sandbox of the ingress: decodes once it is let."""

    def __init__(self) -> None:
        self.works: list[ClipWork] = []
        self.gate = asyncio.Event()

    async def clips(self, works: list[ClipWork]) -> list[ClipWork]:
        self.works += works
        await self.gate.wait()
        return works


def work(content: bytes) -> ClipWork:
    settings = Settings()
    return ClipWork(
        content=np.frombuffer(content, np.uint8),
        name="file",
        preprocess=settings.preprocess,
        sampling=settings.sampling,
        image_size=64,
        is_job=False,
        sent=0.0,
    )


def test_small_images_are_decoded_together_and_clips_alone() -> None:
    jpeg = cv2.imencode(".jpg", np.zeros((32, 32, 3), np.uint8))[1].tobytes()
    large = jpeg + bytes(2_000_000)
    clip = b"\x00\x00\x00\x18ftypmp42" + bytes(64)
    recorder = Recorder(lambda asked: asked if isinstance(asked, list) else [asked])

    async def talk() -> None:
        croppers = Croppers(recorder, Here())  # type: ignore[arg-type]
        contents = (jpeg, clip, jpeg, large)
        await asyncio.gather(*(croppers.call("clip", work(content)) for content in contents))
        await croppers.call("crops", [])

    asyncio.run(talk())
    methods = sorted(method for method, _ in recorder.calls)
    assert methods == ["clip", "clip", "clips", "crops"]
    together = next(asked for method, asked in recorder.calls if method == "clips")
    assert [one.content.tobytes() for one in together] == [jpeg, jpeg]


def test_a_lone_small_image_is_decoded_here_while_nothing_else_is() -> None:
    jpeg = cv2.imencode(".jpg", np.zeros((32, 32, 3), np.uint8))[1].tobytes()
    clip = b"\x00\x00\x00\x18ftypmp42" + bytes(64)
    recorder, here = Recorder(lambda asked: asked), Here()

    async def talk() -> None:
        croppers = Croppers(recorder, here)  # type: ignore[arg-type]
        lone = asyncio.create_task(croppers.call("clip", work(jpeg)))
        await asyncio.sleep(0.01)
        await asyncio.gather(*(croppers.call("clip", work(content)) for content in (jpeg, clip)))
        assert [method for method, _ in recorder.calls] == ["clip", "clips"]
        assert not lone.done()
        here.gate.set()
        await lone
        await croppers.call("clip", work(jpeg))

    asyncio.run(talk())
    assert (len(here.works), len(recorder.calls)) == (2, 2)


@pytest.mark.parametrize("exchanged", [False, True])
def test_crops_of_a_turn_go_together_where_they_are_alike(exchanged: bool) -> None:
    def score(crops: Crops) -> Scores:
        rows = crops.images[:, 0, 0, :2].astype(float)[:, None]
        return Scores(None if exchanged else rows, None, batch_crops=len(rows))  # type: ignore[arg-type]

    recorder = Recorder(score)
    batches = [
        Crops(np.full((count, side, side, 3), number, np.uint8), fingerprint, None)
        for number, (count, side, fingerprint) in enumerate(
            [(2, 8, "a"), (1, 8, "a"), (1, 8, None), (3, 8, None), (1, 16, None)]
        )
    ]

    async def talk() -> list[Scores]:
        scorers = Scorers(recorder, batch_crops=4)  # type: ignore[arg-type]
        return await asyncio.gather(*(scorers.call("score", batch) for batch in batches))

    found = asyncio.run(talk())
    assert [len(asked.images) for _, asked in recorder.calls] == [3, 4, 1]
    for number, (batch, scores) in enumerate(zip(batches, found, strict=True)):
        if exchanged:
            assert scores.logits is None
        else:
            assert scores.logits is not None
            assert scores.logits.shape == (len(batch.images), 1, 2)
            assert (scores.logits == number).all()


def test_crops_that_cannot_be_scored_leave_the_others_theirs() -> None:
    def score(crops: Crops) -> Scores:
        if crops.preprocess == "bad":
            raise ProblemError(503, "no process has room.", "overload", 2)
        return Scores(np.zeros((len(crops.images), 1, 2)), None)  # type: ignore[arg-type]

    image = np.zeros((1, 8, 8, 3), np.uint8)

    async def talk() -> list[Any]:
        scorers = Scorers(Recorder(score), batch_crops=4)  # type: ignore[arg-type]
        asked = (Crops(image, preprocess, None) for preprocess in ("good", "bad", "good"))
        calls = (scorers.call("score", crops) for crops in asked)
        return await asyncio.gather(*calls, return_exceptions=True)

    good, bad, also_good = asyncio.run(talk())
    assert isinstance(bad, ProblemError)
    assert good.logits is not None and also_good.logits is not None
