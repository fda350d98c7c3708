from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from genconvit.config import ServeSettings
from serve.listener import Listener
from tests.conftest import free_port


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(0.3)
    await PlainTextResponse("done")(scope, receive, send)


def test_it_answers_until_it_is_closed_and_lets_requests_end() -> None:
    settings = ServeSettings(port=free_port())

    async def talk() -> tuple[httpx.Response, bool]:
        listener = Listener(slow, settings)
        url = f"http://127.0.0.1:{settings.port}/"
        async with httpx.AsyncClient() as client:
            asked = asyncio.create_task(client.get(url))
            await asyncio.sleep(0.15)
            assert listener.listens
            await listener.close()
            answer = await asked
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
        return answer, listener.listens

    answer, listens = asyncio.run(talk())
    assert (answer.status_code, answer.text) == (200, "done")
    assert "server" not in answer.headers
    assert not listens


def test_a_client_may_use_its_connection_for_as_long_as_clients_keep_them() -> None:
    """httpx keeps an idle one for 5 s: if the server closed it then, a request would get none."""
    settings = ServeSettings(port=free_port())
    request = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"

    async def twice() -> list[bytes]:
        listener = Listener(slow, settings)
        reader, writer = await asyncio.open_connection("127.0.0.1", settings.port)
        answers = []
        for idle_s in (0, 5.5):
            await asyncio.sleep(idle_s)
            writer.write(request)
            answers.append(await reader.readuntil(b"done"))
        writer.close()
        await listener.close()
        return answers

    assert [answer.split(b"\r\n")[0] for answer in asyncio.run(twice())] == [b"HTTP/1.1 200 OK"] * 2


def test_an_address_that_is_taken_is_told_at_once() -> None:
    settings = ServeSettings(port=free_port())

    async def twice() -> None:
        listener = Listener(slow, settings)
        try:
            with pytest.raises(OSError, match="Address already in use"):
                Listener(slow, settings)
        finally:
            await listener.close()

    asyncio.run(twice())
