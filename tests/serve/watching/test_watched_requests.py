"""Which requests are compared with the validation, and as how much."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve import hostile
from tests.serve.local import LocalClient, local_client

DETECT, BATCH, CROPS = "/v1/detect", "/v1/detect/batch", "/v1/crops"


@pytest.fixture
def client(detector: Path, tmp_path: Path) -> Iterator[LocalClient]:
    with local_client(tmp_path / "jobs", detector) as client:
        yield client


def counted(client: LocalClient) -> dict[str, float]:
    """How many values each histogram of drift has, and the clips that are remembered."""
    text = client.get("/metrics").text
    pattern = r'^genconvit_((?:clip|crop|face|drift)_\w+?)(?:_count)?\{model="default"\} (\S+)$'
    return {name: float(count) for name, count in re.findall(pattern, text, re.MULTILINE)}


def test_a_clip_counts_once_with_its_crops(client: LocalClient, clip: Path) -> None:
    content = clip.read_bytes()
    assert len(client.send_file(DETECT, content).json()["timeline"]) == 4
    client.send_files(BATCH, [("a", content), ("b", content)])
    found = counted(client)
    assert (found["clip_score"], found["crop_score"], found["face_size"]) == (3, 12, 12)
    assert found["drift_clips"] == pytest.approx(3, rel=0.01)


def test_ready_crops_count_as_crops_of_no_clip(client: LocalClient) -> None:
    crops = [("a", hostile.image("png", 64, 64)), ("b", hostile.image("png", 80, 80))]
    for _ in range(3):
        assert client.send_files(CROPS, crops).status_code == 200
    found = counted(client)
    for name in ("crop_score", "crop_brightness", "crop_contrast", "crop_sharpness"):
        assert found[name] == 6, name
    assert (found["clip_score"], found["drift_clips"], found["face_size"]) == (0, 0, 0)
    assert "genconvit_verdicts_total{" not in client.get("/metrics").text
