from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from genconvit.data.shards import open_dataset, plan_slices
from ray_jobs.stream import stream

pytestmark = pytest.mark.usefixtures("cluster")


def read(dataset: Path, part: int, parts: int, seed: int | None = None) -> list[dict]:
    groups = open_dataset(dataset).row_groups("train")
    slices = plan_slices(groups, parts, seed=seed)[part]
    columns = ("label", "video_id", "frame_index")
    return list(stream(slices, image_size=64, batch_size=10, columns=columns, shuffle_seed=seed))


def keys(batches: list[dict]) -> list[tuple[str, int]]:
    return [
        pair
        for batch in batches
        for pair in zip(batch["video_id"].tolist(), batch["frame_index"].tolist(), strict=True)
    ]


def test_workers_together_see_every_row_once(dataset: Path) -> None:
    seen = Counter(key for part in range(3) for key in keys(read(dataset, part, 3)))
    assert seen == Counter(keys(read(dataset, 0, 1)))
    assert set(seen.values()) == {1}
    assert len(seen) == sum(open_dataset(dataset).counts["train"].values())


def test_the_same_seed_gives_the_same_batches_in_another_order(dataset: Path) -> None:
    first, again, other = (read(dataset, 0, 2, seed=seed) for seed in (1, 1, 2))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one["image"], two["image"])
    assert keys(first) == keys(again)
    assert keys(first) != keys(other)
    assert keys(first) != keys(read(dataset, 0, 2))


def test_batches_are_full_but_for_the_last(dataset: Path) -> None:
    batches = read(dataset, 0, 1)
    assert {len(batch["label"]) for batch in batches[:-1]} == {10}
    assert batches[0]["image"].shape == (10, 64, 64, 3)
    assert batches[0]["image"].dtype == np.uint8


def test_no_rows_give_no_batches() -> None:
    assert list(stream([], image_size=64, batch_size=10)) == []
