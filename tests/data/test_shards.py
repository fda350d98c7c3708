from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genconvit.data.crops import encode_crop
from genconvit.data.shards import (
    ROWS_PER_GROUP,
    SCHEMA,
    RowGroup,
    Slice,
    is_dataset,
    load_slice,
    open_dataset,
    plan_slices,
    write_shard,
)
from genconvit.errors import UserError

row_groups = st.lists(st.integers(0, 40), min_size=1, max_size=12).map(
    lambda sizes: [RowGroup(f"shard{index % 3}", index, rows) for index, rows in enumerate(sizes)]
)


def rows_of(slices: list[Slice]) -> list[tuple[int, int]]:
    return [(s.row_group, row) for s in slices for row in range(s.start, s.stop)]


@given(row_groups, st.integers(1, 7), st.none() | st.integers(0, 99))
def test_every_row_goes_to_exactly_one_worker(
    groups: list[RowGroup], parts: int, seed: int | None
) -> None:
    dealt = [row for part in plan_slices(groups, parts, seed=seed) for row in rows_of(part)]
    everything = [(group.index, row) for group in groups for row in range(group.rows)]
    assert sorted(dealt) == sorted(everything)


@given(row_groups, st.integers(1, 7), st.integers(0, 99))
def test_equal_shares_are_equal_and_lose_less_than_a_row_a_worker(
    groups: list[RowGroup], parts: int, seed: int
) -> None:
    shares = [rows_of(part) for part in plan_slices(groups, parts, equal=True, seed=seed)]
    assert len({len(share) for share in shares}) == 1
    dealt = [row for share in shares for row in share]
    assert len(set(dealt)) == len(dealt)
    assert sum(group.rows for group in groups) - len(dealt) < parts


def test_epochs_differ_and_repeat() -> None:
    groups = [RowGroup("a", index, 5) for index in range(20)]
    first, again, other = (plan_slices(groups, 2, equal=True, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def table(rows: int, label: int = 0) -> pa.Table:
    image = encode_crop(np.full((32, 32, 3), (200, 100, 0), np.uint8), 95)
    row = dict.fromkeys(SCHEMA.names)
    return pa.Table.from_pylist(
        [
            {**row, "image": image, "label": label, "video_id": "v", "frame_index": i, "track": 0}
            for i in range(rows)
        ],
        schema=SCHEMA,
    )


def test_a_slice_comes_back_decoded(tmp_path: Path) -> None:
    path = write_shard(tmp_path, table(ROWS_PER_GROUP + 10, label=1))
    batch = load_slice(Slice(str(path), 1, 3, 7), 16, ("label", "frame_index"))
    assert batch["image"].shape == (4, 16, 16, 3)
    np.testing.assert_allclose(batch["image"][0, 8, 8], (200, 100, 0), atol=3)  # RGB, not BGR
    assert batch["label"].tolist() == [1] * 4
    assert batch["frame_index"].tolist() == [ROWS_PER_GROUP + i for i in range(3, 7)]


def test_a_shard_is_named_after_its_rows(tmp_path: Path) -> None:
    first, again = write_shard(tmp_path / "a", table(3)), write_shard(tmp_path / "b", table(3))
    assert first.name == again.name != write_shard(tmp_path, table(4)).name
    assert pq.read_schema(first) == SCHEMA


def test_a_folder_that_extract_did_not_write_is_refused(tmp_path: Path) -> None:
    assert not is_dataset(tmp_path)
    with pytest.raises(UserError, match="genconvit extract"):
        open_dataset(tmp_path)


def test_a_manifest_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "extract.json").write_text('{"frames": 3}')
    with pytest.raises(UserError, match="extract again"):
        open_dataset(tmp_path)
