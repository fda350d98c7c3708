from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genconvit.checkpoint import DESCRIPTION, read_info
from genconvit.reference import (
    BINS,
    SCALES,
    CropSample,
    Histogram,
    Reference,
    crop_statistics,
    face_sizes,
    population_stability_index,
    spread,
)
from genconvit.train.feed import Batch
from tests.train.little import batches, crops, data, run, settings

COUNTS = st.lists(st.integers(0, 1000), min_size=BINS, max_size=BINS).filter(any)


def test_the_index_is_that_of_the_formula() -> None:
    # Shares 0.5, 0.3, 0.2 and 0.2, 0.3, 0.5, each mixed with 1 % of a third.
    high, low = 0.99 * 0.5 + 0.01 / 3, 0.99 * 0.2 + 0.01 / 3
    expected = 2 * (high - low) * math.log(high / low)
    assert population_stability_index([50, 30, 20], [2, 3, 5]) == pytest.approx(expected)
    assert expected == pytest.approx(0.5383, abs=0.0001)


@given(counts=COUNTS, times=st.integers(1, 50))
def test_as_many_times_the_same_is_no_drift(counts: list[int], times: int) -> None:
    more = [times * count for count in counts]
    assert population_stability_index(counts, more) == pytest.approx(0, abs=1e-12)


@given(one=COUNTS, two=COUNTS)
def test_the_index_is_finite_never_negative_and_the_same_both_ways(
    one: list[int], two: list[int]
) -> None:
    index = population_stability_index(one, two)
    assert 0 <= index < 20
    assert population_stability_index(two, one) == pytest.approx(index)


@given(mean=st.floats(0.1, 0.3), step=st.floats(0.06, 0.15))
def test_the_further_the_shift_the_higher_the_index(mean: float, step: float) -> None:
    places = np.linspace(0, 1, BINS)

    def around(middle: float) -> np.ndarray:
        return np.exp(-(((places - middle) / 0.15) ** 2))

    found = [population_stability_index(around(mean), around(mean + n * step)) for n in range(4)]
    assert found == sorted(found)
    assert found[0] == 0
    assert found[1] > 0.1


def test_statistics_are_what_they_are_called() -> None:
    flat = np.full((64, 64, 3), 100, np.uint8)
    board = flat.copy()
    board[::2, ::2], board[1::2, 1::2] = 0, 0
    dark = board // 2
    found = crop_statistics(np.stack([flat, board, dark]))
    assert found["brightness"] == pytest.approx([100, 50, 25])
    assert found["contrast"] == pytest.approx([0, 50, 25])
    assert found["sharpness"][0] == 0
    assert found["sharpness"][1] > found["sharpness"][2] > 5
    assert all(column.shape == (0,) for column in crop_statistics(board[None][:0]).values())
    assert face_sizes([[10, 10, 30, 60], [0, 0, 50, 40]]).tolist() == [20, 40]
    assert face_sizes([]).shape == (0,)


@pytest.mark.parametrize("name", SCALES)
def test_what_lies_outside_a_scale_is_counted_in_its_last_bins(name: str) -> None:
    scale = SCALES[name]
    counts = scale.count([-1e9, scale.low, scale.high, 1e9])
    assert (counts[0], counts[-1], counts.sum()) == (2, 2, 4)


def test_every_clip_weighs_alike_and_the_classes_as_prevalence_says() -> None:
    # Two fake clips, of which one has nine crops, and two real ones.
    values = [0.91] * 9 + [0.81, 0.11, 0.12]
    is_fake = [True] * 10 + [False] * 2
    clips = ["a"] * 9 + ["b", "c", "d"]
    histogram = Histogram.of("crop_score", values, is_fake, clips)
    assert histogram.clips == 4
    assert histogram.fake[18] == histogram.fake[16] == 1
    as_validated, rare = histogram.expected(), histogram.expected(0.01)
    assert as_validated[2] == 2
    assert as_validated[10:].sum() == 2
    assert rare.sum() == pytest.approx(4)
    assert rare[10:].sum() == pytest.approx(0.04)
    one_class = Histogram.of("crop_score", values[:3], is_fake[:3], clips[:3])
    assert one_class.expected(0.01).tolist() == one_class.expected().tolist()


