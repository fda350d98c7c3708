from __future__ import annotations

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from genconvit.config import PreprocessSettings, SamplingSettings
from genconvit.data.crops import (
    CropCounts,
    crop_box,
    crop_face,
    decode_crop,
    encode_crop,
    extract_crops,
    iter_crops,
)
from genconvit.data.faces import Face
from genconvit.errors import ClipError

SAMPLING = SamplingSettings(frames=8)


class FixedFaces:
    """Finds the same faces everywhere."""

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        self.faces = [Face(box, 0.8) for box in boxes]

    def detect(self, image_HWC: NDArray[np.uint8]) -> list[Face]:
        return self.faces


def gradient(height: int = 120, width: int = 160) -> NDArray[np.uint8]:
    """Red tells the column and green the row."""
    row, column = np.mgrid[:height, :width]
    return np.stack([column, row, np.zeros_like(row)], axis=-1).astype(np.uint8)


def write_clip(path: Path, frames: int, height: int = 120, width: int = 160) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (width, height))
    for _ in range(frames):
        writer.write(cv2.cvtColor(gradient(height, width), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "a.avi", 12)


def test_crop_is_a_square_around_the_face() -> None:
    crop = crop_face(gradient(), Face((60, 40, 80, 80), 1.0), margin=0.25, size=60)
    assert crop.shape == (60, 60, 3)
    np.testing.assert_array_equal(crop, gradient()[30:90, 40:100])


def test_crop_is_mirrored_beyond_the_border() -> None:
    crop = crop_face(gradient(), Face((0, 0, 40, 40), 1.0), margin=0.5, size=80)
    np.testing.assert_array_equal(crop[20:, 20:], gradient()[:60, :60])
    np.testing.assert_array_equal(crop[20:, :20], gradient()[:60, 1:21][:, ::-1])
    np.testing.assert_array_equal(crop[:20, 20:], gradient()[1:21, :60][::-1])


@given(
    box=st.tuples(*[st.floats(-50, 250)] * 2, *[st.floats(0.5, 300)] * 2),
    margin=st.floats(0, 2),
    size=st.integers(32, 80),
)
def test_any_box_gives_a_crop(
    box: tuple[float, float, float, float], margin: float, size: int
) -> None:
    x, y, w, h = box
    crop = crop_face(gradient(), Face((x, y, x + w, y + h), 1.0), margin, size)
    assert crop.shape == (size, size, 3)
    assert crop.dtype == np.uint8


@pytest.mark.parametrize("size", [32, 64, 100])
def test_stored_crop_comes_back_in_any_size(size: int) -> None:
    stored = crop_face(gradient(), Face((40, 20, 104, 84), 1.0), margin=0.0, size=64)
    crop = decode_crop(encode_crop(stored, 95), size)
    assert crop.shape == (size, size, 3)
    np.testing.assert_allclose(crop.mean((0, 1)), stored.mean((0, 1)), atol=3)
    assert int(crop[0, -1, 0]) > int(crop[0, 0, 0]) + 40  # still RGB, still the right way round
    assert int(crop[-1, 0, 1]) > int(crop[0, 0, 1]) + 40


@pytest.mark.parametrize("jpeg", [b"", b"no image"])
def test_broken_crop_is_refused(jpeg: bytes) -> None:
    with pytest.raises(ClipError, match="not a readable JPEG"):
        decode_crop(jpeg, 64)


def test_every_face_of_every_frame_is_cropped(clip: Path) -> None:
    detector = FixedFaces((100, 20, 130, 60), (-5.4, 50, 30, 90.6))
    found = extract_crops(clip, PreprocessSettings(size=64), SAMPLING, detector)
    assert (found.frames_sampled, found.frames_with_face) == (8, 8)
    assert len(found.crops) == 16
    assert [(crop.frame_index, crop.track) for crop in found.crops] == sorted(
        (crop.frame_index, crop.track) for crop in found.crops
    )
    assert {crop.track: crop.box for crop in found.crops} == {
        0: (100, 20, 130, 60),
        1: (0, 50, 30, 91),
    }
    for crop in found.crops:
        assert decode_crop(crop.jpeg, 64).shape == (64, 64, 3)
        assert crop.time_s == pytest.approx(crop.frame_index / 10)
        assert crop.face_score == 0.8


def test_crops_come_one_by_one_and_are_counted_on_the_way(clip: Path) -> None:
    detector, counts = FixedFaces((100, 20, 130, 60), (5, 50, 30, 90)), CropCounts()
    crops = iter_crops(clip, PreprocessSettings(size=64), SAMPLING, counts, detector)
    first = next(crops)
    assert (counts.frames_sampled, counts.frames_with_face) == (1, 1)
    assert [first, *crops] == extract_crops(
        clip, PreprocessSettings(size=64), SAMPLING, detector
    ).crops
    assert counts == CropCounts(8, 8, {})


def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "long.avi", 40, height=480, width=640)
    sampling = SamplingSettings(frame_interval=1)
    detector = FixedFaces((100, 100, 400, 400))
    tracemalloc.start()
    for _ in iter_crops(clip, PreprocessSettings(size=64), sampling, CropCounts(), detector):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * 480 * 640 * 3


