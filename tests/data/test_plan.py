from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genconvit.data.plan import (
    Chunk,
    Piece,
    chunk_rows,
    chunks,
    deal,
    load_chunk,
    shuffled,
    whole,
    without_first,
)
from genconvit.data.shards import ROWS_PER_GROUP, RowGroup
from tests.data.test_shards import make_dataset, table

row_groups = st.lists(st.integers(0, 40), min_size=1, max_size=12).map(
    lambda sizes: [RowGroup(f"shard{index % 3}", index, rows) for index, rows in enumerate(sizes)]
)


def rows_of(pieces: list[Piece]) -> list[tuple[int, int]]:
    return [(piece.row_group, int(row)) for piece in pieces for row in piece.rows]


@given(row_groups, st.integers(1, 7), st.none() | st.integers(0, 99))
def test_every_row_goes_to_exactly_one_worker(
    groups: list[RowGroup], parts: int, seed: int | None
) -> None:
    pieces = whole(groups) if seed is None else shuffled(whole(groups), seed)
    dealt = [row for part in deal(pieces, parts) for row in rows_of(part)]
    everything = [(group.index, row) for group in groups for row in range(group.rows)]
    assert sorted(dealt) == sorted(everything)
    if seed is None:
        assert dealt == everything


@given(row_groups, st.integers(1, 7), st.integers(0, 99))
def test_equal_shares_are_equal_and_lose_less_than_a_row_a_worker(
    groups: list[RowGroup], parts: int, seed: int
) -> None:
    shares = [rows_of(part) for part in deal(shuffled(whole(groups), seed), parts, equal=True)]
    assert len({len(share) for share in shares}) == 1
    dealt = [row for share in shares for row in share]
    assert len(set(dealt)) == len(dealt)
    assert sum(group.rows for group in groups) - len(dealt) < parts


@given(row_groups, st.integers(1, 50), st.none() | st.integers(0, 99))
def test_chunks_hold_every_row_once_and_all_but_the_last_are_full(
    groups: list[RowGroup], rows: int, seed: int | None
) -> None:
    made = chunks(whole(groups), rows, shuffle_seed=seed)
    assert [row for chunk in made for row in rows_of(list(chunk.pieces))] == rows_of(whole(groups))
    assert all(len(chunk) == rows for chunk in made[:-1])
    for chunk in made:
        assert 0 < len(chunk) <= rows
        if chunk.order is not None:
            assert sorted(chunk.order) == list(range(len(chunk)))


@given(row_groups, st.integers(1, 50), st.integers(0, 400))
def test_without_the_first_rows_the_others_stay_in_their_order(
    groups: list[RowGroup], rows: int, skip: int
) -> None:
    made = chunks(whole(groups), rows, shuffle_seed=1)

    def order(planned: list[Chunk]) -> list[tuple[int, int]]:
        found = []
        for chunk in planned:
            laid = rows_of(list(chunk.pieces))
            assert chunk.order is not None
            found += [laid[place] for place in chunk.order[chunk.skip :]]
        return found

    left = without_first(made, skip)
    assert order(left) == order(made)[skip:]
    assert sum(map(len, left)) == max(0, sum(map(len, made)) - skip)


@given(st.integers(1, 5000))
def test_no_batch_is_put_together_of_two_chunks(batch_size: int) -> None:
    assert chunk_rows(batch_size) % batch_size == 0
    assert chunk_rows(batch_size) >= min(batch_size, 128)


def test_epochs_differ_and_repeat() -> None:
    groups = [RowGroup("a", index, 5) for index in range(20)]
    first, again, other = (rows_of(shuffled(whole(groups), seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_chunk_comes_back_decoded_in_its_order(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, table(ROWS_PER_GROUP + 10, label=1))
    path = dataset.shards[0].path
    pieces = (Piece(path, 1, np.array([3, 5])), Piece(path, 0, np.array([40, 7, 7])))
    order = np.array([4, 0, 2, 1, 3])
    batch = load_chunk(Chunk(pieces, order), 16, ("label", "frame_index", "box"))
    frames = np.array([ROWS_PER_GROUP + 3, ROWS_PER_GROUP + 5, 40, 7, 7])[order]
    assert batch["frame_index"].tolist() == frames.tolist()
    assert batch["image"].shape == (5, 16, 16, 3)
    np.testing.assert_allclose(batch["image"][:, 8, 8, 0], frames, atol=2)
    assert batch["label"].tolist() == [1] * 5
    assert batch["box"].shape == (5, 4)


def test_a_crop_that_is_no_jpeg_is_named(tmp_path: Path) -> None:
    rows = table(2).to_pylist()
    rows[1]["image"] = b"nothing"
    broken = table(2).schema.empty_table().from_pylist(rows, schema=table(2).schema)
    dataset = make_dataset(tmp_path, broken)
    with pytest.raises(Exception, match="extract its clip again"):
        load_chunk(chunks(whole(dataset.row_groups("val")))[0], 16)
