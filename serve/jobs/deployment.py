"""The deployment that works on the jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np

from genconvit.answers import Detection
from genconvit.config import ServeSettings
from serve.jobs.queue import Claim
from serve.jobs.runner import JobRunner, OnPart
from serve.jobs.store import JobStore
from serve.scoring.judging import Judging
from serve.scoring.replicas import Replicas
from serve.scoring.work import Options


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
        runner = JobRunner(store, self._judge, settings.job_s, at_once=settings.job_decoders)
        self._running = asyncio.get_running_loop().create_task(runner.run())

    async def _judge(self, content: bytes, claim: Claim, on_part: OnPart) -> Detection:
        judged = await self._judging.detect(
            np.frombuffer(content, np.uint8),
            claim.name,
            Options(**claim.options),
            on_part=on_part,
            request_id=claim.id,
        )
        return judged.detection

    def check_health(self) -> None:
        """Ray Serve replaces the process when this raises."""
        if self._running.done():
            self._running.result()
            raise RuntimeError("the jobs have stopped")
