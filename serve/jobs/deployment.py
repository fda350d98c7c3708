"""The deployment that works on the jobs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from genconvit.config import ServeSettings
from serve.jobs.queue import Claim
from serve.jobs.runner import JobRunner, OnPart
from serve.jobs.store import JobStore
from serve.scoring.judging import Judging
from serve.scoring.replicas import Replicas
from serve.scoring.work import Judged, Options

UNCOUNTED = 100
"""Ended jobs that are kept for the statistics where nobody asks for them; older ones are lost."""


class Jobs:
    """Takes jobs from the store as long as it lives.

    Args:
        cropper: Handle of processes that decode for jobs alone: a long clip would keep those of the
            requests busy for minutes.
        scorers: Handles of those of each detector, by its name.
        store: Of the jobs.
        settings: Of the server.
    """

    def __init__(
        self, cropper: Any, scorers: Mapping[str, Any], store: JobStore, settings: ServeSettings
    ) -> None:
        scored = {name: Replicas(handle) for name, handle in scorers.items()}
        self._judging = Judging(Replicas(cropper), scored, settings)
        self._ended: deque[Judged] = deque(maxlen=UNCOUNTED)
        runner = JobRunner(
            store,
            self._judge,
            settings.job_s,
            on_done=self._keep,
            at_once=settings.job_decoders,
        )
        self._running = asyncio.get_running_loop().create_task(runner.run())

    async def _judge(self, content: bytes, claim: Claim, on_part: OnPart) -> Judged:
        return await self._judging.detect(
            np.frombuffer(content, np.uint8),
            claim.name,
            Options(**claim.options),
            on_part=on_part,
            request_id=claim.id,
        )

    def _keep(self, judged: Judged) -> None:
        without_pictures = judged.detection.model_copy(update={"evidence": []})
        self._ended.append(replace(judged, detection=without_pictures))

    async def take_ended(self) -> list[Judged]:
        """The jobs that have ended with a verdict, without evidence; each is given once."""
        ended = list(self._ended)
        self._ended.clear()
        return ended

    def check_health(self) -> None:
        """Ray Serve replaces the process when this raises."""
        if self._running.done():
            self._running.result()
            raise RuntimeError("the jobs have stopped")
