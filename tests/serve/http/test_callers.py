"""Who may ask the application, from where, and what is written down about it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve.http.key_file import add_key
from serve.watching.logs import LOGGER, JsonLines
from tests.serve import hostile
from tests.serve.local import LocalClient, Raw, assert_problem, chunks, local_client

DETECT, BATCH = "/v1/detect", "/v1/detect/batch"
ORIGIN = "https://page.example"
OPEN_ADDRESSES = ("/", "/healthz", "/readyz", "/docs", "/openapi.json", "/web/index.html")
KEPT_ADDRESSES = ("/metrics", "/v1/models", "/v1/jobs/none", "/nowhere", "/web", "/healthz/")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A keys file, and the keys in it by name."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    return path, {
        "admin": add_key(path, "admin", admin=True),
        "user": add_key(path, "user"),
        "other": add_key(path, "other"),
        "slow": add_key(path, "slow", 1),
    }


@pytest.fixture(scope="module")
def client(
    detector: Path, keys: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalClient]:
    """Of an application with keys, which pages of another origin may ask."""
    state = tmp_path_factory.mktemp("jobs")
    with local_client(
        state, detector, keys=str(keys[0]), cors_origins=(ORIGIN,), requests_per_minute=6000
    ) as client:
        yield client


@pytest.fixture(scope="module")
def open_client(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalClient]:
    """Of an application without keys."""
    with local_client(tmp_path_factory.mktemp("jobs"), detector) as client:
        yield client


@pytest.fixture
def bearer(keys: tuple[Path, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Headers, by the name of the key."""
    return {name: {"Authorization": f"Bearer {key}"} for name, key in keys[1].items()}


def test_what_needs_a_key(client: LocalClient, bearer: dict[str, dict[str, str]]) -> None:
    for path in OPEN_ADDRESSES:
        assert client.get(path).status_code == 200, path
    for path in KEPT_ADDRESSES:
        response = client.get(path)
        assert_problem(response, 401, "no key")
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert client.get(path, headers=bearer["user"]).status_code != 401, path
    for path in (DETECT, BATCH, "/v1/crops", "/v1/jobs", "/v1/models/default/reload"):
        assert_problem(client.send_file(path, b"x"), 401, "no key")
        wrong = client.send_file(path, b"x", headers={"X-API-Key": "wrong"})
        assert_problem(wrong, 401, "wrong key")
    for path in ("/web/../v1/models", "/web/../metrics", "//metrics", "/docs/../metrics"):
        assert client.raw(path, method="GET").status in (401, 404), path


def test_a_body_without_a_key_is_not_read(client: LocalClient) -> None:
    body = [{"type": "http.request", "body": bytes(10), "more_body": True}]
    response = client.raw(DETECT, {"Content-Length": "10"}, body)
    assert_problem(response, 401, "no key")
    assert response.received == 0


def test_either_header_has_the_key(
    client: LocalClient, keys: tuple[Path, dict[str, str]], bearer: dict[str, dict[str, str]]
) -> None:
    for headers in (bearer["user"], {"X-API-Key": keys[1]["user"]}):
        response = client.send_file(DETECT, hostile.image("png"), headers=headers)
        assert response.status_code == 200


def test_a_key_that_asks_too_often_waits(
    client: LocalClient, bearer: dict[str, dict[str, str]]
) -> None:
    asked = [client.get("/v1/models", headers=bearer["slow"]) for _ in range(30)]
    refused = [response for response in asked if response.status_code != 200]
    assert 0 < len(refused) < 30
    for response in refused:
        assert_problem(response, 429, "rate limit")
        assert 1 <= int(response.headers["retry-after"]) <= 60
    assert client.get("/v1/models", headers=bearer["user"]).status_code == 200


def test_only_an_admin_reloads(client: LocalClient, bearer: dict[str, dict[str, str]]) -> None:
    path = "/v1/models/default/reload"
    assert_problem(client.post(path, headers=bearer["user"]), 403, "not an admin")
    assert client.post(path, headers=bearer["admin"]).status_code == 200


def test_a_job_is_its_owners_alone(client: LocalClient, bearer: dict[str, dict[str, str]]) -> None:
    made = client.send_file("/v1/jobs", hostile.image("png"), headers=bearer["user"])
    place = made.headers["location"]
    for response in (
        client.get(place, headers=bearer["other"]),
        client.delete(place, headers=bearer["other"]),
        client.get(place, headers=bearer["admin"]),
    ):
        assert_problem(response, 404, "no such job")
    assert client.get(place, headers=bearer["user"]).status_code == 200
    assert client.delete(place, headers=bearer["user"]).status_code == 204


