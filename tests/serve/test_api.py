from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from genconvit import load_detector
from genconvit.config import ServeSettings
from genconvit.errors import UserError
from serve.app import start
from tests.conftest import Cluster, free_port

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def server(cluster: Cluster, detector: Path) -> Iterator[str]:
    """A real server on a free port; 1 MB a request."""
    from ray import serve

    yield start(detector, ServeSettings(port=free_port(), max_upload_mb=1))
    serve.shutdown()


def post(server: str, path: Path, name: str | None = None) -> httpx.Response:
    with path.open("rb") as file:
        return httpx.post(
            f"{server}/v1/detect", files={"file": (name or path.name, file)}, timeout=60
        )


def test_it_answers_as_predict_does(server: str, detector: Path, clips: Path) -> None:
    clip = sorted(clips.parent.glob("test/fake/*"))[0]
    response = post(server, clip)
    assert response.status_code == 200
    expected = load_detector(detector, "cpu").judge(clip).model_dump(mode="json")
    answer: dict[str, Any] = response.json()
    assert answer.pop("clip") == clip.name
    expected.pop("clip")
    scores = [p.pop("probability_fake") for p in [*answer["timeline"], *answer["tracks"], answer]]
    wanted = [
        p.pop("probability_fake") for p in [*expected["timeline"], *expected["tracks"], expected]
    ]
    assert scores == pytest.approx(wanted, abs=1e-5)
    answer.pop("reason"), expected.pop("reason")
    assert answer == expected


def test_an_image_is_judged_too(server: str, clips: Path, tmp_path: Path) -> None:
    import cv2

    clip = sorted(clips.parent.glob("test/real/*"))[0]
    _, frame = cv2.VideoCapture(str(clip)).read()
    cv2.imwrite(str(tmp_path / "face.png"), frame)
    answer = post(server, tmp_path / "face.png").json()
    assert answer["frames_sampled"] == 1
    assert answer["probability_fake"] is not None


def test_what_is_no_clip_gets_a_sentence(server: str, tmp_path: Path) -> None:
    (tmp_path / "letter.mp4").write_text("Dear reader")
    response = post(server, tmp_path / "letter.mp4")
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert "letter.mp4" in response.json()["detail"]
    assert "/tmp" not in response.json()["detail"]


def test_too_large_a_file_is_refused(server: str, tmp_path: Path) -> None:
    (tmp_path / "big.mp4").write_bytes(bytes(1_500_000))
    response = post(server, tmp_path / "big.mp4")
    assert response.status_code == 413
    assert "1 MB" in response.json()["detail"]


def test_a_request_without_a_file_is_refused(server: str) -> None:
    assert httpx.post(f"{server}/v1/detect").status_code == 422


def test_health_names_the_detector(server: str, detector: Path) -> None:
    answer = json.load(urllib.request.urlopen(f"{server}/healthz"))
    assert answer["status"] == "ok"
    assert answer["detector"] == load_detector(detector, "cpu").info.id


def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no detector"):
        start(tmp_path, ServeSettings())
