from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from genconvit.data.faces import Face
from genconvit.evaluate.robustness.distortions import (
    BY_NAME,
    DISTORTIONS,
    SEEDS,
    Condition,
    Distortion,
    add_noise,
    blur,
    conditions,
    downscale,
    kept_frames,
    scale_brightness,
    shift_face,
)

ON_FRAMES = [each for each in DISTORTIONS if each.on_frame]
BOX = (10.0, 20.0, 50.0, 100.0)
FACE = Face(BOX, 0.9, ((20.0, 40.0), (40.0, 40.0), (30.0, 60.0), (22.0, 80.0), (38.0, 80.0)))
frames = st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)).flatmap(
    lambda shape: arrays(np.uint8, shape)
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def distorted(kind: Distortion, image: NDArray[np.uint8], level: float) -> NDArray[np.uint8]:
    assert kind.on_frame is not None
    return kind.on_frame(image, level, rng())


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    """Coarse and fine shapes, mostly of middling brightness, as a photo has them."""
    image = np.zeros((240, 320, 3), np.float32)
    for cells, strength in ((4, 40.0), (16, 25.0), (64, 12.0), (160, 6.0)):
        coarse = rng(cells).normal(0, strength, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + 110, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ON_FRAMES, ids=lambda kind: kind.name)
@given(image=frames, data=st.data())
@settings(max_examples=25)
def test_a_frame_keeps_its_shape_and_type(
    kind: Distortion, image: NDArray[np.uint8], data: st.DataObject
) -> None:
    before = image.copy()
    found = distorted(kind, image, data.draw(st.sampled_from(kind.levels)))
    assert found.shape == image.shape
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("kind", ON_FRAMES, ids=lambda kind: kind.name)
def test_each_level_is_stronger_than_the_one_before(
    kind: Distortion, picture: NDArray[np.uint8]
) -> None:
    psnr = [cv2.PSNR(picture, distorted(kind, picture, level)) for level in kind.levels]
    assert psnr == sorted(psnr, reverse=True)
    assert len(set(psnr)) == len(psnr)


@pytest.mark.parametrize(
    ("change", "nothing"),
    [(downscale, 1.0), (blur, 0.0), (add_noise, 0.0), (scale_brightness, 1.0)],
)
def test_a_level_of_nothing_changes_nothing(
    change: object, nothing: float, picture: NDArray[np.uint8]
) -> None:
    assert callable(change)
    np.testing.assert_array_equal(change(picture, nothing, rng()), picture)


def test_blur_is_the_same_at_every_size(picture: NDArray[np.uint8]) -> None:
    twice = cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    small = cv2.resize(blur(twice, 8, rng()), (320, 240), interpolation=cv2.INTER_AREA)
    assert cv2.PSNR(small, blur(picture, 8, rng())) > 40


def test_noise_has_the_deviation_that_it_says_and_repeats() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    noisy = add_noise(grey, 0.1, rng())
    assert noisy.astype(float).std() == pytest.approx(25.5, rel=0.02)
    np.testing.assert_array_equal(noisy, add_noise(grey, 0.1, rng()))
    assert (noisy != add_noise(grey, 0.1, rng(1))).any()


@given(share=st.floats(0.0, 0.5), seed=st.integers(0, 2**20))
def test_a_face_moves_as_a_whole_and_by_its_share(share: float, seed: int) -> None:
    moved = shift_face(FACE, share, rng(seed))
    steps = np.array(moved.box) - np.array(BOX)
    assert np.hypot(*steps[:2]) == pytest.approx(share * 80, abs=1e-9)
    np.testing.assert_allclose(steps[:2], steps[2:], atol=1e-9)
    assert FACE.landmarks is not None
    assert moved.landmarks is not None
    for before, after in zip(FACE.landmarks, moved.landmarks, strict=True):
        np.testing.assert_allclose(np.subtract(after, before), steps[:2], atol=1e-9)


@given(
    count=st.integers(1, 200),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    seed=st.integers(0, 99),
)
def test_dropped_frames_stay_dropped_at_stronger_levels(
    count: int, shares: list[float], seed: int
) -> None:
    frames = [7 * number for number in range(count)]
    many, few = (kept_frames(frames, share, rng(seed)) for share in shares)
    assert set(few) <= set(many) <= set(frames)
    assert few == sorted(few)
    assert len(few) == max(1, count - round(shares[1] * count))
    assert kept_frames(frames, 0.0, rng(seed)) == frames


def test_what_is_random_has_five_seeds_and_the_rest_one() -> None:
    found = conditions()
    assert len(set(found)) == len(found) == 1 + 5 * (6 + 3 * SEEDS)
    without = conditions(with_h264=False)
    assert {each.distortion for each in found} - {each.distortion for each in without} == {"h264"}


def test_seeds_and_clips_draw_apart_and_levels_alike() -> None:
    def draw(condition: Condition, clip: str) -> float:
        return float(condition.generator(clip).random())

    first = draw(Condition("noise", 0.1, 0), "a.mp4")
    assert draw(Condition("noise", 0.2, 0), "a.mp4") == first
    others = [
        draw(Condition("noise", 0.1, 1), "a.mp4"),
        draw(Condition("noise", 0.1, 0), "b.mp4"),
        draw(Condition("crop_shift", 0.1, 0), "a.mp4"),
    ]
    assert len({first, *others}) == 4


def test_levels_read_as_words() -> None:
    assert BY_NAME["jpeg"].at(30) == "JPEG quality 30"
    assert BY_NAME["downscale"].at(0.25) == "downscaling to 0.25 of the side"
