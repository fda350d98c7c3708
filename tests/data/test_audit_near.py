from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from genconvit.config import PreprocessSettings, SamplingSettings
from genconvit.data.audit.hashes import distances, perceptual_hashes, thumbnail
from genconvit.data.audit.near import SAME, near_pairs
from genconvit.data.crops import decode_crop, encode_crop, extract_crops

hashes = arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.just(40)))


@given(hashes, st.integers(0, 2**32 - 1))
def test_every_copy_within_three_bits_is_found_and_no_more(
    both: NDArray[np.uint8], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    coarse, fine = both[:, :8], both[:, 8:]
    flipped = np.unpackbits(coarse, axis=1)
    for row in flipped:
        row[rng.choice(64, 3, replace=False)] ^= 1
    coarse = np.concatenate([coarse, np.packbits(flipped, axis=1)])
    fine = np.concatenate([fine, fine])
    count = len(both)
    clip = np.arange(2 * count)
    split = np.repeat([0, 1], count)
    found = near_pairs(coarse, fine, clip, clip, split)
    pairs = {(pair.first, pair.second) for pair in found}
    assert {(at, at + count) for at in range(count)} <= pairs
    assert len(pairs) == len(found)
    for pair in found:
        assert pair.bits == distances(fine[pair.first], fine[pair.second]) <= SAME


def test_clips_of_one_group_in_one_split_are_left_out() -> None:
    coarse, fine = np.zeros((3, 8), np.uint8), np.zeros((3, 32), np.uint8)
    found = near_pairs(coarse, fine, np.arange(3), np.array([0, 0, 0]), np.array([0, 0, 1]))
    assert {(pair.first, pair.second) for pair in found} == {(0, 2), (1, 2)}


def test_real_people_are_told_apart_and_copies_found(shared: Path) -> None:
    """A few clips of the measurement in docs/audit.md."""
    root = shared / "data" / "videos"
    rows = list(csv.DictReader((root / "clips.csv").open()))
    one_a_group = list({row["group"]: row for row in rows if row["split"] == "val"}.values())[:6]
    images = [
        decode_crop(crop.jpeg, 224)
        for row in one_a_group
        for crop in extract_crops(
            root / row["video_name"], PreprocessSettings(), SamplingSettings(frames=1)
        ).crops[:1]
    ]
    copies = [decode_crop(encode_crop(image, 20), 224) for image in images]
    _, fine = perceptual_hashes(np.stack([thumbnail(image) for image in images]))
    _, again = perceptual_hashes(np.stack([thumbnail(image) for image in copies]))
    near = np.array([distances(fine, one) for one in again]) <= SAME
    assert np.array_equal(near, np.eye(len(images), dtype=bool))
