"""How much the application takes, from whom, and that it is itself again afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.types import Message

from serve.http.gate import Gate
from tests.serve import hostile
from tests.serve.local import LocalClient, assert_problem, chunks, local_client, multipart
from tests.serve.web import footage

DETECT, BATCH, CROPS = "/v1/detect", "/v1/detect/batch", "/v1/crops"
MB = 1_000_000


@pytest.fixture(scope="module")
def client(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalClient]:
    with local_client(
        tmp_path_factory.mktemp("jobs"),
        detector,
        max_upload_mb=1,
        max_bodies_mb=2,
        max_requests=2,
        max_pixels=200_000,
        max_duration_s=2,
        max_frames=8,
        max_crops=3,
        max_batch_files=2,
    ) as client:
        yield client


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Three seconds of one face, 640 x 360 pixels."""
    path = footage.write_clip(tmp_path_factory.mktemp("long") / "long.webm", 3)
    return path.read_bytes()


def gate_of(client: LocalClient) -> Gate:
    """The middleware with the counters, inside CORS or not."""
    api: Any = client.application._api
    return api if isinstance(api, Gate) else api.app


def assert_idle(client: LocalClient) -> None:
    """Whether nothing is counted as under way."""
    gate = gate_of(client)
    deadline = time.monotonic() + 10
    while gate._requests and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (gate._requests, gate._bytes) == (0, 0)
    assert client.server.judging.crops_under_way == 0
    gauges = client.get("/metrics").text
    assert "genconvit_requests_in_flight 0.0" in gauges
    assert "genconvit_queue_crops 0.0" in gauges


# The size of a body


@pytest.mark.parametrize("path", [DETECT, BATCH, CROPS, "/v1/jobs", "/v1/models/default/reload"])
def test_a_body_that_says_it_is_too_large_is_not_read(client: LocalClient, path: str) -> None:
    headers, body = multipart(("a.mp4", bytes(100)))
    for length in (1 * MB + 1, 10**12, 10**19):
        response = client.raw(path, headers | {"Content-Length": str(length)}, chunks(body, 10))
        assert "1 MB" in assert_problem(response, 413, "too large")["detail"]
        assert response.received == 0
    assert_idle(client)


@pytest.mark.parametrize("length", [None, "10", "-1", "²", "0x10", "9" * 5000, "1e3", "1, 1", ""])
def test_a_body_that_does_not_say_so_is_read_no_further(
    client: LocalClient, length: str | None
) -> None:
    headers, body = multipart(("a.mp4", bytes(3 * MB)))
    del headers["Content-Length"]
    if length is not None:
        headers["Content-Length"] = length
    response = client.raw(DETECT, headers, chunks(body, 100_000))
    assert_problem(response, 413, "too large")
    assert response.received <= 11
    assert_idle(client)


def test_a_body_at_the_limit_is_taken(client: LocalClient) -> None:
    content = hostile.image("png") + bytes(999_000 - len(hostile.image("png")))
    assert client.send_file(DETECT, content).status_code == 200
    assert_idle(client)


