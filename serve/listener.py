"""HTTP at the ingress itself, without Ray Serve's proxy, which takes longer than all of our own."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from starlette.types import ASGIApp

from genconvit.config import ServeSettings

BACKLOG = 2048
DRAIN_S = 5
"""Requests that are under way when the server stops may take so long."""
KEEP_ALIVE_S = 75
"""A connection may be idle so long: longer than clients and most balancers keep one (httpx 5 s,
others 60). One that keeps it longer sends a request into a connection that is closing."""


class Listener:
    """Answers HTTP in the event loop that is running, from now on.

    Args:
        app: What answers.
        settings: Address and TLS.

    Raises:
        OSError: The address cannot be listened on.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listening = socket.create_server(
            (settings.host, settings.port), family=family, backlog=BACKLOG
        )
        config = uvicorn.Config(
            app,
            ssl_keyfile=settings.tls_key,
            ssl_certfile=settings.tls_certificate,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=DRAIN_S,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._server = uvicorn.Server(config)
        self._serving = asyncio.get_running_loop().create_task(self._server.serve([listening]))

    @property
    def listens(self) -> bool:
        """Whether it has not ended."""
        return not self._serving.done()

    async def close(self) -> None:
        """Takes no more requests, and waits for the end of those that are under way."""
        self._server.should_exit = True
        await self._serving
