"""Answers and whose they are, for the tests of reloading."""

from __future__ import annotations

from pathlib import Path

import pytest

from genconvit import load_detector
from genconvit.answers import Detection
from tests.serve.local import LocalClient

DETECT, RELOAD = "/v1/detect", "/v1/models/default/reload"


def judged(client: LocalClient, clip: Path) -> Detection:
    response = client.send_file(DETECT, clip.read_bytes())
    assert response.status_code == 200, response.text
    return Detection.model_validate_json(response.content)


def assert_judged_by(answer: Detection, detector: Path, clip: Path) -> None:
    judge = load_detector(detector, "cpu")
    expected = judge.judge(clip)
    assert answer.model.id == judge.info.id
    assert answer.model.fingerprint == judge.info.weights_sha256
    assert answer.threshold == judge.info.decision.threshold
    assert answer.verdict == expected.verdict
    assert answer.probability_fake == pytest.approx(expected.probability_fake, abs=1e-5)
    scores = [point.probability_fake for point in answer.timeline]
    wanted = [point.probability_fake for point in expected.timeline]
    assert scores == pytest.approx(wanted, abs=1e-5)
