"""A sandbox at work, for the tests of it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from genconvit.config import PreprocessSettings, SamplingSettings, ServeSettings
from serve.decoding.conversation import Part
from serve.decoding.sandbox import Sandbox
from serve.decoding.wire import Limits
from serve.problems import ProblemError

SIZE = 64
MEMORY_MB = 400
FACES = PreprocessSettings(size=SIZE)
WHOLE = PreprocessSettings(size=SIZE, detector="none")
SAMPLING = SamplingSettings(frames=4)
EVERY_FRAME = SamplingSettings(frame_interval=1)
LIMITS = Limits.of(ServeSettings(max_pixels=4_000_000, max_frames=10_000))


class Bench:
    """A sandbox and the loop that it lives in."""

    def __init__(self, kind: type[Sandbox] = Sandbox, **settings: Any) -> None:
        self.runner = asyncio.Runner()
        self.run = self.runner.run
        self.sandbox = self.run(self._make(kind, settings))

    async def _make(self, kind: type[Sandbox], settings: dict[str, Any]) -> Sandbox:
        return kind(WHOLE, settings.pop("memory_mb", MEMORY_MB), **settings)

    def parts(self, content: bytes, **changes: Any) -> list[Part]:
        return self.run(self.all_parts(content, **changes))

    async def all_parts(self, content: bytes, **changes: Any) -> list[Part]:
        asked = {"preprocess": WHOLE, "sampling": SAMPLING, "image_size": SIZE, "limits": LIMITS}
        async with aclosing(self.sandbox.clip(content, "it.mp4", **asked | changes)) as parts:
            return [part async for part in parts]

    def problem(self, content: bytes, **changes: Any) -> ProblemError:
        with pytest.raises(ProblemError) as caught:
            self.parts(content, **changes)
        assert "/proc" not in caught.value.detail
        assert caught.value.detail.endswith(".")
        return caught.value

    def crops(self, contents: list[bytes], limits: Limits = LIMITS) -> np.ndarray:
        return self.run(self.sandbox.crops(contents, image_size=SIZE, limits=limits))

    def outcome(self, content: bytes, *, as_crop: bool = False, **changes: Any) -> str:
        try:
            if as_crop:
                assert self.crops([content], changes["limits"]).shape == (1, SIZE, SIZE, 3)
            else:
                assert self.parts(content, **changes)[-1].last
        except ProblemError as problem:
            return f"{problem.status} {problem.reason}"
        return "a result"

    @property
    def pid(self) -> int:
        self.run(self.sandbox.start())
        assert self.sandbox._child is not None
        return self.sandbox._child._process.pid

    def close(self) -> None:
        self.run(self.sandbox.close())
        assert self.sandbox._child is None
        self.runner.close()


def slow(limits: Limits = LIMITS) -> dict[str, Any]:
    return {"preprocess": FACES, "sampling": EVERY_FRAME, "limits": limits}


def limits(**changes: Any) -> Limits:
    return LIMITS.model_copy(update=changes)