class Slow:
    """Bodies that stop half-way until they are told to go on."""

    def __init__(self, client: LocalClient, size: int) -> None:
        self.client, self.size = client, size
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()

    def post(self, path: str = DETECT, tell: bool = True) -> Any:
        headers, body = multipart(("a.mp4", bytes(self.size)))
        if not tell:
            del headers["Content-Length"]
        return self.client.raw(path, headers, self._chunks(body))

    def _chunks(self, body: bytes) -> Iterator[Message]:
        messages = list(chunks(body, len(body) // 2 + 1))
        yield messages[0]
        self.begun.release()
        while not self.go_on.is_set():
            yield {"type": "http.request", "body": b"", "more_body": True}
        yield messages[1]


@pytest.mark.parametrize("tell", [True, False])
def test_all_bodies_together_have_a_limit(detector: Path, tmp_path: Path, tell: bool) -> None:
    with (
        local_client(tmp_path, detector, max_upload_mb=1, max_bodies_mb=1) as client,
        ThreadPoolExecutor(2) as threads,
    ):
        slow = Slow(client, 900_000)
        first = threads.submit(slow.post, DETECT, tell)
        slow.begun.acquire()
        small = client.send_file(DETECT, hostile.image("png"))
        large = client.send_file(DETECT, bytes(980_000))
        slow.go_on.set()
        assert small.status_code == 200
        assert_problem(large, 503, "overload")
        assert int(large.headers["retry-after"]) >= 1
        assert_problem(first.result(), 415, "unknown format")
        assert_idle(client)
        assert client.send_file(DETECT, bytes(980_000)).status_code == 415


# How many at once


def test_requests_at_once_have_a_limit(client: LocalClient) -> None:
    with ThreadPoolExecutor(2) as threads:
        slow = Slow(client, 1000)
        under_way = [threads.submit(slow.post) for _ in range(2)]
        for _ in under_way:
            slow.begun.acquire()
        for path in (DETECT, BATCH, CROPS, "/v1/jobs", "/v1/models/default/reload"):
            response = client.send_file(path, hostile.image("png"))
            assert "2 requests" in assert_problem(response, 503, "overload")["detail"]
            assert int(response.headers["retry-after"]) >= 1
        assert client.get("/healthz").status_code == client.get("/v1/models").status_code == 200
        assert "genconvit_requests_in_flight 2.0" in client.get("/metrics").text
        slow.go_on.set()
        assert [each.result().status for each in under_way] == [415, 415]
    assert_idle(client)


def test_many_clients_are_answered_or_refused(client: LocalClient) -> None:
    def ask(_: int) -> int:
        return client.send_file(DETECT, hostile.image("png")).status_code

    with ThreadPoolExecutor(12) as threads:
        statuses = list(threads.map(ask, range(60)))
    assert set(statuses) == {200, 503}
    assert_idle(client)
    assert ask(0) == 200


def test_a_client_that_leaves_takes_its_place_with_it(client: LocalClient) -> None:
    headers, body = multipart(("a.png", hostile.image("png")))
    before = client.get("/metrics").text.count('status="499"')
    for part in (0, 1, len(body) // 2, len(body) - 1):
        response = client.raw(DETECT, headers, chunks(body[:part], 64, complete=False))
        assert not response.messages or response.status == 499
    assert client.get("/metrics").text.count('status="499"') == before + 1  # a series
    assert 'reason="fault"' not in client.get("/metrics").text
    assert_idle(client)


def test_a_request_that_is_cancelled_takes_its_place_with_it(
    detector: Path, long_clip: bytes, tmp_path: Path
) -> None:
    with local_client(tmp_path, detector) as client:
        assert client.portal is not None
        headers, body = multipart(("a.webm", long_clip))
        for part in (body[: len(body) // 2], body):  # while it is sent, and while it is decoded
            client.portal.call(begun_and_cancelled, client, headers, part)
            assert_idle(client)
            assert client.send_file(DETECT, hostile.image("png")).status_code == 200


async def begun_and_cancelled(client: LocalClient, headers: dict[str, str], body: bytes) -> None:
    messages = chunks(body, 100_000, complete=body.endswith(b"--\r\n"))
    scope: Any = {
        "type": "http",
        "method": "POST",
        "path": DETECT,
        "query_string": b"frames=75",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }

    async def receive() -> Message:
        message = next(messages, None)
        return message or await anyio.sleep_forever()

    async def send(message: Message) -> None:
        raise AssertionError(message)

    with anyio.move_on_after(0.4) as whole:
        await client.application(scope, receive, send)
    assert whole.cancelled_caught


def test_a_fault_gives_its_place_back(client: LocalClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    for owner, name in (
        (client.application.cropper._sandbox, "clip"),
        (client.server.judging, "_judged"),
        (client.server.metrics, "detection"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, broken)
            assert_problem(client.send_file(DETECT, hostile.image("png")), 500, "fault")
        assert_idle(client)
    assert client.send_file(DETECT, hostile.image("png")).status_code == 200


# What is in a body


def test_a_picture_has_a_largest_size(client: LocalClient, long_clip: bytes) -> None:
    contents = {
        "png": hostile.png(500, 401),
        "jpeg": hostile.jpeg_that_claims(60_000, 60_000),
        "gif": hostile.gif_that_claims(60_000, 60_000),
        "clip": long_clip,
        "bomb": hostile.png(20_000, 20_000),
    }
    for name, content in contents.items():
        problem = assert_problem(client.send_file(DETECT, content, name), 413, "too large")
        assert "pixels" in problem["detail"] and name in problem["detail"]
    assert client.send_file(DETECT, hostile.png(500, 400)).status_code == 200
    assert_problem(client.send_file(CROPS, hostile.image("png", 1025, 1025)), 413, "too large")


def test_a_clip_has_a_longest_duration(client: LocalClient, tmp_path: Path) -> None:
    content = hostile.video(tmp_path, "avi", "MJPG", frames=60)
    problem = assert_problem(client.send_file(DETECT, content), 413, "too large")
    assert "2 s" in problem["detail"]
    assert client.send_file("/v1/jobs", content).status_code == 202
    short = hostile.video(tmp_path, "avi", "MJPG", frames=40)
    assert client.send_file(DETECT, short).status_code == 200


def test_frames_and_faces_and_files_have_limits(client: LocalClient, clip: Path) -> None:
    content = clip.read_bytes()
    for path in (DETECT, "/v1/jobs"):
        problem = assert_problem(client.send_file(f"{path}?frames=9", content), 422, "frames")
        assert "at most 8" in problem["detail"]
    assert client.send_file(f"{DETECT}?frames=3", content).json()["frames_sampled"] == 3
    problem = assert_problem(client.send_file(f"{DETECT}?frames=4", content), 413, "too large")
    assert "3 faces" in problem["detail"]
    for path, count in ((BATCH, 3), (BATCH, 30), (CROPS, 4), (CROPS, 400)):
        response = client.send_files(path, [("a.png", b"x")] * count)
        assert f"{min(count, 3 if path == CROPS else 2)} files" in response.json()["detail"]
        assert_problem(response, 413, "too many files")


def test_no_request_takes_longer_than_its_time(detector: Path, tmp_path: Path) -> None:
    clip = footage.write_clip(tmp_path / "long.webm", 6).read_bytes()
    with local_client(tmp_path / "jobs", detector, request_s=0.2) as client:
        begin = time.monotonic()
        response = client.send_file(f"{DETECT}?frames=150", clip)
        assert time.monotonic() - begin < 5
        assert response.status_code in (422, 504)
        problem = assert_problem(response, response.status_code, response.json()["reason"])
        assert problem["reason"] in ("time", "time budget")
        batch = client.send_files(f"{BATCH}?frames=150", [("a", clip), ("b", b"Dear reader")])
        statuses = [each["problem"]["status"] for each in batch.json()["results"]]
        assert statuses[0] in (422, 504) and statuses[1] == 415
        assert_idle(client)
        deadline = time.monotonic() + 20  # the process that decodes is started anew
        while client.send_file(DETECT, hostile.image("png")).status_code != 200:
            assert time.monotonic() < deadline


def test_a_body_that_comes_too_slowly_is_not_waited_for(detector: Path, tmp_path: Path) -> None:
    with local_client(tmp_path, detector, upload_s=0.3) as client:
        headers, body = multipart(("a.mp4", bytes(1000)))

        def slowly() -> Iterator[Message]:
            for message in chunks(body, 100):
                time.sleep(0.1)
                yield message

        assert_problem(client.raw(DETECT, headers, slowly()), 408, "slow upload")
        assert_idle(client)
