"""The page and the real application, apart from Ray."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import uvicorn

from genconvit import load_detector
from genconvit.config import ServeSettings
from tests.conftest import free_port
from tests.serve.local import Application
from tests.serve.web.steps import OpenPage, judge


@pytest.fixture
def real_server(detector: Path, tmp_path: Path) -> Iterator[str]:
    settings = ServeSettings(models={"default": str(detector)}, state=str(tmp_path))
    port = free_port()
    config = uvicorn.Config(Application(settings), port=port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def test_the_page_shows_what_the_server_says(
    opened: OpenPage, real_server: str, clip: Path, detector: Path, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "face.png"), cv2.VideoCapture(str(clip)).read()[1])
    expected = load_detector(detector, "cpu").judge(tmp_path / "face.png")
    page = opened(f"{real_server}/")
    judge(page, tmp_path / "face.png")
    assert page.locator(".lane").count() == len(expected.tracks)
    assert f"{expected.probability_fake:.2f}" in page.locator("#result").inner_text()
