from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.load import FAILED, TIMED_OUT, Answer, Plan, percentile, read_head, run, summarize

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@asynccontextmanager
async def server(answer: Callable[[bytes], Awaitable[bytes]]) -> AsyncIterator[str]:
    """A server that answers every request with what `answer` makes of its body."""

    async def talk(reader: Reader, writer: Writer) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                writer.write(await answer(await reader.readexactly(length)))
        except (EOFError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/detect"


@pytest.fixture
def body(tmp_path: Path) -> str:
    path = tmp_path / "face.jpg"
    path.write_bytes(b"\xff\xd8 a face")
    return str(path)


def test_an_open_loop_waits_for_no_answer_and_counts_from_when_a_request_was_due(
    body: str,
) -> None:
    turn = asyncio.Lock()
    seen = []

    async def one_at_a_time(content: bytes) -> bytes:
        seen.append(content)
        async with turn:
            await asyncio.sleep(0.05)
        return OK

    async def loaded() -> list[Answer]:
        async with server(one_at_a_time) as url:
            return await run(Plan(url, [[body]], seconds=0.5, rate=40))

    answers = asyncio.run(loaded())
    # 20 requests are due within half a second, and it takes a second to answer them.
    assert [round(answer.due_s, 3) for answer in answers] == [n / 40 for n in range(20)]
    assert answers[-1].latency_s > 0.4
    assert all(b'name="file"; filename="face.jpg"' in content for content in seen)
    assert all(b"\xff\xd8 a face" in content for content in seen)
    summary = summarize(answers, 0.5)
    assert summary["statuses"] == {"200": 20}
    assert 6 <= summary["rps"] <= 22  # those that came within the half second


def test_a_closed_loop_has_as_many_requests_under_way_as_clients(body: str) -> None:
    most = under_way = 0

    async def answer(content: bytes) -> bytes:
        nonlocal most, under_way
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return OK

    async def loaded() -> list[Answer]:
        async with server(answer) as url:
            plan = Plan(url, [[body], [body, body]], seconds=0.3, clients=3, warm_up_s=0.2)
            return await run(plan)

    answers = asyncio.run(loaded())
    assert most == 3
    assert answers and all(0 <= answer.due_s < 0.3 for answer in answers)


def test_refusals_time_outs_and_lost_connections_are_told_apart(body: str) -> None:
    count = 0

    async def answer(content: bytes) -> bytes:
        nonlocal count
        count += 1
        if count == 1:
            await asyncio.sleep(5)
        if count == 2:
            raise ConnectionResetError
        return b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"

    async def loaded() -> list[Answer]:
        async with server(answer) as url:
            return await run(Plan(url, [[body]], seconds=0.3, rate=10, time_out_s=0.5))

    begin = time.perf_counter()
    answers = asyncio.run(loaded())
    assert time.perf_counter() - begin < 4
    assert sorted(answer.status for answer in answers) == [FAILED, TIMED_OUT, 503]
    summary = summarize(answers, 0.3)
    assert summary["statuses"] == {"503": 1, "failed": 1, "timed out": 1}
    assert summary["answered"] == 0
    assert "p50_ms" not in summary


def test_nobody_listens(body: str) -> None:
    answers = asyncio.run(run(Plan("http://127.0.0.1:9/", [[body]], seconds=0.1, rate=20)))
    assert [answer.status for answer in answers] == [FAILED, FAILED]


def test_it_runs_as_a_process_of_its_own_that_imports_little(body: str) -> None:
    plan = {"url": "http://127.0.0.1:9/", "bodies": [[body]], "seconds": 0.1, "clients": 1}
    plan["clients"] = None
    plan["rate"] = 10
    code = "import sys, ray_jobs.load as load; load.main(); print(sorted(sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=json.dumps(plan), stdout=subprocess.PIPE, text=True)
    found, end = json.JSONDecoder().raw_decode(done.stdout)
    assert found["summary"]["statuses"] == {"failed": 1}
    assert found["plan"]["rate"] == 10
    modules = done.stdout[end:]
    assert "'ray_jobs.load'" in modules
    assert "'torch'" not in modules and "'ray'" not in modules and "'numpy'" not in modules


def test_a_plan_is_either_open_or_closed(body: str) -> None:
    with pytest.raises(ValueError, match="either clients or rate"):
        asyncio.run(run(Plan("http://127.0.0.1:9/", [[body]], seconds=1)))


@given(st.integers(100, 599), st.integers(0, 10**9), st.booleans())
def test_heads_of_answers(status: int, length: int, lower: bool) -> None:
    name = "content-length" if lower else "Content-Length"
    head = f"HTTP/1.1 {status} Reason\r\ndate: today\r\n{name}: {length}\r\n\r\n".encode()
    assert read_head(head) == (status, length)


@given(st.binary(max_size=200))
def test_a_head_that_is_none_is_a_value_error(head: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_head(head + b"\r\n\r\n")


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_a_value_that_the_share_does_not_exceed(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
