from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from genconvit.answers import Job
from genconvit.client import ApiError, Client
from genconvit.errors import ClipError, UserError
from tests.conftest import free_port
from tests.little_server import (
    LittleServer,
    broken_proxy,
    busy,
    hang_up,
    little_server,
)

MB = 1_000_000


@pytest.fixture(scope="module")
def running() -> Iterator[LittleServer]:
    with little_server() as server:
        yield server


@pytest.fixture
def server(running: LittleServer) -> LittleServer:
    running.asked.clear(), running.troubles.clear(), running.received.clear(), running.jobs.clear()
    running.key = None
    return running


@pytest.fixture
def client(server: LittleServer) -> Iterator[Client]:
    with Client(server.url) as found:
        yield found


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip 1 é.mp4"
    path.write_bytes(bytes(range(256)) * 1000)
    return path


def failure(call: object, *arguments: object, **options: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call(*arguments, **options)  # type: ignore[operator]
    return caught.value


def test_a_clip_is_judged(client: Client, server: LittleServer, clip: Path) -> None:
    told: list[tuple[int, int]] = []
    found = client.detect(
        clip,
        frames=7,
        aggregation="median",
        explain=True,
        model="b",
        on_upload=lambda sent, total: told.append((sent, total)),
    )
    assert found == server.detection(clip.name)
    assert server.asked == ["POST /v1/detect?frames=7&aggregation=median&explain=true&model=b"]
    digest = hashlib.sha256(clip.read_bytes()).hexdigest()
    assert server.received == [(clip.name, digest)]
    assert len(told) > 2 and told == sorted(told)
    assert told[-1] == (256_000, 256_000)


def test_what_is_not_given_is_not_asked_for(client: Client, server: LittleServer) -> None:
    client.detect(b"some bytes")
    assert server.asked == ["POST /v1/detect"]
    assert server.received == [("upload", hashlib.sha256(b"some bytes").hexdigest())]


def test_several_files_stay_in_their_order(
    client: Client, server: LittleServer, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    batch = client.detect_batch([clip, tmp_path / "a.jpg"], frames=3)
    assert [item.file for item in batch.results] == [clip.name, "a.jpg"]
    scores = client.crops([b"x", tmp_path / "a.jpg", b"y"], model="default")
    assert len(scores.probability_fake) == 3
    assert server.asked == ["POST /v1/detect/batch?frames=3", "POST /v1/crops?model=default"]


def test_detectors_and_health(client: Client, server: LittleServer) -> None:
    assert [card.name for card in client.models()] == ["default"]
    assert client.reload("b").name == "b"
    assert client.health().status == "ok"


def test_a_job_goes_from_submission_to_result(
    client: Client, server: LittleServer, clip: Path
) -> None:
    seen: list[Job] = []
    job = client.wait(client.submit(clip, frames=2), seen.append)
    assert job.state == "done" and job.detection is not None
    assert [(each.progress, len(each.timeline)) for each in seen] == [(0, 0), (0.5, 1), (1, 2)]
    client.delete(job.id)
    assert failure(client.job, job.id).problem.status == 404  # type: ignore[union-attr]


def test_a_problem_is_an_error_with_its_sentence(client: Client, server: LittleServer) -> None:
    error = failure(client.detect, b"Dear reader")
    assert str(error) == "upload is neither a video nor an image."
    assert error.problem is not None
    assert (error.problem.status, error.problem.reason) == (415, "not a clip")
    assert len(server.asked) == 1


def test_the_key_is_sent(server: LittleServer) -> None:
    server.key = "gcv_secret"
    with Client(server.url, "gcv_secret") as client:
        client.health()
    with Client(server.url) as client:
        error = failure(client.health)
    assert error.problem is not None and error.problem.status == 401


def test_a_busy_server_is_asked_again_when_it_says(
    client: Client, server: LittleServer, clip: Path
) -> None:
    server.troubles = [busy(503), busy(429)]
    begin = time.monotonic()
    assert client.detect(clip).verdict == "FAKE"
    assert 2 <= time.monotonic() - begin < 5
    assert len(server.asked) == 3 and len(server.received) == 1
    soon = datetime.now(UTC) + timedelta(seconds=1)
    server.troubles = [_dated(soon)]
    assert client.submit(clip).state == "queued"


def _dated(moment: datetime) -> object:
    response = busy(503)
    response.headers["Retry-After"] = format_datetime(moment, usegmt=True)  # type: ignore[attr-defined]
    return response


def test_a_busy_server_is_not_asked_for_ever(server: LittleServer) -> None:
    server.troubles = [busy(retry_after_s=None) for _ in range(9)]
    with Client(server.url, retries=2) as client:
        error = failure(client.models)
    assert "busy" in str(error)
    assert error.problem is not None and error.problem.request_id == "id-of-the-request"
    assert len(server.asked) == 3
    server.troubles = [busy(429, retry_after_s=3600)]
    with Client(server.url) as client:
        assert failure(client.models).problem is not None
    assert len(server.asked) == 4


def test_a_body_that_nobody_reads_does_not_hide_the_answer(
    client: Client, server: LittleServer, tmp_path: Path
) -> None:
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(20 * MB))
    server.troubles = [busy(413, None)]
    error = failure(client.detect, large)
    assert error.problem is not None and error.problem.status == 413


@pytest.mark.parametrize("trouble", [hang_up, broken_proxy(502), broken_proxy(504)])
def test_what_a_job_may_have_begun_is_not_begun_again(
    client: Client, server: LittleServer, clip: Path, trouble: object
) -> None:
    server.troubles = [trouble]  # type: ignore[list-item]
    assert client.detect(clip).verdict == "FAKE"
    assert len(server.asked) == 2
    server.troubles = [trouble]  # type: ignore[list-item]
    failure(client.submit, clip)
    assert len(server.asked) == 3


def test_a_time_budget_of_the_server_is_not_spent_twice(
    client: Client, server: LittleServer
) -> None:
    server.troubles = [busy(504, None)]
    failure(client.detect, b"x")
    assert len(server.asked) == 1


@contextmanager
def cutting_proxy(url: str, after_bytes: int) -> Iterator[str]:
    """Before a server: the first connection breaks when so much of the request has passed."""
    target = ("127.0.0.1", int(url.rpartition(":")[2]))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            first, _ = listener.accept()
            passed = 0
            while passed < after_bytes:
                passed += len(first.recv(4096))
            first.close()
            near, _ = listener.accept()
            with near, socket.create_connection(target) as far:
                back = threading.Thread(target=_pump, args=(far, near), daemon=True)
                back.start()
                _pump(near, far)
                back.join(10)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.join(10)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    while chunk := source.recv(65536):
        sink.sendall(chunk)
    sink.shutdown(socket.SHUT_WR)


def test_an_upload_that_breaks_in_the_middle_is_begun_again(
    server: LittleServer, tmp_path: Path
) -> None:
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(20 * MB))
    told: list[int] = []
    with cutting_proxy(server.url, 100_000) as url, Client(url) as client:
        job = client.submit(large, on_upload=lambda sent, total: told.append(sent))
    assert job.state == "queued"
    assert len(server.received) == 1
    assert told != sorted(told) and told[-1] == 20 * MB


