from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from genconvit.config import SamplingSettings
from genconvit.data.video import check_clip, sample_frames
from genconvit.errors import ClipError


def picture(file: Path, grey: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full((8, 8, 3), grey, np.uint8))


def test_frames_of_a_folder_come_in_natural_order(tmp_path: Path) -> None:
    for number in range(12):
        picture(tmp_path / f"{number}.png", 10 * number)
    (tmp_path / ".hidden.png").write_bytes(b"clip")
    (tmp_path / "notes.txt").write_bytes(b"clip")

    def greys(**settings: object) -> list[int]:
        frames = list(sample_frames(tmp_path, SamplingSettings.model_validate(settings)))
        assert [frame.time_s for frame in frames] == [frame.index / 25 for frame in frames]
        assert [int(f.image_HWC[0, 0, 0]) for f in frames] == [10 * f.index for f in frames]
        return [frame.index for frame in frames]

    assert greys(frames=32) == list(range(12))
    assert greys(frames=3) == [2, 6, 10]
    assert greys(frames=3, spacing="linspace") == [0, 5, 11]
    assert greys(frames=None, frame_interval=5) == [0, 5, 10]
    assert greys(frames=None, frame_interval=5, max_frames=2) == [0, 5]


def test_broken_frames_of_a_folder_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for name in ("1.png", "3.png"):
        (tmp_path / "clip" / name).write_bytes(b"clip")
    picture(tmp_path / "clip/2.png", 5)
    assert [f.index for f in sample_frames(tmp_path / "clip", SamplingSettings())] == [1]
    (tmp_path / "clip/2.png").unlink()
    with pytest.raises(ClipError, match="no frame of the folder"):
        list(sample_frames(tmp_path / "clip", SamplingSettings()))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClipError, match="holds no image"):
        check_clip(tmp_path / "empty")
