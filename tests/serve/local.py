"""The whole application in one process, without Ray: its own parts call each other directly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genconvit.config import ServeSettings
from serve.decoding.cropper import Cropper
from serve.http.api import build_api
from serve.http.keys import Keys
from serve.http.server import Server
from serve.jobs.store import open_store
from serve.scoring.judging import Judging
from serve.scoring.scorer import Scorer
from serve.watching.metrics import Metrics

if TYPE_CHECKING:
    import httpx2 as httpx  # Starlette's choice, with the same API

PROBLEM = "application/problem+json"


class Local:
    """Objects in place of the processes of a deployment, asked in turn."""

    def __init__(self, *targets: Any) -> None:
        self.targets, self._asked = targets, 0

    async def call(self, method: str, *args: Any) -> Any:
        return await getattr(self._next(), method)(*args)

    async def stream(self, method: str, *args: Any) -> AsyncIterator[Any]:
        async for part in getattr(self._next(), method)(*args):
            yield part

    def _next(self) -> Any:
        self._asked += 1
        return self.targets[self._asked % len(self.targets)]


class Application:
    """An ASGI application that builds its server in the loop that it runs in."""

    server: Server
    cropper: Cropper

    def __init__(self, settings: ServeSettings, processes: int = 1) -> None:
        self.settings, self._processes = settings, processes
        self.scorers: dict[str, list[Scorer]] = {}
        self._api: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await self._start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.cropper._sandbox.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        assert self._api is not None
        await self._api(scope, receive, send)

    async def _start(self) -> None:
        settings = self.settings
        self.cropper = Cropper(settings)
        self.scorers = {
            name: [Scorer(location, settings) for _ in range(self._processes)]
            for name, location in settings.models.items()
        }
        scorers = {name: Local(*each) for name, each in self.scorers.items()}
        self.server = Server(
            judging=Judging(Local(self.cropper), scorers, settings),
            jobs=open_store(settings),
            keys=Keys(settings),
            metrics=Metrics(),
            settings=settings,
        )
        for name in settings.models:
            loaded = await self.server.judging.loaded(name)
            self.server.metrics.model(name, loaded.info)
        self._api = build_api(self.server)


@dataclass
class Raw:
    """What an application sent over ASGI."""

    messages: list[Message] = field(default_factory=list)
    received: int = 0
    """Messages of the body that it asked for."""

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> Headers:
        return Headers(raw=self.messages[0]["headers"])

    @property
    def content(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])


class LocalClient(TestClient):
    """A client of an application in this process."""

    application: Application

    @property
    def server(self) -> Server:
        return self.application.server

    def send_file(
        self, path: str, content: bytes, name: str = "clip", **options: Any
    ) -> httpx.Response:
        """POSTs a file; `options` are those of httpx."""
        return self.post(path, files={"file": (name, content)}, **options)

    def send_files(
        self, path: str, contents: Iterable[tuple[str, bytes]], **options: Any
    ) -> httpx.Response:
        return self.post(path, files=[("file", named) for named in contents], **options)

    def raw(
        self,
        path: str = "/v1/detect",
        headers: Mapping[str, str] | Iterable[tuple[bytes, bytes]] = (),
        body: Iterable[Message] = (),
        *,
        method: str = "POST",
        query: bytes = b"",
    ) -> Raw:
        """One request, of exactly these messages; after the last one the client is gone.

        Args:
            path: Not checked, as little as the headers.
            headers: As text, or as bytes.
            body: `chunks` makes the messages.
            method: Of HTTP.
            query: Behind the question mark.
        """
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(errors="replace"),
            "root_path": "",
            "query_string": query,
            "headers": [
                (name.lower().encode(), value.encode("latin-1"))
                if isinstance(name, str)
                else (name, value)
                for name, value in pairs
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        found, waiting = Raw(), iter(body)

        async def receive() -> Message:
            message = next(waiting, None)
            if message is None:
                return {"type": "http.disconnect"}
            found.received += 1
            await asyncio.sleep(0)
            return message

        async def send(message: Message) -> None:
            found.messages.append(message)

        assert self.portal is not None
        self.portal.call(self.application, scope, receive, send)
        return found


def chunks(content: bytes, size: int, *, complete: bool = True) -> Iterator[Message]:
    """A body as messages of ASGI; without its end where it is not complete."""
    for start in range(0, len(content), size):
        more = not complete or start + size < len(content)
        yield {
            "type": "http.request",
            "body": content[start : start + size],
            "more_body": more,
        }


def multipart(
    *files: tuple[str, bytes], boundary: str = "limit", field_name: str = "file"
) -> tuple[dict[str, str], bytes]:
    """Headers and body of a form with these files."""
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field_name}"; '
        f'filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files
    )
    body += f"--{boundary}--\r\n".encode()
    headers = {
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Length": str(len(body)),
    }
    return headers, body


def assert_problem(response: httpx.Response | Raw, status: int, reason: str) -> dict[str, Any]:
    """Checks that it is a whole problem document; gives it."""
    code = response.status if isinstance(response, Raw) else response.status_code
    document: dict[str, Any] = json.loads(response.content)
    assert (code, document["reason"]) == (status, reason), document
    assert response.headers["content-type"] == PROBLEM
    assert document.keys() == {"type", "title", "status", "detail", "reason", "request_id"}
    assert document["status"] == status
    assert document["title"] and document["detail"].endswith(".")
    assert document["request_id"] == response.headers["x-request-id"]
    return document


@contextmanager
def local_client(
    state: Path, *detectors: Path, processes: int = 1, **settings: Any
) -> Iterator[LocalClient]:
    """A client of an application.

    Args:
        state: Folder of the jobs.
        detectors: The first one is called `default`, the others `second`, `third`.
        processes: Scoring processes of each.
        **settings: Of the server.
    """
    models = {
        name: str(path)
        for name, path in zip(("default", "second", "third"), detectors, strict=False)
    }
    chosen = ServeSettings.model_validate({"models": models, "state": str(state), **settings})
    application = Application(chosen, processes)
    with LocalClient(application, raise_server_exceptions=False) as client:
        client.application = application
        yield client
