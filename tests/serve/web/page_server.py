"""A small server with the API's answers, for the page: a script says what it does next.

python -m tests.serve.web.page_server       to look at the page
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response, UploadFile
from fastapi.staticfiles import StaticFiles

import serve
from genconvit.answers import (
    Detection,
    Evidence,
    Job,
    ModelCard,
    ModelId,
    ModelList,
    Timings,
)
from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import decide
from genconvit.verdict import TimelinePoint
from serve.problems import ProblemError
from tests.serve.web.footage import FPS, HEIGHT, WIDTH, box_at, crop_of

WEB = Path(serve.__file__).parent / "web"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
FINGERPRINT = "9f2c41d07be85a63" * 4
DECISION = DecisionSettings()


@dataclass
class Script:
    """What the server does next, and what it was asked."""

    scores: list[list[float]] = field(default_factory=lambda: [[0.9] * 6])
    """P(fake) of each face in each sampled frame; NaN where the face is not seen."""
    seconds: float = 6.0
    """Length of the clip; 0 for an image."""
    interval: tuple[float, float] | None = (0.84, 0.95)
    calibrated: bool = True
    fingerprint: str = FINGERPRINT
    """Of the detector that answers."""
    steps: int = 1
    """How often a job must be asked for until it is done; its timeline grows on the way."""
    hold: bool = False
    """A job does not get over its last step."""
    key: str | None = None
    refusals: list[ProblemError] = field(default_factory=list)
    """Given to the next requests but those for the list of models, one each."""
    asked: list[str] = field(default_factory=list)
    """Method and path with query of all requests to /v1."""
    keys: list[str] = field(default_factory=list)
    """The API keys that came with them."""
    polls: int = 0

    def timeline(self) -> list[TimelinePoint]:
        """The points, ordered by frame, then track."""
        frames = len(self.scores[0]) if self.scores else 0
        points = []
        for frame in range(frames):
            time_s = round((frame + 0.5) * self.seconds / frames, 2)
            for track, row in enumerate(self.scores):
                if np.isnan(row[frame]):
                    continue
                points.append(
                    TimelinePoint(
                        time_s=time_s,
                        frame_index=round(FPS * time_s),
                        track=track,
                        box=box_at(track, time_s),
                        probability_fake=row[frame],
                    )
                )
        return points

    def detection(self, name: str, explain: bool = False) -> Detection:
        """The answer for the file."""
        timeline = self.timeline()
        frames = len(self.scores[0]) if self.scores else 6
        verdict = decide(name, timeline, frames, DECISION)
        return Detection(
            **verdict.model_dump(),
            threshold=DECISION.threshold,
            band=DECISION.band,
            probability_interval=self.interval if self.seconds and timeline else None,
            duration_s=self.seconds or None,
            width=WIDTH,
            height=HEIGHT,
            model=ModelId(name="main", id="v2-base-9f2c41d0", fingerprint=self.fingerprint),
            timings_ms=Timings(wait=2, decode=880, queue=4, network=310, total=1210),
            evidence=_evidence(timeline) if explain else [],
            request_id="4be1a0c2d7",
        )


def build(script: Script) -> FastAPI:
    """The server's app."""
    app = FastAPI(docs_url=None)
    jobs: dict[str, str] = {}

    @app.middleware("http")
    async def gate(request: Request, call_next: Any) -> Response:
        path = request.url.path.removeprefix(request.scope.get("root_path", ""))
        if path.startswith("/v1/"):
            query = f"?{request.url.query}" if request.url.query else ""
            script.asked.append(f"{request.method} {path[3:]}{query}")
            key = request.headers.get("authorization", "").removeprefix("Bearer ")
            script.keys.append(key)
            if script.key is not None and key != script.key:
                return ProblemError(401, "Send an API key.", "no key").response("req-401")
            if script.refusals and path != "/v1/models":
                return script.refusals.pop(0).response("req-refused")
        response: Response = await call_next(request)
        response.headers["Content-Security-Policy"] = CSP
        response.headers["X-Request-Id"] = "4be1a0c2d7"
        return response

    @app.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(models=[_card("main", True, script), _card("small", False, script)])

    @app.post("/v1/detect")
    async def detect(file: UploadFile, explain: bool = False) -> Detection:
        return script.detection(file.filename or "", explain)

    @app.post("/v1/jobs", status_code=202)
    async def submit(file: UploadFile) -> Job:
        jobs["j1"], script.polls = file.filename or "", 0
        return _job(script, jobs["j1"], "queued", 0)

    @app.get("/v1/jobs/{job}")
    async def job(job: str) -> Job:
        if job not in jobs:
            raise ProblemError(404, "There is no such job.", "no job")
        script.polls = min(script.polls + 1, script.steps - script.hold)
        known = len(script.timeline()) * script.polls // script.steps
        state = "running" if script.polls < script.steps else "done"
        return _job(script, jobs[job], state, known)

    @app.delete("/v1/jobs/{job}", status_code=204)
    async def remove(job: str) -> None:
        jobs.pop(job, None)

    @app.exception_handler(ProblemError)
    async def problem(_: Request, error: ProblemError) -> Response:
        return error.response("req-problem")

    @app.get("/")
    async def page() -> Response:
        return Response((WEB / "index.html").read_bytes(), media_type="text/html")

    app.mount("/web", StaticFiles(directory=WEB))
    return app


