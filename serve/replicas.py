"""The deployment that holds the detector."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from genconvit.errors import ClipError
from genconvit.predict import load_detector


class Judge:
    """Decodes, crops and judges.

    Args:
        model: The detector's folder or URL.
    """

    def __init__(self, model: str) -> None:
        self.detector = load_detector(model)
        # One clip at a time: a second one would only slow the first down.
        self.turn = asyncio.Lock()

    async def judge(self, name: str, content: bytes) -> dict[str, Any]:
        """Judges an uploaded clip or image.

        Returns:
            `{"verdict": ...}`, a Verdict as plain data; or `{"error": ...}` with a sentence where
            it cannot be read.
        """
        async with self.turn:
            return await asyncio.to_thread(self._judge, name, content)

    def _judge(self, name: str, content: bytes) -> dict[str, Any]:
        # Only the suffix of the client's name is used: an image is told from a clip by it.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"upload{Path(name).suffix.lower()[:8]}"
            path.write_bytes(content)
            try:
                verdict = self.detector.judge(path)
            except ClipError as error:
                return {"error": str(error).replace(str(path), name)}
        return {"verdict": verdict.model_copy(update={"clip": name}).model_dump(mode="json")}
