"""Detectors that nobody trained, and their answers, for the tests of reloading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from genconvit import load_detector
from genconvit.answers import Detection
from genconvit.checkpoint import DetectorInfo, save_detector
from genconvit.models.registry import build_from_settings
from tests.conftest import small_settings
from tests.serve.local import LocalClient

DETECT, RELOAD = "/v1/detect", "/v1/models/default/reload"

Weights = dict[str, torch.Tensor]


def write(
    path: Path, seed: int, *settings: str, change: Callable[[Weights], Weights] = dict
) -> Path:
    """A detector whose weights nobody trained."""
    torch.manual_seed(seed)
    chosen = small_settings(*settings)
    info = DetectorInfo(
        model=chosen.model,
        preprocess=chosen.preprocess,
        sampling=chosen.sampling,
        decision=chosen.decision,
    )
    save_detector(path, change(build_from_settings(chosen.model).state_dict()), info)
    return path


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
