"""What every request passes before and after its route: ids, keys, limits, counting, log lines."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.http.server import Server
from serve.problems import ProblemError, fault
from serve.watching.logs import log_request, request_id_of
from serve.watching.metrics import CLIENT_LEFT

logger = logging.getLogger(__name__)

OPEN = ("/", "/healthz", "/readyz", "/docs", "/openapi.json", "/favicon.ico")
"""Paths that no key is asked for, and those below `/web/`."""
RETRY_S = 2.0
DIGITS = re.compile("[0-9]{1,20}")
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class Gate:
    """ASGI middleware around the whole application.

    Args:
        app: The application.
        server: Its parts.
        names_requests: Answers carry the request's id. Behind Ray Serve's proxy they do anyway.
    """

    def __init__(self, app: ASGIApp, server: Server, names_requests: bool = True) -> None:
        self._app, self._server = app, server
        self.names_requests = names_requests
        self._requests = 0
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by the ASGI server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await _Passage(self, self._server, scope, receive, send).pass_on(self._app)

    def enter(self) -> None:
        """Counts a request that takes work.

        Raises:
            ProblemError: There are as many as there may be.
        """
        most = self._server.settings.max_requests
        if self._requests >= most:
            detail = f"{most} requests are under way, which is the limit; try again soon."
            raise ProblemError(503, detail, "overload", RETRY_S)
        self._requests += 1
        self._server.metrics.in_flight(self._requests)

    def leave(self) -> None:
        """The request is answered."""
        self._requests -= 1
        self._server.metrics.in_flight(self._requests)

    def reserve(self, count: int) -> None:
        """Counts bytes of a body that are held.

        Raises:
            ProblemError: The bodies of all requests together would be too large.
        """
        most = self._server.settings.max_bodies_mb * 1_000_000
        if self._bytes and self._bytes + count > most:
            detail = "other uploads fill the room there is for them; try again soon."
            raise ProblemError(503, detail, "overload", RETRY_S)
        self._bytes += count

    def release(self, count: int) -> None:
        """They are no longer held."""
        self._bytes -= count


class _Passage:
    """One request."""

    def __init__(
        self, gate: Gate, server: Server, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._gate, self._server = gate, server
        self._scope, self._receive, self._send = scope, receive, send
        self._headers = Headers(scope=scope)
        self._id = request_id_of(self._headers.get("x-request-id"))
        self._told: dict[str, Any] = {}
        self._begin = time.monotonic()
        self._status = 0
        self._body = self._reserved = 0
        self._is_read = False

    async def pass_on(self, app: ASGIApp) -> None:
        """Lets it in, or answers it here."""
        state: MutableMapping[str, Any] = self._scope.setdefault("state", {})
        state["request_id"], state["told"] = self._id, self._told
        entered = False
        try:
            if self._takes_a_key():
                state["caller"] = caller = self._server.keys.check(self._headers)
                self._told["key"] = caller.name
            if self._scope["method"] == "POST":
                self._gate.enter()
                entered = True
                self._look_at_length()
            await app(self._scope, self._read, self._answer)
        except ProblemError as problem:
            await self._refuse(problem)
        except Exception:
            logger.exception("request %s failed", self._id)
            await self._refuse(fault(self._id))
        finally:
            self._gate.release(self._reserved)
            if entered:
                self._gate.leave()
            self._account()

    async def _refuse(self, problem: ProblemError) -> None:
        self._told["reason"] = problem.reason
        if not self._status:  # else the routes have answered
            await problem.response(self._id)(self._scope, self._receive, self._answer)

    def _takes_a_key(self) -> bool:
        path = self._scope["path"]
        return path not in OPEN and not path.startswith("/web/")

    def _look_at_length(self) -> None:
        """Refuses a body that says it is too large before a byte of it is read."""
        length = self._headers.get("content-length", "")
        if DIGITS.fullmatch(length):
            self._refuse_large(int(length))
            self._reserve(int(length))

    def _refuse_large(self, count: int) -> None:
        most = self._server.settings.max_upload_mb
        if count > most * 1_000_000:
            raise ProblemError(413, f"the request is larger than {most} MB.", "too large")

    def _reserve(self, count: int) -> None:
        if count > self._reserved:
            self._gate.reserve(count - self._reserved)
            self._reserved = count

    async def _read(self) -> Message:
        if self._is_read:
            return await self._receive()
        seconds = self._server.settings.upload_s
        try:
            async with asyncio.timeout(self._begin + seconds - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            detail = f"the body took longer than {seconds:g} seconds to arrive; send it again."
            raise ProblemError(408, detail, "slow upload") from None
        self._is_read = not message.get("more_body", False)
        if message["type"] == "http.request":
            self._body += len(message.get("body", b""))
            self._refuse_large(self._body)
            self._reserve(self._body)
        return message

    async def _answer(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            if self._gate.names_requests:
                headers["X-Request-Id"] = self._id
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Cache-Control"] = headers.get("Cache-Control", "no-store")
            if self._is_page():
                headers["Content-Security-Policy"] = PAGE_POLICY
                headers["Referrer-Policy"] = "no-referrer"
        await self._send(message)

    def _is_page(self) -> bool:
        path = self._scope["path"]
        return path in ("/", "/docs") or path.startswith("/web/")

    def _account(self) -> None:
        seconds = time.monotonic() - self._begin
        route = getattr(self._scope.get("route"), "path", "other")
        status = self._status or CLIENT_LEFT
        self._server.metrics.request(route, status, seconds, self._body)
        if reason := self._told.get("reason"):
            self._server.metrics.problem(reason)
        log_request(
            request_id=self._id,
            route=route,
            status=status,
            milliseconds=round(1000 * seconds, 1),
            bytes=self._body,
            **self._told,
        )