def test_one_key_cannot_fill_the_queue_for_all(
    detector: Path, keys: tuple[Path, dict[str, str]], bearer: dict[str, Any], tmp_path: Path
) -> None:
    def submit(name: str) -> Any:
        return client.send_file("/v1/jobs", hostile.image("png"), headers=bearer[name])

    limits = {"keys": str(keys[0]), "max_jobs": 4, "max_jobs_per_key": 2}
    with local_client(tmp_path, detector, **limits) as client:
        places = [submit("user").headers["location"] for _ in range(2)]
    with local_client(tmp_path, detector, **limits) as client:  # the server has begun anew
        refused = submit("user")
        assert "key user has 2" in assert_problem(refused, 429, "jobs of a key")["detail"]
        assert int(refused.headers["retry-after"]) >= 1
        assert submit("other").status_code == 202
        assert client.delete(places[0], headers=bearer["user"]).status_code == 204
        assert submit("user").status_code == 202


def test_without_keys_the_limit_is_the_servers(detector: Path, tmp_path: Path) -> None:
    with local_client(tmp_path, detector, max_jobs_per_key=2) as client:
        submitted = [client.send_file("/v1/jobs", hostile.image("png")) for _ in range(3)]
        assert [each.status_code for each in submitted] == [202, 202, 429]
        detail = assert_problem(submitted[2], 429, "jobs of a key")["detail"]
        assert "this server has 2 unfinished jobs" in detail
        assert 'reason="jobs of a key"' in client.get("/metrics").text
        form = {"Content-Type": "multipart/form-data; boundary=b"}
        refused = client.raw("/v1/jobs", form, chunks(b"x", 9))
        assert (refused.status, refused.received) == (429, 0)  # not a byte was read in vain


# Pages of other origins


def preflight(client: LocalClient, origin: str) -> Raw:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    return client.raw(DETECT, headers, method="OPTIONS")


def test_pages_of_other_origins_may_not_ask(open_client: LocalClient) -> None:
    assert preflight(open_client, ORIGIN).status == 405
    for path in ("/v1/models", "/healthz", "/nowhere"):
        response = open_client.get(path, headers={"Origin": ORIGIN})
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_pages_of_a_listed_origin_may_ask(
    client: LocalClient, bearer: dict[str, dict[str, str]]
) -> None:
    # A browser asks without the key whether it may send it.
    asked = preflight(client, ORIGIN)
    assert asked.status == 200
    assert asked.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in asked.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-origin" not in preflight(client, "https://evil.example").headers
    origin = {"Origin": ORIGIN}
    content = hostile.image("png")
    for response, status in (
        (client.send_file(DETECT, content, headers=bearer["user"] | origin), 200),
        (client.send_file(DETECT, b"x", headers=bearer["user"] | origin), 415),
        (client.send_file(DETECT, content, headers=origin), 401),  # of the gate itself
    ):
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "x-request-id" in response.headers["access-control-expose-headers"].lower()
        assert "access-control-allow-credentials" not in response.headers
    other = client.get("/healthz", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


# What is written down


def test_a_log_line_has_no_name_and_no_content(
    open_client: LocalClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(LOGGER), "propagate", True)
    client, name, image = open_client, "private-name.mp4", hostile.image("png")
    with caplog.at_level(logging.INFO):
        client.send_file(DETECT, b"private words", name)
        client.send_file(DETECT, image, name)
        client.send_file(f"{DETECT}?model=private-model", image, name)
        client.send_file(f"{DETECT}?frames=0&private=1", image, name)
        client.send_file(BATCH, b"private", name, headers={"X-API-Key": "private-key"})
        client.send_file("/v1/jobs", b"private", name)
        client.get("/private-path", headers={"User-Agent": "private-agent"})
    of_server = [record for record in caplog.records if not record.name.startswith("httpx")]
    lines = [JsonLines().format(record) for record in of_server]
    assert not [line for line in lines if "private" in line]
    requests = [json.loads(line) for line in lines if json.loads(line)["message"] == "request"]
    assert [(line["route"], line["status"]) for line in requests] == [
        (DETECT, 415),
        (DETECT, 200),
        (DETECT, 404),
        (DETECT, 422),
        (BATCH, 200),
        ("/v1/jobs", 202),
        ("other", 404),
    ]
    first, good = requests[:2]
    assert first["reason"] == "unknown format" and first["bytes"] > len(b"private words")
    assert good["verdict"] == "UNDECIDED" and good["model"].startswith("v2-nano")
    assert len({line["request_id"] for line in requests}) == len(requests)


def test_what_is_asked_is_counted(open_client: LocalClient) -> None:
    open_client.send_file(DETECT, hostile.image("png"))
    open_client.send_files(BATCH, [("a", b"x"), ("b", hostile.image("png"))])
    text = open_client.get("/metrics").text
    for line in (
        'genconvit_requests_total{route="/v1/detect",status="200"}',
        'genconvit_requests_total{route="/v1/detect/batch",status="200"}',
        'genconvit_problems_total{reason="unknown format"}',
        'genconvit_verdicts_total{model="default",verdict="UNDECIDED"}',
        'genconvit_stage_seconds_count{stage="decode"}',
    ):
        found = [each for each in text.splitlines() if each.startswith(line)]
        assert found and float(found[0].rpartition(" ")[2]) >= 1, line
