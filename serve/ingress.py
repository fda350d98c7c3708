"""The deployment that takes requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayError
from starlette.types import ASGIApp

from genconvit.config import ServeSettings
from serve.decoding.cropper import Cropper
from serve.http.api import build_api
from serve.http.keys import Keys
from serve.http.server import Server
from serve.jobs.store import JobStore
from serve.listener import Listener
from serve.problems import ProblemError
from serve.scoring.callees import Croppers, Scorers
from serve.scoring.judging import Judging
from serve.scoring.replicas import Replicas
from serve.watching.logs import set_up_logs
from serve.watching.metrics import Metrics

logger = logging.getLogger(__name__)

CROPPER = "Cropper"
"""The deployment of those that decode for requests."""
COUNT_EVERY_S = 15.0
JOBS_EVERY_S = 5.0
"""So often it is asked which jobs have ended, for the statistics."""


@serve.ingress()
class Ingress:
    """One process for all requests: it waits for others, and counts for the whole server.

    Args:
        cropper: Handle of the processes that decode.
        scorers: Handles of those of each detector, by its name.
        jobs: Handle of what runs the jobs.
        store: Of the jobs.
        settings: Of the server.
        listens: At the address in the settings; otherwise requests come through Ray Serve's proxy.
    """

    def __init__(
        self,
        cropper: Any,
        scorers: Mapping[str, Any],
        jobs: Any,
        store: JobStore,
        settings: ServeSettings,
        listens: bool,
    ) -> None:
        set_up_logs(Path(settings.log_folder) if settings.log_folder else None)
        self._croppers = Croppers(Replicas(cropper), Cropper(settings))
        judging = Judging(
            self._croppers,
            {
                name: Scorers(Replicas(handle), settings.batch_crops)
                for name, handle in scorers.items()
            },
            settings,
        )
        self._server = Server(
            judging=judging,
            jobs=store,
            keys=Keys(settings),
            metrics=Metrics(),
            settings=settings,
        )
        loop = asyncio.get_running_loop()
        # Kept, since a task that nobody holds may vanish.
        self._tasks = (
            loop.create_task(self._wait_for_models(judging)),
            loop.create_task(self._count_croppers()),
            loop.create_task(self._count_jobs(Replicas(jobs))),
        )
        self._listener = Listener(build_api(self._server), settings) if listens else None

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Ray Serve."""
        return build_api(self._server, names_requests=False)

    async def check_health(self) -> None:
        """Called by Ray Serve, which starts another process where this one fails."""
        if self._listener is not None and not self._listener.listens:
            raise RuntimeError("it no longer listens")
        for task in self._tasks:
            if task.done():
                task.result()  # raises what ended it

    async def __del__(self) -> None:
        """Called by Ray Serve before it ends this process."""
        if self._listener is not None:
            await self._listener.close()

    async def _wait_for_models(self, judging: Judging) -> None:
        for name in self._server.settings.models:
            self._server.metrics.model(name, (await judging.loaded(name)).info)

    async def _count_croppers(self) -> None:
        application = serve.get_replica_context().app_name
        while True:
            try:
                status = (await asyncio.to_thread(serve.status)).applications[application]
                states = status.deployments[CROPPER].replica_states
                self._croppers.are(states.get("RUNNING", 0))
            except (RayError, KeyError):  # the controller is away; it is told again later
                logger.debug("the decoding processes cannot be counted", exc_info=True)
            await asyncio.sleep(COUNT_EVERY_S)

    async def _count_jobs(self, jobs: Replicas) -> None:
        while True:
            try:
                for judged in await jobs.call("take_ended"):
                    self._server.metrics.detection(judged.detection, judged.statistics)
            except (RayError, ProblemError):  # it starts anew; those that it kept are not counted
                logger.debug("the ended jobs cannot be counted", exc_info=True)
            await asyncio.sleep(JOBS_EVERY_S)
