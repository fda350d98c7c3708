from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genconvit.config import PreprocessSettings, SamplingSettings
from genconvit.data.crops import CropCounts, extract_crops, iter_crops
from genconvit.data.faces import Face
from genconvit.data.quality import fault, sharpness

SAMPLING = SamplingSettings(frame_interval=1)


@functools.cache
def texture(side: int = 512) -> NDArray[np.uint8]:
    """Smooth shapes, as wide as an eighth of the image."""
    noise = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    shapes = cv2.GaussianBlur(noise, (0, 0), side / 64)
    grey = np.clip(128 + 50 * shapes / shapes.std(), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def whole(image_HWC: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    return 0, 0, image_HWC.shape[1], image_HWC.shape[0]


class OneUnsure:
    """Two faces; the second is doubtful in all frames but the first and the last of six."""

    def __init__(self) -> None:
        self.frame = -1

    def detect(self, image_HWC: NDArray[np.uint8]) -> list[Face]:
        self.frame += 1
        doubtful = Face((90, 60, 120, 100), 0.5 if 0 < self.frame < 5 else 0.9)
        return [Face((10, 10, 60, 60), 0.95), doubtful]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Six frames with texture on the left and a flat right half."""
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 2, (160, 120))
    frame = texture(160)[:120].copy()
    frame[:, 80:] = 128
    for _ in range(6):
        writer.write(frame)
    writer.release()
    return path


@given(st.floats(0.5, 8), st.floats(1.3, 3))
@settings(max_examples=25)
def test_blur_lowers_sharpness(sigma: float, factor: float) -> None:
    values = [
        sharpness(image, whole(image))
        for image in (cv2.GaussianBlur(texture(), (0, 0), s) for s in (sigma, sigma * factor))
    ]
    assert values[1] < values[0] < sharpness(texture(), whole(texture()))


@pytest.mark.parametrize("side", [192, 256, 384, 1024])
def test_sharpness_compares_across_sizes(side: int) -> None:
    image = cv2.resize(texture(1024), (side, side), interpolation=cv2.INTER_AREA)
    expected = sharpness(texture(1024), whole(texture(1024)))
    assert sharpness(image, whole(image)) == pytest.approx(expected, rel=0.15)


def test_sharpness_is_that_of_the_box_alone() -> None:
    image = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    image[20:60, 30:70] = 90
    assert sharpness(image, (30, 20, 70, 60)) == 0
    assert sharpness(image, (0, 0, 30, 20)) > 100
    assert sharpness(image, (50, 50, 50, 80)) == 0  # a face outside of the frame


@pytest.mark.parametrize(
    ("limits", "box", "score", "reason"),
    [
        ({}, (0, 0, 1, 1), 0.0, None),
        ({"min_face_size": 30}, (0, 0, 30, 200), 0.9, None),
        ({"min_face_size": 30}, (0, 0, 200, 29), 0.9, "small"),
        ({"min_face_score": 0.7}, (0, 0, 9, 9), 0.69, "unsure"),
        ({"min_face_score": 0.7}, (0, 0, 9, 9), 0.7, None),
        ({"min_sharpness": 1}, (0, 0, 100, 100), 0.9, "blurred"),
        ({"min_face_size": 30, "min_face_score": 1, "min_sharpness": 1}, (0, 0, 9, 9), 0, "small"),
    ],
)
def test_the_first_reason_is_given(
    limits: dict[str, float], box: tuple[int, int, int, int], score: float, reason: str | None
) -> None:
    flat = np.full((200, 200, 3), 90, np.uint8)
    preprocess = PreprocessSettings.model_validate(limits)
    assert fault(flat, box, score, preprocess) == reason


def test_a_removed_face_leaves_the_tracks_as_they_are(clip: Path) -> None:
    preprocess = PreprocessSettings(size=32, min_face_score=0.8)
    found = extract_crops(clip, preprocess, SAMPLING, OneUnsure())
    seen = [[0, 1], [0], [0], [0], [0], [0, 1]]  # unseen for so long, it would be a new track
    assert [(crop.frame_index, crop.track) for crop in found.crops] == [
        (frame, track) for frame, tracks in enumerate(seen) for track in tracks
    ]
    assert found.removed == {"unsure": 4}


def test_what_is_left_is_as_without_the_filter(clip: Path) -> None:
    every = extract_crops(clip, PreprocessSettings(size=32), SAMPLING, OneUnsure())
    preprocess = PreprocessSettings(size=32, min_sharpness=5)
    left = extract_crops(clip, preprocess, SAMPLING, OneUnsure())
    assert every.removed == {}
    assert left == replace(
        every, crops=[crop for crop in every.crops if crop.track == 0], removed={"blurred": 6}
    )


def test_a_clip_may_have_nothing_left(clip: Path) -> None:
    preprocess = PreprocessSettings(size=32, min_face_size=60)
    counts = CropCounts()
    assert list(iter_crops(clip, preprocess, SAMPLING, counts, OneUnsure())) == []
    assert counts == CropCounts(frames_sampled=6, frames_with_face=6, removed={"small": 12})


def test_limits_are_part_of_the_fingerprint_once_set() -> None:
    plain = PreprocessSettings()
    assert plain.fingerprint() == "b900b07397de"  # as before there were any
    limits = {"min_face_size": 64, "min_face_score": 0.8, "min_sharpness": 10.0}
    changed = {
        PreprocessSettings.model_validate({name: value}).fingerprint()
        for name, value in limits.items()
    }
    assert len(changed | {plain.fingerprint()}) == 4


def test_small_faces_of_a_street_are_removed(shared: Path) -> None:
    clip, sampling = shared / "data/edge/street_multi_face.mp4", SamplingSettings(frames=4)
    every = extract_crops(clip, PreprocessSettings(size=64), sampling)
    left = extract_crops(clip, PreprocessSettings(size=64, min_face_size=60), sampling)
    assert 4 <= len(left.crops) < len(every.crops)
    assert left.removed == {"small": len(every.crops) - len(left.crops)}
    assert [crop for crop in every.crops if crop in left.crops] == left.crops