def test_clip_without_a_face_has_no_crops(clip: Path) -> None:
    found = extract_crops(clip, PreprocessSettings(), SAMPLING)
    assert (found.crops, found.frames_sampled, found.frames_with_face) == ([], 8, 0)


def test_without_a_detector_the_frame_is_the_crop(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 3)
    cv2.imwrite(str(tmp_path / "a.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    preprocess = PreprocessSettings(detector="none", size=96)
    (crop,) = extract_crops(tmp_path / "a.png", preprocess, SAMPLING).crops
    assert crop.box == (0, 0, 96, 96)
    np.testing.assert_allclose(decode_crop(crop.jpeg, 96).astype(int), image.astype(int), atol=12)


def test_crops_are_the_same_each_time(shared: Path) -> None:
    photo = shared / "data/images/real/real_1.jpg"
    first, second = (extract_crops(photo, PreprocessSettings(), SAMPLING) for _ in range(2))
    assert first == second
    assert len(first.crops) == 1


def test_no_face_gives_no_crops(shared: Path) -> None:
    found = extract_crops(shared / "data/edge/no_face.mp4", PreprocessSettings(), SAMPLING)
    assert (found.crops, found.frames_sampled, found.frames_with_face) == ([], 8, 0)


def test_faces_in_a_street_are_several_tracks(shared: Path) -> None:
    found = extract_crops(
        shared / "data/edge/street_multi_face.mp4", PreprocessSettings(), SAMPLING
    )
    lengths = np.bincount([crop.track for crop in found.crops])
    assert found.frames_with_face == 8
    assert (lengths >= 4).sum() >= 3
    assert len(found.crops) >= 24


def test_a_tight_crop_is_the_box_alone_stretched_to_a_square() -> None:
    crop = crop_box(gradient(), Face((60, 40, 80, 80), 1.0), margin=0.0, size=20)
    expected = cv2.resize(gradient()[40:80, 60:80], (20, 20), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(crop, expected)


def test_a_tight_crop_ends_at_the_frame() -> None:
    crop = crop_box(gradient(), Face((-20, -10, 40, 30), 1.0), margin=0.5, size=64)
    assert crop.shape == (64, 64, 3)
    assert crop[0, 0].tolist() == [0, 0, 0]
    expected = cv2.resize(gradient()[0:50, 0:70], (64, 64), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(crop, expected)


BOXES = st.tuples(*[st.floats(-300, 300)] * 2, *[st.floats(0.5, 300)] * 2)


@given(BOXES, st.floats(0, 2))
def test_a_tight_crop_exists_for_any_box(
    box: tuple[float, float, float, float], margin: float
) -> None:
    x, y, w, h = box
    crop = crop_box(gradient(), Face((x, y, x + w, y + h), 1.0), margin, size=32)
    assert crop.shape == (32, 32, 3)


def test_the_shape_of_a_crop_is_a_setting(clip: Path) -> None:
    detector = FixedFaces((60, 40, 80, 80))
    made = {
        shape: extract_crops(
            clip, PreprocessSettings(size=64, margin=0.0, shape=shape), SAMPLING, detector
        ).crops[0]
        for shape in ("square", "tight")
    }
    assert made["square"].jpeg != made["tight"].jpeg
    assert made["square"].box == made["tight"].box
