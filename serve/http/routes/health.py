"""For whoever watches over the server, and the page."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from genconvit.answers import Health
from serve.http.server import TheServer, problems
from serve.problems import ProblemError

router = APIRouter(tags=["health"])

WEB = Path(__file__).parents[2] / "web"
RETRY_S = 2.0


@router.get("/healthz")
async def healthz(server: TheServer) -> Health:
    """Whether requests are taken; it waits for nothing."""
    ids = server.judging.ids()
    return Health(
        status="ok" if server.judging.is_ready() else "starting",
        detector=ids.get(server.judging.default, ""),
        details={"models": ids},
    )


@router.get("/readyz", responses=problems())
async def readyz(server: TheServer) -> Health:
    """200 once every detector is loaded, else 503."""
    health = await healthz(server)
    if health.status != "ok":
        detail = "not every detector is loaded yet; try again soon."
        raise ProblemError(503, detail, "starting", RETRY_S)
    return health


@router.get("/metrics", response_class=PlainTextResponse, responses=problems())
async def metrics(server: TheServer) -> Response:
    """Counters for Prometheus (docs/monitoring.md)."""
    server.metrics.jobs(await asyncio.to_thread(server.jobs.counts))
    server.metrics.queue(server.judging.crops_under_way)
    return Response(server.metrics.render(), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """The page."""
    return FileResponse(WEB / "index.html")
