"""What the routes of the endpoint work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query, Request

from genconvit.answers import Problem
from genconvit.config import ServeSettings
from genconvit.config_decision import Aggregation
from serve.http.keys import Caller, Keys
from serve.jobs.store import JobStore
from serve.problems import MEDIA_TYPE
from serve.scoring.judging import Judging
from serve.scoring.work import Options
from serve.watching.metrics import Metrics


@dataclass
class Server:
    """One server.

    Attributes:
        judging: Judges.
        jobs: Keeps long clips.
        keys: Who may ask.
        metrics: What is counted.
        settings: Limits.
    """

    judging: Judging
    jobs: JobStore
    keys: Keys
    metrics: Metrics
    settings: ServeSettings


# Asynchronous, though they wait for nothing: FastAPI would run each in a thread.
async def _server(request: Request) -> Server:
    server: Server = request.app.state.server
    return server


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


async def _request_id(request: Request) -> str:
    return str(request.state.request_id)


async def _options(
    frames: Annotated[
        int | None, Query(ge=1, le=100_000, description="Frames to look at, evenly spaced.")
    ] = None,
    aggregation: Annotated[
        Aggregation | None,
        Query(
            description="From the faces' scores to the clip's. Another than the detector's own is "
            "not calibrated."
        ),
    ] = None,
    explain: Annotated[bool, Query(description="With pictures of the evidence; slow.")] = False,
    model: Annotated[str | None, Query(max_length=64, description="Name of the detector.")] = None,
) -> Options:
    return Options(model, frames, aggregation, explain)


TheServer = Annotated[Server, Depends(_server)]
TheCaller = Annotated[Caller, Depends(_caller)]
RequestId = Annotated[str, Depends(_request_id)]
TheOptions = Annotated[Options, Depends(_options)]

MEANINGS = {
    401: "No API key, or a wrong one.",
    403: "The key may not do this.",
    404: "There is no such thing.",
    408: "The body took too long to arrive.",
    413: "The body, the clip or a picture of it is larger than the server takes.",
    415: "The file is neither a video nor an image.",
    422: "The file cannot be read, or a parameter is wrong.",
    429: "The key asks too often, or has too many jobs; Retry-After says when it may again.",
    503: "The server has no room or time for it; Retry-After says when to try again.",
    504: "It took longer than the server allows.",
}

OF_FILES = (404, 408, 413, 415)
"""What a route that takes files may refuse them with, beside what all do."""


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documentation of what a route is answered with in place of a result."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {
        status: {"description": MEANINGS[status], "content": content}
        for status in sorted({401, 422, 429, 503, *statuses})
    }
