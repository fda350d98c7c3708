"""A server that keeps to the contract of the HTTP endpoint and judges nothing, and has bad days."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, UploadFile
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from genconvit.answers import (
    BatchDetection,
    BatchItem,
    CropScores,
    Detection,
    Health,
    Job,
    ModelCard,
    ModelId,
    ModelList,
    Timings,
)
from genconvit.verdict import TimelinePoint, TrackSummary
from serve.problems import ProblemError

MODEL = ModelId(name="default", id="v2-nano-0", fingerprint="0" * 64)
TIMES = Timings(wait=0, decode=1, queue=0, network=1, total=2)
CARD = ModelCard(
    name="default",
    default=True,
    id=MODEL.id,
    fingerprint=MODEL.fingerprint,
    loaded_at=datetime(2026, 1, 1, tzinfo=UTC),
    arch="v2",
    preset="nano",
    image_size=64,
    frames=4,
    aggregation="mean",
    threshold=0.5,
    band=(0.45, 0.55),
    calibrated=False,
    device="cpu",
    metrics={},
)


def busy(status: int = 503, retry_after_s: float | None = 1) -> ASGIApp:
    """Answers that it is busy, before the body is read."""
    problem = ProblemError(status, "the server is busy; try again later.", "busy", retry_after_s)
    return problem.response("id-of-the-request")


def broken_proxy(status: int) -> ASGIApp:
    """What a proxy says whose server is gone."""
    return HTMLResponse("<h1>Bad Gateway</h1>", status)


async def hang_up(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes the request, and breaks the connection in the answer."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-length", b"1000")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{", "more_body": True})


class LittleServer:
    """What it was asked, and what goes wrong next.

    Attributes:
        asked: Method, path and query of each request, in order.
        troubles: What answers the next requests instead of the server, in order.
        key: The API key that it asks for, if any.
        received: Name and SHA-256 of each file that arrived.
        jobs: Those under way.
    """

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.troubles: list[ASGIApp] = []
        self.key: str | None = None
        self.received: list[tuple[str, str]] = []
        self.jobs: dict[str, Job] = {}
        self._app = _app(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        query = f"?{request.url.query}" if request.url.query else ""
        self.asked.append(f"{request.method} {request.url.path}{query}")
        app: ASGIApp = self._app
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            app = ProblemError(401, "this server asks for an API key.", "no key").response()
        if self.troubles:
            app = self.troubles.pop(0)
        await app(scope, receive, send)

    def detection(self, name: str, points: int = 2) -> Detection:
        """A verdict on a file."""
        return Detection(
            clip=name,
            verdict="FAKE",
            probability_fake=0.9,
            reason="mean P(fake) 0.90 over 2 faces",
            frames_sampled=2,
            frames_with_face=2,
            tracks=[TrackSummary(track=0, first_s=0, last_s=1, crops=2, probability_fake=0.9)],
            timeline=[point(at) for at in range(points)],
            threshold=0.5,
            band=(0.45, 0.55),
            model=MODEL,
            timings_ms=TIMES,
        )


def point(at: int) -> TimelinePoint:
    """A face at a second of the clip."""
    return TimelinePoint(time_s=at, frame_index=at, track=0, box=(0, 0, 9, 9), probability_fake=0.9)


def _app(server: LittleServer) -> FastAPI:
    app = FastAPI()
    app.add_exception_handler(ProblemError, _answer)

    async def arrived(file: UploadFile) -> str:
        content = await file.read()
        name = file.filename or ""
        server.received.append((name, hashlib.sha256(content).hexdigest()))
        if content.startswith(b"Dear reader"):
            raise ProblemError(415, f"{name} is neither a video nor an image.", "not a clip")
        return name

    @app.post("/v1/detect")
    async def detect(file: UploadFile) -> Detection:
        return server.detection(await arrived(file))

    @app.post("/v1/detect/batch")
    async def batch(file: list[UploadFile]) -> BatchDetection:
        names = [await arrived(each) for each in file]
        return BatchDetection(
            results=[BatchItem(file=name, detection=server.detection(name)) for name in names]
        )

    @app.post("/v1/crops")
    async def crops(file: list[UploadFile]) -> CropScores:
        for each in file:
            await arrived(each)
        return CropScores(probability_fake=[0.5] * len(file), model=MODEL, timings_ms=TIMES)

    @app.post("/v1/jobs", status_code=202)
    async def submit(file: UploadFile) -> Job:
        id = f"job {len(server.jobs)}/"  # what must be quoted in a path
        now = datetime.now(UTC)
        server.jobs[id] = Job(id=id, state="queued", progress=0, created_at=now, timeline=[])
        await arrived(file)
        return server.jobs[id]

    @app.get("/v1/jobs/{id:path}")
    async def job(id: str) -> Job:
        """A job goes on by half whenever it is asked for."""
        if id not in server.jobs:
            raise ProblemError(404, f"there is no job {id}.", "no job")
        old = server.jobs[id]
        done = old.progress + 0.5
        seen = [point(at) for at in range(round(2 * done))]
        state: dict[str, Any] = {"state": "running", "progress": done, "timeline": seen}
        if done == 1:
            state |= {"state": "done", "detection": server.detection("upload")}
        server.jobs[id] = old.model_copy(update=state)
        return server.jobs[id]

    @app.delete("/v1/jobs/{id:path}", status_code=204)
    async def delete(id: str) -> None:
        server.jobs.pop(id, None)

    @app.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(models=[CARD])

    @app.post("/v1/models/{name}/reload")
    async def reload(name: str) -> ModelCard:
        return CARD.model_copy(update={"name": name})

    @app.get("/healthz")
    async def healthz() -> Health:
        return Health(status="ok", detector=MODEL.id)

    return app


def _answer(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return error.response()


@contextmanager
def little_server(port: int = 0, **options: Any) -> Iterator[LittleServer]:
    """Runs a server in a thread; `options` are those of uvicorn, such as its certificate."""
    server = LittleServer()
    config = uvicorn.Config(server, port=port, log_level="critical", lifespan="off", **options)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    server.url = f"{'https' if 'ssl_keyfile' in options else 'http'}://127.0.0.1:{port}"
    try:
        yield server
    finally:
        running.should_exit = True
        thread.join(10)
