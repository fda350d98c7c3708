"""Crops by their place in Ray's store."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.decoding.stored import (
    MESSAGE_BYTES,
    LostError,
    Stored,
    load,
    load_some,
    part_of,
    side_of,
    stored,
)

SIDE = 64
MANY = MESSAGE_BYTES // (SIDE * SIDE * 3) + 2


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


@pytest.mark.usefixtures("cluster")
def test_many_crops_are_passed_on_by_their_place() -> None:
    made = crops(MANY)
    images = stored(made)
    assert isinstance(images, Stored)
    assert (len(images), images.nbytes, side_of(images)) == (MANY, made.nbytes, SIDE)
    np.testing.assert_array_equal(load(images), made)
    part = part_of(part_of(images, 10, 50), 5, 100)
    np.testing.assert_array_equal(load(part), made[10:50][5:100])
    np.testing.assert_array_equal(load_some([images, part], [2, MANY + 3]), made[[2, 18]])


@pytest.mark.usefixtures("cluster")
def test_few_are_passed_on_as_they_are() -> None:
    made = crops(3)
    assert stored(made) is made
    np.testing.assert_array_equal(load(part_of(made, 1, 9)), made[1:])


@pytest.mark.usefixtures("cluster")
def test_crops_of_a_process_that_died_are_lost() -> None:
    import ray

    class Maker:
        def made(self) -> Stored:
            images = stored(crops(MANY))
            assert isinstance(images, Stored)
            return images

    maker = ray.remote(num_cpus=0)(Maker).remote()
    images = ray.get(maker.made.remote())
    assert load(images).shape == (MANY, SIDE, SIDE, 3)
    ray.kill(maker)
    with pytest.raises(LostError):  # once Ray has heard of it
        for _ in range(100):
            load(images)
            time.sleep(0.1)


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=5), data=st.data())
def test_single_crops_are_found_in_their_parts(counts: list[int], data: st.DataObject) -> None:
    parts = [crops(count) for count in counts]
    whole = np.concatenate(parts)
    if not len(whole):
        return
    place = st.integers(0, len(whole) - 1)
    places = data.draw(st.lists(place, min_size=1, max_size=4))
    np.testing.assert_array_equal(load_some(parts, places), whole[places])
