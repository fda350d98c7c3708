from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray

from genconvit.evaluate.evidence.map_check import check_map

SIZE = 40
PATCH = (slice(8, 16), slice(28, 36))


def looks_at_the_patch(crops_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    return crops_BHWC[:, *PATCH].mean(axis=(1, 2, 3)) / 255


def crop() -> NDArray[np.uint8]:
    image = np.random.default_rng(0).integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
    image[PATCH] = 255
    return image


def marks(*place: slice) -> NDArray[np.float64]:
    map_HW = np.zeros((SIZE, SIZE))
    map_HW[place] = 1
    return map_HW


def test_a_map_of_what_matters_passes_and_of_another_place_fails() -> None:
    right = check_map(looks_at_the_patch, crop(), marks(*PATCH), "FAKE")
    assert right.passes
    wrong = check_map(looks_at_the_patch, crop(), marks(slice(26, 38), slice(4, 16)), "FAKE")
    assert not wrong.passes
    assert "do not matter more" in wrong.sentence and "do not rely" in wrong.sentence


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_a_constant_map_fails(value: float) -> None:
    found = check_map(looks_at_the_patch, crop(), np.full((SIZE, SIZE), value), "FAKE")
    assert (found.passes, found.gain, found.spread) == (False, 0.0, 0.0)


def test_a_map_that_speaks_against_the_class_marks_nothing() -> None:
    found = check_map(looks_at_the_patch, crop(), -marks(*PATCH), "REAL")
    assert not found.passes
    assert found.sentence.startswith("No place stands out as speaking for REAL")


def test_where_the_network_does_not_heed_the_blur_nothing_can_be_told() -> None:
    found = check_map(lambda crops: np.full(len(crops), 0.99), crop(), marks(*PATCH), "FAKE")
    assert not found.passes
    assert "cannot tell what matters" in found.sentence


def test_maps_without_a_meaning_seldom_pass() -> None:
    """One time in twenty is what the two spreads stand for."""
    rng = np.random.default_rng(0)
    passed = 0
    for seed in range(60):
        y, x = rng.integers(0, SIZE - 12, 2)
        place = marks(slice(y, y + 12), slice(x, x + 12))
        noise = rng.normal(0, 1, (SIZE, SIZE))
        weights = noise - noise.mean()

        def random_network(
            crops: NDArray[np.uint8], weights: NDArray[np.float64] = weights
        ) -> NDArray[np.float64]:
            return 0.5 + 0.5 * np.tanh((crops.mean(axis=3) * weights).sum(axis=(1, 2)) / 2000)

        passed += check_map(random_network, crop(), place, "FAKE", seed=seed).passes
    assert passed / 60 < 0.15


@examples(max_examples=20)
@given(st.integers(0, 99))
def test_areas_are_shares_and_end_at_the_crop_and_its_blur(seed: int) -> None:
    map_HW = np.random.default_rng(seed).normal(0, 1, (SIZE, SIZE))
    found = check_map(looks_at_the_patch, crop(), map_HW, "FAKE", random_maps=2, seed=seed)
    for area in (found.insertion, found.deletion, found.random_insertion, found.random_deletion):
        assert 0 <= area <= 1
    assert found.whole == 1.0
    assert found.blurred < 1.0