@contextmanager
def running(script: Script, port: int, below: str = "") -> Iterator[str]:
    """The server in a thread; gives the page's address. `below`: a path before all of its own."""
    app = build(script)
    if below:
        inner, app = app, FastAPI()
        app.mount(below, inner)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}{below}/"
    finally:
        server.should_exit = True
        thread.join(10)


def _card(name: str, default: bool, script: Script) -> ModelCard:
    return ModelCard(
        name=name,
        default=default,
        id=f"v2-{'base' if default else 'nano'}-9f2c41d0",
        fingerprint=FINGERPRINT,
        loaded_at=datetime(2026, 1, 1, tzinfo=UTC),
        arch="v2",
        preset="base" if default else "nano",
        image_size=224,
        frames=16,
        aggregation="mean",
        threshold=DECISION.threshold,
        band=DECISION.band,
        calibrated=script.calibrated,
        device="cpu",
        metrics={"auc": 0.93},
    )


def _job(script: Script, name: str, state: Any, known: int) -> Job:
    timeline = script.timeline()[:known]
    done = state == "done"
    return Job(
        id="j1",
        state=state,
        progress=1.0 if done else known / max(1, len(script.timeline())),
        created_at=datetime.now(UTC),
        timeline=timeline,
        detection=script.detection(name) if done else None,
    )


def _evidence(timeline: list[TimelinePoint]) -> list[Evidence]:
    entries = []
    for track in sorted({point.track for point in timeline}):
        points = [point for point in timeline if point.track == track]
        for point in (points[0], points[-1])[: len(points)]:
            crop = crop_of(track, point.time_s)
            heat = np.zeros(crop.shape[:2], np.uint8)
            cv2.circle(heat, (112, 150), 40, 255, -1)
            heat = cv2.applyColorMap(cv2.GaussianBlur(heat, (0, 0), 18), cv2.COLORMAP_INFERNO)
            over = cv2.addWeighted(crop, 0.5, heat, 0.5, 0)
            entries.append(
                Evidence(
                    **point.model_dump(exclude={"box", "sigmoids"}),
                    crop=_uri(crop, ".jpg", "jpeg"),
                    heat=_uri(over, ".png", "png"),
                    errors={"ed": _uri(heat, ".png", "png"), "vae": _uri(heat, ".png", "png")},
                    means_something=point is points[0],
                    sentence="The marked places matter more than random ones (gain +0.21).",
                )
            )
    return entries


def _uri(image: np.ndarray, suffix: str, kind: str) -> str:
    data = base64.b64encode(cv2.imencode(suffix, image)[1].tobytes()).decode()
    return f"data:image/{kind};base64,{data}"


if __name__ == "__main__":
    uvicorn.run(build(Script()), host="127.0.0.1", port=8099)
