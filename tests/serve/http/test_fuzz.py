"""Requests and files that nobody would send by accident: none of them is a fault of the server.

GENCONVIT_FUZZ says how many are made, in all; by default a few hundred, the same ones every time.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from tests.serve import hostile
from tests.serve.local import PROBLEM, LocalClient, Raw, chunks, local_client, multipart

schemathesis = pytest.importorskip("schemathesis")

EXAMPLES = int(os.environ.get("GENCONVIT_FUZZ", "300"))
DETECT, BATCH, CROPS, JOBS = "/v1/detect", "/v1/detect/batch", "/v1/crops", "/v1/jobs"
REFUSALS = {404, 413, 415, 422, 504}
MEMORY_MB = 20
"""What allocators, caches and pytest's record of the log may keep."""


def examples(share: float) -> Any:
    """Settings of a test that makes this share of all examples."""
    return settings(
        max_examples=max(1, round(share * EXAMPLES)),
        derandomize="GENCONVIT_FUZZ" not in os.environ,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def client(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalClient]:
    with local_client(
        tmp_path_factory.mktemp("jobs"),
        detector,
        max_upload_mb=1,
        max_jobs=1_000_000,
        max_jobs_per_key=1_000_000,
        max_pixels=1_000_000,
        max_duration_s=10,
        max_frames=4,
        request_s=30,
    ) as client:
        yield client


@pytest.fixture(scope="module")
def media(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Honest files, one of which shows a face."""
    folder = tmp_path_factory.mktemp("media")
    frame = cv2.VideoCapture(str(clip)).read()[1]
    face = cv2.imencode(".jpg", frame)[1].tobytes()
    videos = [("mp4", "mp4v"), ("avi", "MJPG"), ("webm", "VP80"), ("ts", "mpg2"), ("flv", "FLV1")]
    found = [hostile.video(folder, suffix, codec, 6, 64) for suffix, codec in videos]
    return [face, hostile.gif(3), *found, *map(hostile.image, ("png", "webp", "bmp"))]


@pytest.fixture(scope="module", autouse=True)
def _nothing_leaks(client: LocalClient, media: list[bytes]) -> Iterator[None]:
    for path in (DETECT, BATCH, CROPS):
        for content in media:
            client.send_file(path, content)
    files = open_files()
    yield
    client.send_file(DETECT, media[0])
    assert open_files() <= files + 2
    judging = client.server.judging
    assert judging.crops_under_way == 0
    assert "genconvit_requests_in_flight 0.0" in client.get("/metrics").text
    last = client.send_file(DETECT, media[0])
    assert last.status_code == 200 and last.json()["timeline"], last.text


def memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def assert_sound(response: Raw, sent: str = "") -> None:
    """Whether it is an answer or a refusal, and whole."""
    answer = json.loads(response.content)
    if response.status in (200, 202):
        assert response.headers["content-type"] == "application/json"
        for result in answer.get("results", ()):
            assert (result["problem"] is None) != (result["detection"] is None)
            assert result["detection"] or result["problem"]["status"] in REFUSALS
    else:
        assert response.status in REFUSALS, (answer, sent)
        assert response.headers["content-type"] == PROBLEM
        assert answer["status"] == response.status and answer["reason"] != "fault"
        assert "/proc" not in answer["detail"]


# Requests as the API is described


def test_it_answers_as_it_is_described(client: LocalClient) -> None:
    import requests
    from schemathesis import checks

    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 11

    def check(case: Any) -> None:
        asked = case.as_transport_kwargs(base_url="http://testserver")
        asked.pop("allow_redirects", None)
        request = requests.Request(
            **{key: asked[key] for key in asked.keys() & REQUEST_PARTS}
        ).prepare()
        response = client.request(
            str(request.method),
            str(request.url),
            headers=dict(request.headers),
            content=request.body,
        )
        case.validate_response(
            response,
            checks=[
                checks.not_a_server_error,
                checks.CHECKS.get_one("status_code_conformance"),
                checks.CHECKS.get_one("content_type_conformance"),
                checks.CHECKS.get_one("response_headers_conformance"),
                checks.CHECKS.get_one("response_schema_conformance"),
            ],
        )

    for operation in operations:
        for mode in schemathesis.GenerationMode:
            strategy = operation.as_strategy(generation_mode=mode)
            with contextlib.suppress(Unsatisfiable):  # without parameters none can be wrong
                examples(0.08 / len(operations))(given(strategy)(check))()


REQUEST_PARTS = {"method", "url", "headers", "params", "data", "files", "json", "cookies"}


# Bodies and headers


HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *("Content-Type", "Content-Length", "Content-Encoding", "Transfer-Encoding", "Host"),
            *("X-Request-Id", "Authorization", "X-API-Key", "Origin", "Cookie", "Accept", "Range"),
            *("Expect", "Content-Disposition", "Forwarded", "X-Forwarded-Prefix", "Upgrade"),
        ]
    ),
    st.one_of(
        st.text(st.characters(max_codepoint=255), max_size=40),
        st.sampled_from(["-1", "1", "99999999999999999999", "gzip", "chunked", "100-continue"]),
    ),
    max_size=3,
)
KINDS = st.one_of(
    st.sampled_from(
        [
            "multipart/form-data; boundary=limit; charset=undefined",
            "multipart/form-data; boundary=limit; charset=utf-7",
            'multipart/form-data; boundary="limit"; boundary=other',
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary*=utf-8''limit",
            "MULTIPART/FORM-DATA;BOUNDARY=limit",
            "multipart/mixed; boundary=limit",
            "application/x-www-form-urlencoded",
        ]
    ),
    st.text(st.characters(max_codepoint=255), max_size=60),
)
FORMS = [
    multipart(("a.png", hostile.image("png"))),
    multipart(("a.png", hostile.image("png")), ("b.jpg", hostile.image("jpg"))),
    multipart(("a", b"x"), ("", b"")),
    multipart(("a.png", hostile.image("png")), field_name="other"),
]
PATHS = st.sampled_from([DETECT, BATCH, CROPS, JOBS])


@examples(0.35)
@given(PATHS, hostile.mutations([body for _, body in FORMS]), st.integers(1, 3000))
def test_a_mutated_form_is_answered_or_refused(
    client: LocalClient, path: str, body: bytes, size: int
) -> None:
    assert_sound(client.raw(path, {"Content-Type": FORM}, chunks(body or b"\r\n", size)))


FORM = FORMS[0][0]["Content-Type"]


@examples(0.1)
@given(PATHS, st.sampled_from(FORMS), HEADERS, st.one_of(st.none(), KINDS), st.binary(max_size=60))
def test_odd_headers_are_answered_or_refused(
    client: LocalClient,
    path: str,
    form: tuple[dict[str, str], bytes],
    headers: dict[str, str],
    kind: str | None,
    query: bytes,
) -> None:
    sent = {"Content-Type": kind or FORM} | headers
    assert_sound(client.raw(path, sent, chunks(form[1], 1000), query=query), repr(sent))


# Files


def test_a_mutated_file_is_answered_or_refused(client: LocalClient, media: list[bytes]) -> None:
    @examples(0.25)
    @given(st.sampled_from([DETECT, CROPS]), hostile.mutations(media))
    def check(path: str, content: bytes) -> None:
        headers, body = multipart(("a.mp4", content))
        assert_sound(client.raw(path, headers, chunks(body, 100_000), query=b"frames=2"))

    check()


def test_a_batch_of_mutated_files_is_answered(client: LocalClient, media: list[bytes]) -> None:
    @examples(0.05)
    @given(st.lists(hostile.mutations(media), min_size=1, max_size=4), st.booleans())
    def check(contents: list[bytes], explain: bool) -> None:
        headers, body = multipart(*((f"{i}.mp4", each) for i, each in enumerate(contents)))
        query = b"frames=2&explain=%d" % explain
        response = client.raw(BATCH, headers, chunks(body, 100_000), query=query)
        assert_sound(response)
        if response.status == 200:
            assert len(json.loads(response.content)["results"]) == len(contents)

    check()


def test_mutated_faces_are_judged_and_nothing_is_left_of_them(
    client: LocalClient, media: list[bytes]
) -> None:
    rng, judged, memory = random.Random(0), 0, 0.0
    rounds = max(10, round(0.1 * EXAMPLES))
    for count in range(rounds):
        if count == rounds // 5:
            memory = memory_mb()  # Hypothesis keeps what it makes, so this is measured without
        content = bytearray(media[0])
        for _ in range(rng.randint(1, 3)):  # behind the headers: most are read as pictures
            content[rng.randrange(700, len(content))] = rng.randrange(256)
        headers, body = multipart(("face.jpg", bytes(content)))
        response = client.raw(DETECT, headers, chunks(body, 100_000))
        assert_sound(response)
        judged += response.status == 200 and bool(json.loads(response.content)["timeline"])
    assert judged > rounds / 10
    assert memory_mb() < memory + MEMORY_MB