def test_a_file_is_never_whole_in_memory(
    client: Client, server: LittleServer, tmp_path: Path
) -> None:
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(20 * MB))
    script = (
        "import resource, sys; from genconvit.client import Client\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "Client(sys.argv[1]).detect(sys.argv[2])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown = subprocess.check_output([sys.executable, "-c", script, server.url, str(large)])
    assert int(grown) < 10_000  # of 20,000 KiB


def test_a_server_that_starts_meanwhile_is_waited_for(clip: Path) -> None:
    port = free_port()
    answer: list[object] = []
    with Client(f"http://127.0.0.1:{port}") as client:
        thread = threading.Thread(target=lambda: answer.append(client.submit(clip)))
        thread.start()
        time.sleep(0.3)
        with little_server(port=port):
            thread.join(15)
    assert len(answer) == 1


def test_where_no_server_is_it_says_so() -> None:
    with Client(f"http://127.0.0.1:{free_port()}", retries=1) as client:
        error = failure(client.health)
    assert error.problem is None
    assert str(error).startswith("no server answers at http://127.0.0.1:")
    assert "\n" not in str(error)


def test_a_silent_server_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout_s=0.3) as client:
            begin = time.monotonic()
            assert "said nothing for 0.3 seconds" in str(failure(client.health))
            assert time.monotonic() - begin < 2


def test_another_server_is_told_from_ours(client: Client, server: LittleServer) -> None:
    server.troubles = [broken_proxy(200)]
    assert "check that the address" in str(failure(client.health))
    server.troubles = [broken_proxy(404)]
    error = failure(client.health)
    assert "answered with 404 Not Found" in str(error)
    assert error.problem is not None and error.problem.status == 404


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://x", "http://", "http://x:y"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="no server's address"):
        Client(url)


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "é"])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(UserError, match="API key"):
        Client("http://127.0.0.1", key)


def test_a_file_that_is_not_there_is_named(
    client: Client, server: LittleServer, tmp_path: Path
) -> None:
    for path in (tmp_path / "none.mp4", tmp_path):
        with pytest.raises(ClipError, match=f"{path} cannot be read"):
            client.detect(path)
    assert not server.asked


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl here to make a certificate")
    return certificate, key


def test_a_certificate_is_checked(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    files = {"ssl_certfile": str(certificate[0]), "ssl_keyfile": str(certificate[1])}
    with little_server(**files) as server:
        with Client(server.url, ca_file=certificate[0]) as client:
            assert client.health().status == "ok"
        with Client(server.url) as client:
            assert "is not trusted" in str(failure(client.health))
    for wrong in (tmp_path / "none.pem", certificate[1]):
        with pytest.raises(UserError, match=str(wrong)):
            Client("https://127.0.0.1", ca_file=wrong)
