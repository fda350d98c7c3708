"""A load generator for an HTTP server: `python -m ray_jobs.load < plan.json > answers.json`.

It is a process of its own and small: neither torch nor Ray is imported, so that it takes little of
the machine it may share with the server.

With a rate the loop is open: each request is sent when it is due, whether or not earlier ones were
answered, and its latency counts from then. A server that falls behind can so not slow down the
clock that it is measured with ("coordinated omission"). With clients the loop is closed: each sends
its next request as soon as it has its answer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

TIMED_OUT, FAILED = 0, -1
"""In place of a status: there was no answer in time, or no connection."""
BOUNDARY = "genconvit-load"


@dataclass(frozen=True)
class Plan:
    """What is sent.

    Attributes:
        url: Where each request goes, http://HOST:PORT/PATH.
        bodies: The files of each request, sent in turn as multipart/form-data.
        seconds: How long requests are sent.
        clients: Of a closed loop; this or `rate` is given.
        rate: Requests a second of an open loop.
        warm_up_s: Before that, whose answers do not count.
        time_out_s: So long an answer is waited for.
    """

    url: str
    bodies: Sequence[Sequence[str]]
    seconds: float
    clients: int | None = None
    rate: float | None = None
    warm_up_s: float = 0.0
    time_out_s: float = 60.0


class Answer(NamedTuple):
    """One request. Times are seconds; zero is when those begin that count."""

    due_s: float
    late_s: float
    """Between that and the moment when the generator came to send it."""
    latency_s: float
    """Between `due_s` and the last byte of the answer."""
    status: int
    """Of HTTP; `TIMED_OUT` or `FAILED`."""


async def run(plan: Plan) -> list[Answer]:
    """Sends the requests and waits for their answers.

    Raises:
        ValueError: The plan has neither or both of clients and rate.
        OSError: A file cannot be read.
    """
    if (plan.clients is None) == (plan.rate is None):
        raise ValueError("give either clients or rate")
    sender = _Sender(plan)
    try:
        if plan.rate is not None:
            await _open_loop(sender, plan, plan.rate)
        else:
            clients = (_client(sender, plan) for _ in range(plan.clients or 0))
            await asyncio.gather(*clients)
    finally:
        sender.close()
    return sorted(answer for answer in sender.answers if answer.due_s >= 0)


async def _open_loop(sender: _Sender, plan: Plan, rate: float) -> None:
    async with asyncio.TaskGroup() as under_way:
        for number in range(math.ceil((plan.warm_up_s + plan.seconds) * rate)):
            due_s = number / rate - plan.warm_up_s
            await asyncio.sleep(due_s - sender.now())
            under_way.create_task(sender.send(due_s))


async def _client(sender: _Sender, plan: Plan) -> None:
    while (now := sender.now()) < plan.seconds:
        await sender.send(now)


class _Sender:
    """Sends requests over connections that are kept."""

    def __init__(self, plan: Plan) -> None:
        url = urlsplit(plan.url)
        self._host, self._port = url.hostname or "", url.port or 80
        head = f"POST {url.path or '/'} HTTP/1.1\r\nHost: {url.netloc}\r\n"
        requests = [_request(head, files) for files in plan.bodies]
        self._requests: Iterator[bytes] = itertools.cycle(requests)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._time_out_s = plan.time_out_s
        self._zero = time.perf_counter() + plan.warm_up_s
        self.answers: list[Answer] = []

    def now(self) -> float:
        """Seconds since those begin that count."""
        return time.perf_counter() - self._zero

    async def send(self, due_s: float) -> None:
        """Sends the next request and notes its answer."""
        late_s = self.now() - due_s
        try:
            async with asyncio.timeout(self._time_out_s - late_s):
                status = await self._exchange(next(self._requests))
        except TimeoutError:
            status = TIMED_OUT
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            status = FAILED
        self.answers.append(Answer(due_s, late_s, self.now() - due_s, status))

    def close(self) -> None:
        """Closes the connections."""
        for _, writer in self._idle:
            writer.close()

    async def _exchange(self, request: bytes) -> int:
        async with self._connection() as (reader, writer):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            status, length = read_head(head)
            await reader.readexactly(length)
            return status

    @asynccontextmanager
    async def _connection(
        self,
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """One that nobody uses, or a new one; closed where the exchange was not completed."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                break
            writer.close()  # the server has closed it meanwhile
        else:
            reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            yield reader, writer
        except BaseException:
            writer.close()
            raise
        self._idle.append((reader, writer))


def _request(head: str, files: Sequence[str]) -> bytes:
    parts = []
    for file in map(Path, files):
        parts += [
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; '
            f'filename="{file.name}"\r\n\r\n'.encode(),
            file.read_bytes(),
            b"\r\n",
        ]
    body = b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])
    kind = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    return f"{head}{kind}Content-Length: {len(body)}\r\n\r\n".encode() + body


def read_head(head: bytes) -> tuple[int, int]:
    """Status and body's length of an answer that begins with `head`.

    Raises:
        ValueError: It is not HTTP, or does not say how long its body is.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError("the answer is not HTTP/1")
    headers = (line.partition(":") for line in lines)
    lengths = [value for name, _, value in headers if name.lower() == "content-length"]
    if len(lengths) != 1:
        raise ValueError("the answer does not say how long it is")
    return int(rest[:3]), int(lengths[0])


def summarize(answers: Sequence[Answer], seconds: float) -> dict[str, float | dict[str, int]]:
    """Latencies and rates of a run.

    Args:
        answers: Of `run`.
        seconds: How long requests were sent.

    Returns:
        `sent`; `rps`, good answers that came in that time, a second; `p50_ms`, `p95_ms`, `p99_ms`
        and `max_ms` of the good answers (status 200), absent without any; `answered`, the share
        that is good; `late_p99_ms` of the generator itself; `statuses`, how often each came.
    """
    statuses: dict[str, int] = {}
    for answer in answers:
        name = {TIMED_OUT: "timed out", FAILED: "failed"}.get(answer.status, str(answer.status))
        statuses[name] = statuses.get(name, 0) + 1
    good = [answer for answer in answers if answer.status == 200]
    in_time = sum(answer.due_s + answer.latency_s <= seconds for answer in good)
    latencies = [1000 * answer.latency_s for answer in good]
    found: dict[str, float | dict[str, int]] = {
        "sent": len(answers),
        "rps": round(in_time / seconds, 2),
        "answered": round(len(good) / max(1, len(answers)), 4),
        "statuses": dict(sorted(statuses.items())),
    }
    if latencies:
        for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99), ("max_ms", 1)):
            found[name] = round(percentile(latencies, share), 2)
        lateness = [1000 * answer.late_s for answer in answers]
        found["late_p99_ms"] = round(percentile(lateness, 0.99), 2)
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


def main() -> None:
    """Reads the plan from standard input, and writes the answers and their summary as JSON."""
    plan = Plan(**json.load(sys.stdin))
    answers = asyncio.run(run(plan))
    found = {"plan": asdict(plan), "summary": summarize(answers, plan.seconds), "answers": answers}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
