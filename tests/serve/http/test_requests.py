"""What the application says to requests and files that are not as they should be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from tests.serve import hostile
from tests.serve.local import (
    PROBLEM,
    LocalClient,
    assert_problem,
    chunks,
    local_client,
    multipart,
)

DETECT, BATCH, CROPS = "/v1/detect", "/v1/detect/batch", "/v1/crops"


@pytest.fixture(scope="module")
def client(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalClient]:
    with local_client(tmp_path_factory.mktemp("jobs"), detector, detector) as client:
        yield client


@pytest.fixture(scope="module")
def frame(clip: Path) -> bytes:
    """A frame with a face, as PNG."""
    image = cv2.VideoCapture(str(clip)).read()[1]
    return cv2.imencode(".png", image)[1].tobytes()


# What a file is


@pytest.mark.parametrize("name", ["x.mp4", "x.exe", "x", "../../etc/passwd", "x.mp4\x00.png"])
def test_the_name_of_a_file_decides_nothing(client: LocalClient, frame: bytes, name: str) -> None:
    answer = client.send_file(DETECT, frame, name).json()
    assert answer["frames_sampled"] == 1 and answer["timeline"]


@pytest.mark.parametrize("kind", sorted(hostile.NO_MEDIA))
def test_what_is_no_medium_is_refused(client: LocalClient, kind: str) -> None:
    response = client.send_file(
        DETECT, hostile.NO_MEDIA[kind], "letter.mp4", headers={"X-Content-Type": "video/mp4"}
    )
    problem = assert_problem(response, 415, "unknown format")
    assert "letter.mp4" in problem["detail"]
    assert "/proc" not in problem["detail"] and "/tmp" not in problem["detail"]


def test_a_damaged_clip_is_refused(client: LocalClient, clip: Path) -> None:
    response = client.send_file(DETECT, clip.read_bytes()[:600], "half.avi")
    problem = response.json()
    assert response.status_code == 422 and "half.avi" in problem["detail"]
    assert "/proc" not in problem["detail"]


def test_what_is_no_crop_is_refused(client: LocalClient, clip: Path) -> None:
    square, wide = hostile.image("png", 64, 64), hostile.image("png", 96, 64)
    response = client.send_files(CROPS, [("a", square), ("b", wide)])
    assert "crop 2 of 2" in assert_problem(response, 422, "not square")["detail"].lower()
    for content in (clip.read_bytes(), b"Dear reader", b""):
        response = client.send_files(CROPS, [("a", square), ("b", content)])
        assert_problem(response, 415, "unknown format")
    assert_problem(client.send_file(CROPS, square[:70]), 422, "damaged")


HOSTILE_NAMES = {
    "html": '<img src=x onerror="alert(1)">',
    "long": "x" * 3000,
    "path": "../../../etc/passwd",
    "windows": "..\\..\\boot.ini",
    "nul": "a\0b",
    "control": "a\x1b[2Jb\x08",
    "right to left": "abc\u202egpj.exe",
    "empty": "",
    "percent": "%s%n{0}",
    "emoji": "🎬",
}


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES.keys())
def test_a_hostile_name_is_only_a_name(client: LocalClient, frame: bytes, name: str) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    for content, status in ((frame, 200), (b"Dear reader", 415)):
        headers, body = multipart((quoted, content))
        response = client.raw(DETECT, headers, chunks(body, 50_000))
        assert response.status == status
        answer = json.loads(response.content)
        assert response.headers["content-type"] in ("application/json", PROBLEM)
        assert response.headers["x-content-type-options"] == "nosniff"
        said = answer["clip"] if status == 200 else answer["detail"].partition(" is neither")[0]
        assert said == (name[:255] or "upload")


@pytest.mark.parametrize(
    "codec", ["undefined", "utf-7", "punycode", "unicode_escape", "idna", "rot13", "no\0codec", "ü"]
)
def test_the_codec_of_names_is_nothing_to_trip_over(client: LocalClient, codec: str) -> None:
    headers, body = multipart(("+2AA-\\ud800\\", b"Dear reader"))
    headers["Content-Type"] += f"; charset={codec}"
    response = client.raw(DETECT, headers, chunks(body, 1000))
    assert response.status in (415, 422)
    assert response.headers["content-type"] == PROBLEM


# What a request is


def test_an_unknown_model_is_not_found(client: LocalClient, frame: bytes) -> None:
    for path in (DETECT, CROPS, "/v1/jobs"):
        response = client.send_file(f"{path}?model=third", frame)
        assert "default, second" in assert_problem(response, 404, "unknown model")["detail"]
    results = client.send_file(f"{BATCH}?model=third", frame).json()["results"]
    assert results[0]["problem"]["status"] == 404
    assert_problem(client.post("/v1/models/third/reload"), 404, "unknown model")


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("frames=0", "frames"),
        ("frames=-1", "frames"),
        ("frames=many", "frames"),
        ("frames=1e3", "frames"),
        ("frames=99999999999999999999", "frames"),
        ("aggregation=best", "aggregation"),
        ("explain=perhaps", "explain"),
        ("model=" + "x" * 65, "model"),
    ],
)
@pytest.mark.parametrize("path", [DETECT, BATCH, "/v1/jobs"])
def test_a_wrong_parameter_is_named(client: LocalClient, path: str, query: str, name: str) -> None:
    problem = assert_problem(client.send_file(f"{path}?{query}", b"x"), 422, "parameter")
    assert problem["detail"].startswith(f"{name}: ")


@pytest.mark.parametrize("path", [DETECT, BATCH, CROPS, "/v1/jobs"])
def test_a_request_without_a_file_is_told_so(client: LocalClient, path: str) -> None:
    content = hostile.image("png", 64, 64)
    no_form: list[dict[str, Any]] = [
        {},
        {"content": content, "headers": {"Content-Type": "image/png"}},
        {"json": {"file": "x"}},
        {"data": {"file": "x"}},
        {"headers": {"Content-Type": ""}},
        {"headers": {"Content-Type": ";;;"}},
    ]
    for options in no_form:
        problem = assert_problem(client.post(path, **options), 415, "not multipart")
        assert "multipart/form-data" in problem["detail"]
    for field in ("clip", "files", "File", "file[]", ""):
        headers, body = multipart(("a.png", content), field_name=field)
        assert_problem(client.post(path, headers=headers, content=body), 422, "no file")
    text = b'--limit\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--limit--\r\n'
    response = client.post(path, headers=multipart()[0] | {"Content-Length": "63"}, content=text)
    assert_problem(response, 422, "no file")


@pytest.mark.parametrize("path", [DETECT, "/v1/jobs"])
def test_an_empty_file_and_two_files_are_refused(client: LocalClient, path: str) -> None:
    assert "a.mp4" in assert_problem(client.send_file(path, b"", "a.mp4"), 422, "empty")["detail"]
    for count in (2, 3, 50):
        response = client.send_files(path, [("a", b"x")] * count)
        assert "1 file " in assert_problem(response, 413, "too many files")["detail"]


MALFORMED: dict[str, tuple[str, bytes]] = {
    "no boundary": ("multipart/form-data", b"--x--"),
    "empty boundary": ("multipart/form-data; boundary=", b"----"),
    "another boundary": ("multipart/form-data; boundary=a", b"--b\r\n\r\n--b--"),
    "no end": (
        "multipart/form-data; boundary=a",
        b'--a\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nabc',
    ),
    "no name": ("multipart/form-data; boundary=a", b"--a\r\nX: y\r\n\r\nabc\r\n--a--"),
    "no body": ("multipart/form-data; boundary=a", b""),
    "noise": ("multipart/form-data; boundary=a", bytes(range(256)) * 4),
    "long name": (
        "multipart/form-data; boundary=a",
        multipart(("x" * 10_000, b"abc"), boundary="a")[1],
    ),
    "long header": (
        "multipart/form-data; boundary=a",
        b"--a\r\nX: " + b"y" * 100_000 + b"\r\n\r\nabc\r\n--a--",
    ),
    "long boundary": ("multipart/form-data; boundary=" + "a" * 10_000, b"--a--"),
    "many fields": (
        "multipart/form-data; boundary=a",
        b'--a\r\nContent-Disposition: form-data; name="x"\r\n\r\ny\r\n' * 100 + b"--a--",
    ),
    "many headers": (
        "multipart/form-data; boundary=a",
        b"--a\r\n" + b"X: y\r\n" * 1000 + b"\r\nabc\r\n--a--",
    ),
}


@pytest.mark.parametrize(("kind", "body"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_form_is_refused(client: LocalClient, kind: str, body: bytes) -> None:
    response = client.raw(DETECT, {"Content-Type": kind}, chunks(body, 4096))
    problem = json.loads(response.content or b"{}")
    if body:
        assert response.status == 422 and problem["reason"] in ("protocol", "no file", "empty")
        assert not problem["detail"].endswith("..")
    else:  # the client was gone before it said anything
        assert response.status in (422, 499)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/healthz", 405),
        ("OPTIONS", DETECT, 405),
        ("PUT", DETECT, 405),
        ("GET", DETECT, 405),
        ("BREW", DETECT, 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/healthz", 405),
        ("GET", "/v2/detect", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/jobs/", 404),
        ("GET", "/v1/jobs/a/b", 404),
        ("GET", "//v1/models", 404),
        ("GET", "/web/../app.py", 404),
        ("GET", "/web/%2e%2e/app.py", 404),
        ("GET", "/web//etc/passwd", 404),
        ("GET", "/web/", 404),
        ("POST", "/web/index.html", 405),
        ("GET", "/\x00", 404),
        ("GET", "/web/a\x00b", 404),
        ("GET", "/web/" + "x" * 5000, 404),
        ("GET", "", 404),
    ],
)
def test_other_addresses_and_methods_are_refused(
    client: LocalClient, method: str, path: str, status: int
) -> None:
    response = client.raw(path, method=method)
    assert_problem(response, status, "protocol")
    if status == 405:
        assert response.headers["allow"]
