"""The application as its clients see it: what it answers, and what it says when it does not."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from genconvit import load_detector
from genconvit.answers import BatchDetection, CropScores, Detection, Health, ModelList
from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import crop_probability
from genconvit.evaluate.clip_interval import clip_interval
from genconvit.predict import Detector
from genconvit.verdict import Verdict
from tests.serve import hostile
from tests.serve.local import (
    LocalClient,
    Raw,
    assert_problem,
    chunks,
    local_client,
)

DETECT, BATCH, CROPS = "/v1/detect", "/v1/detect/batch", "/v1/crops"


@pytest.fixture(scope="module")
def client(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalClient]:
    with local_client(tmp_path_factory.mktemp("jobs"), detector, detector, max_crops=20) as client:
        yield client


@pytest.fixture(scope="module")
def judge(detector: Path) -> Detector:
    return load_detector(detector, "cpu")


@pytest.fixture(scope="module")
def frame(clip: Path) -> bytes:
    """A frame with a face, as PNG."""
    image = cv2.VideoCapture(str(clip)).read()[1]
    return cv2.imencode(".png", image)[1].tobytes()


def assert_same_verdict(answer: Detection, expected: Verdict) -> None:
    """Whether they agree in all but the name of the clip; figures up to rounding."""
    left, right = answer.model_dump(), expected.model_dump()
    for name in right.keys() - {"clip", "reason"}:
        assert_close(left[name], right[name])


def assert_close(left: Any, right: Any) -> None:
    if isinstance(right, dict):
        assert left.keys() == right.keys()
        left, right = list(left.values()), list(right.values())
    if isinstance(right, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_close(one, other)
    elif isinstance(right, float):
        assert left == pytest.approx(right, abs=1e-5)
    else:
        assert left == right


# What is answered


def test_a_clip_is_judged_as_by_the_detector(
    client: LocalClient, judge: Detector, clip: Path
) -> None:
    response = client.send_file(DETECT, clip.read_bytes(), clip.name)
    assert response.status_code == 200
    answer, expected = Detection.model_validate_json(response.content), judge.judge(clip)
    assert_same_verdict(answer, expected)
    assert answer.clip == clip.name and answer.timeline
    info = judge.info
    assert (answer.threshold, answer.band) == (info.decision.threshold, info.decision.band)
    assert_close(answer.probability_interval, clip_interval(expected.timeline, info.decision))
    assert answer.model.model_dump() == {
        "name": "default",
        "id": info.id,
        "fingerprint": info.weights_sha256,
    }
    capture = cv2.VideoCapture(str(clip))
    assert answer.width == capture.get(cv2.CAP_PROP_FRAME_WIDTH)
    assert answer.height == capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
    length = capture.get(cv2.CAP_PROP_FRAME_COUNT) / capture.get(cv2.CAP_PROP_FPS)
    assert answer.duration_s == pytest.approx(length, rel=0.01)
    times = answer.timings_ms
    assert min(times.wait, times.queue) >= 0 and min(times.decode, times.network) > 0
    assert times.total >= times.decode + times.network
    assert answer.request_id == response.headers["x-request-id"]
    assert answer.evidence == []


def test_an_image_is_judged(
    client: LocalClient, judge: Detector, frame: bytes, tmp_path: Path
) -> None:
    (tmp_path / "face.png").write_bytes(frame)
    response = client.send_file(DETECT, frame, "face.png")
    answer = Detection.model_validate_json(response.content)
    assert_same_verdict(answer, judge.judge(tmp_path / "face.png"))
    assert answer.duration_s is None and answer.probability_interval is None
    assert answer.frames_sampled == 1 and answer.timeline


def test_a_clip_without_a_face_is_undecided(client: LocalClient) -> None:
    answer = client.send_file(DETECT, hostile.image("png"), "wall.png").json()
    assert (answer["verdict"], answer["probability_fake"]) == ("UNDECIDED", None)
    assert "no face" in answer["reason"]
    same = client.send_file(f"{DETECT}?explain=true", hostile.image("png"), "wall.png").json()
    assert same["evidence"] == []


def test_so_many_frames_are_looked_at_as_are_asked_for(
    client: LocalClient, judge: Detector, clip: Path
) -> None:
    response = client.send_file(f"{DETECT}?frames=2", clip.read_bytes())
    answer = Detection.model_validate_json(response.content)
    assert answer.frames_sampled == 2
    sampling = judge.info.sampling.model_copy(update={"frames": 2})
    assert_same_verdict(answer, judge.judge(clip, sampling=sampling))


@pytest.mark.parametrize("aggregation", ["max", "top_k", "original"])
def test_another_aggregation_is_taken_and_not_calibrated(
    client: LocalClient, judge: Detector, clip: Path, aggregation: Any
) -> None:
    response = client.send_file(f"{DETECT}?aggregation={aggregation}", clip.read_bytes())
    answer = Detection.model_validate_json(response.content)
    decision = DecisionSettings(aggregation=aggregation)
    assert_same_verdict(answer, judge.judge(clip, decision=decision))
    assert (answer.threshold, answer.band) == (decision.threshold, decision.band)


def test_the_evidence_is_pictures(client: LocalClient, clip: Path) -> None:
    response = client.send_file(f"{DETECT}?explain=true", clip.read_bytes())
    answer = Detection.model_validate_json(response.content)
    assert sorted(each.track for each in answer.evidence) == [
        track.track for track in answer.tracks
    ]
    for each in answer.evidence:
        assert each.probability_fake in {point.probability_fake for point in answer.timeline}
        assert each.sentence
        for picture in (each.crop, each.heat, *each.errors.values()):
            start, _, content = picture.partition(",")
            assert start == "data:image/jpeg;base64"
            pixels = np.frombuffer(base64.b64decode(content), np.uint8)
            assert cv2.imdecode(pixels, cv2.IMREAD_COLOR).shape[0] >= 64


def test_a_batch_is_answered_file_by_file(client: LocalClient, clip: Path, frame: bytes) -> None:
    alone = client.send_file(DETECT, clip.read_bytes(), clip.name).json()
    files = [
        ("a.mp4", clip.read_bytes()),
        ("letter.mp4", b"Dear reader"),
        ("empty.mp4", b""),
        ("half.mp4", clip.read_bytes()[:600]),
        ("a.mp4", frame),
    ]
    response = client.send_files(BATCH, files)
    results = BatchDetection.model_validate_json(response.content).results
    assert response.status_code == 200
    assert [result.file for result in results] == [name for name, _ in files]
    good, letter, empty, half, image = results
    assert good.detection and good.detection.probability_fake == alone["probability_fake"]
    assert image.detection and image.detection.frames_sampled == 1
    for result, status in ((letter, 415), (empty, 422), (half, 422)):
        assert result.detection is None and result.problem is not None
        assert result.problem.status == status
        assert result.file in result.problem.detail
        assert result.problem.request_id == response.headers["x-request-id"]


def test_ready_crops_are_scored_as_by_the_detector(client: LocalClient, judge: Detector) -> None:
    crops = np.stack([hostile.picture(64, 64, seed) for seed in range(5)])  # BGR
    files = [(f"{i}.png", cv2.imencode(".png", crop)[1].tobytes()) for i, crop in enumerate(crops)]
    answer = CropScores.model_validate_json(client.send_files(CROPS, files).content)
    logits = judge.logits(crops[..., ::-1])
    decision, temperature = judge.info.decision, judge.temperature
    expected = [crop_probability(row, decision, temperature)[0] for row in logits]
    assert len(set(expected)) == len(expected)
    assert answer.probability_fake == pytest.approx(expected, abs=1e-6)
    assert answer.model.id == judge.info.id
    assert math.isfinite(answer.timings_ms.total)


def test_the_models_are_listed_and_chosen(client: LocalClient, judge: Detector, clip: Path) -> None:
    cards = ModelList.model_validate_json(client.get("/v1/models").content).models
    assert [(card.name, card.default) for card in cards] == [("default", True), ("second", False)]
    assert {card.id for card in cards} == {judge.info.id}
    assert cards[0].frames == judge.info.sampling.frames
    for path in (DETECT, BATCH, CROPS):
        content = hostile.image("png", 64, 64)
        answer = client.send_file(f"{path}?model=second", content).json()
        found = answer["results"][0]["detection"] if path == BATCH else answer
        assert found["model"]["name"] == "second"


def test_its_health_names_the_models(client: LocalClient, judge: Detector) -> None:
    for path in ("/healthz", "/readyz"):
        response = client.get(path)
        assert response.status_code == 200
        health = Health.model_validate_json(response.content)
        assert (health.status, health.detector) == ("ok", judge.info.id)


def test_it_is_not_ready_before_every_model_is(client: LocalClient) -> None:
    loaded = client.server.judging._loaded.pop("second")
    try:
        assert client.get("/healthz").json()["status"] == "starting"
        response = client.get("/readyz")
        assert_problem(response, 503, "starting")
        assert int(response.headers["retry-after"]) >= 1
    finally:
        client.server.judging._loaded["second"] = loaded


def test_a_long_clip_becomes_a_job(client: LocalClient, clip: Path) -> None:
    response = client.send_file("/v1/jobs?frames=7", clip.read_bytes(), clip.name)
    assert response.status_code == 202
    place = response.headers["location"]
    assert client.get(place).json() == response.json()
    assert response.json()["state"] == "queued"
    deleted = client.delete(place)
    assert (deleted.status_code, deleted.content) == (204, b"")
    for response in (client.get(place), client.delete(place)):
        assert_problem(response, 404, "no such job")


@pytest.mark.parametrize("given", ["abc-1.2_3", "x" * 64])
def test_the_id_of_a_request_is_kept(client: LocalClient, given: str) -> None:
    response = client.get("/v1/models", headers={"X-Request-Id": given})
    assert response.headers["x-request-id"] == given
    problem = client.get("/nowhere", headers={"X-Request-Id": given})
    assert problem.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, 'a"b', "a b", "a\r\nSet-Cookie: x", "ü"])
def test_what_is_no_id_gets_another_one(client: LocalClient, given: str) -> None:
    response = client.raw("/healthz", {"X-Request-Id": given}, method="GET")
    made = response.headers["x-request-id"]
    assert response.status == 200 and len(made) == 32 and made != given


# What every answer is


def refused(client: LocalClient) -> Iterator[Raw]:
    """A refusal of every kind by every route."""
    for path in (DETECT, BATCH, CROPS, "/v1/jobs"):
        yield client.raw(path, {"Content-Type": "text/plain"}, chunks(b"x", 9))
        yield client.raw(path, {"Content-Type": "multipart/form-data"}, chunks(b"x", 9))
        yield client.raw(path, {"Content-Length": "9" * 15})
        yield client.raw(path, method="PATCH")
    for path in (DETECT, BATCH, "/v1/jobs"):
        yield client.raw(path, query=b"frames=0")
    yield client.raw(CROPS, query=b"model=" + b"x" * 99)
    yield client.raw("/v1/jobs/none", method="GET")
    yield client.raw("/v1/jobs/none", method="DELETE")
    yield client.raw("/v1/models/none/reload")
    yield client.raw("/v1/none", method="GET")


def test_every_refusal_is_a_problem_document(client: LocalClient) -> None:
    for response in refused(client):
        assert response.status >= 400
        document = json.loads(response.content)
        assert_problem(response, response.status, document["reason"])
        assert document["reason"]


def test_a_fault_tells_nothing_of_the_inside(
    client: LocalClient, frame: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret in /srv/genconvit")

    monkeypatch.setattr(client.application.cropper._sandbox, "clip", broken)
    response = client.send_file(DETECT, frame, headers={"X-Request-Id": "seen"})
    assert_problem(response, 500, "fault")
    assert "seen" in response.json()["detail"]
    for word in ("secret", "/srv", "Traceback", "RuntimeError"):
        assert word not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"
    monkeypatch.undo()
    assert client.send_file(DETECT, frame).status_code == 200


def test_nothing_is_kept_by_a_browser_and_the_page_loads_nothing_else(client: LocalClient) -> None:
    assert client.get("/v1/models").headers["cache-control"] == "no-store"
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy
    assert page.headers["referrer-policy"] == "no-referrer"
    assert "content-security-policy" in client.get("/web/index.html").headers
    assert "content-security-policy" not in client.get("/v1/models").headers