@given(count=st.integers(0, 300), most=st.integers(1, 40))
def test_few_places_of_many_are_spread_evenly(count: int, most: int) -> None:
    places = spread(count, most)
    assert len(places) == min(count, most)
    assert set(places) <= set(range(count))
    if len(places) > 1:
        gaps = np.diff(places)
        assert gaps.max() - gaps.min() <= 1


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    most=st.integers(1, 12),
)
def test_a_sample_lies_evenly_in_a_split_of_unknown_size(sizes: list[int], most: int) -> None:
    sample = CropSample(most)
    total = sum(sizes)
    whole = {
        "image": np.arange(total, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3),
        "label": np.arange(total) % 2,
        "video_id": np.array([f"clip{place}" for place in range(total)]),
        "box": np.tile([0, 0, 5, 7], (total, 1)),
    }
    start = 0
    for size in sizes:
        sample.add({name: column[start : start + size] for name, column in whole.items()})
        start += size
    rows = sample.scored(np.arange(total) / total)
    places = rows["place"]
    assert min(total, most) / 2 <= len(places) <= most
    assert len(set(np.diff(places))) <= 1
    assert rows["clip"].tolist() == [f"clip{place}" for place in places]
    assert rows["brightness"].tolist() == [place % 256 for place in places]
    assert (rows["crop_score"] * total).round().tolist() == places.tolist()
    sample.add({name: column[:1] for name, column in whole.items()})  # of the next epoch
    assert len(sample.scored(np.zeros(total))["place"]) == len(places)


def with_boxes(rows: Batch) -> Batch:
    return {**rows, "box": np.tile([3, 4, 103, 204], (len(rows["label"]), 1))}


def test_a_kept_detector_has_the_reference_of_its_own_epoch(tmp_path: Path) -> None:
    val = with_boxes(crops(16, seed=1))
    folder = run(tmp_path / "a", settings(), replace(data(), validate=lambda: batches(val, 6)))
    info = read_info(folder.last)
    reference = info.reference
    assert reference is not None
    assert reference.crops == 16
    assert reference.face_size is not None
    assert reference.face_size.expected()[SCALES["face_size"].count([100]) > 0] == [8]
    for histogram in reference.histograms().values():
        assert histogram.clips == pytest.approx(8, abs=0.01)
        assert sum(histogram.fake) == pytest.approx(4, abs=0.01)
    # P(fake) at 0.5 is the border of two bins, so that the accuracy can be had of it.
    right = sum(reference.clip_score.fake[10:]) + sum(reference.clip_score.real[:10])
    assert right / 8 == info.metrics["clip_accuracy"]


def test_a_run_that_goes_on_has_the_same_reference(tmp_path: Path) -> None:
    whole = run(tmp_path / "a", settings())
    run(tmp_path / "b", settings("train.epochs=1"))
    resumed = run(tmp_path / "b", settings())
    for one, two in ((whole.best, resumed.best), (whole.last, resumed.last)):
        assert read_info(one).reference == read_info(two).reference is not None


def test_without_validation_there_is_no_reference(tmp_path: Path) -> None:
    def refuse() -> Iterator[Batch]:
        raise AssertionError

    job = settings("train.train_on_val=true", "train.epochs=1")
    folder = run(tmp_path / "c", job, replace(data(), validate=refuse))
    assert read_info(folder.best).reference is None


def test_an_older_detector_has_none() -> None:
    assert read_info(Path(__file__).parent / "checkpoints" / "version1").reference is None


def test_a_reference_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = run(tmp_path / "d", settings("train.epochs=1"))
    content: dict[str, Any] = json.loads((folder.best / DESCRIPTION).read_text())
    assert Reference.model_validate(content["reference"]) == read_info(folder.best).reference
