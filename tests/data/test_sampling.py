from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genconvit.config import StreamSettings
from genconvit.data.sampling import RowIndex, choose_rows, pieces_of
from genconvit.data.shards import RowGroup

GROUP = 7


@st.composite
def indices(draw: st.DrawFn) -> RowIndex:
    """Up to four clips of each of two datasets, with one to nine rows each."""
    rows = []
    for number in range(draw(st.integers(1, 2))):
        for clip in range(draw(st.integers(1, 4))):
            label = draw(st.integers(0, 1))
            method = draw(st.integers(0, 2)) + 10 * label
            rows += [(label, method, 10 * number + clip, number)] * draw(st.integers(1, 9))
    label, method, clip, dataset = (np.array(column) for column in zip(*rows, strict=True))
    count = len(rows)
    sizes = [min(GROUP, count - start) for start in range(0, count, GROUP)]
    groups = tuple(RowGroup("shard", place, size) for place, size in enumerate(sizes))
    place = np.arange(count)
    return RowIndex(groups, place // GROUP, place % GROUP, label, method, clip, dataset)


seeds = st.integers(0, 99)


@given(indices(), seeds)
def test_without_settings_every_row_comes_once(index: RowIndex, seed: int) -> None:
    assert sorted(choose_rows(index, StreamSettings(), seed)) == list(range(len(index)))


@given(indices(), st.integers(1, 9), seeds)
def test_the_cap_keeps_every_clip_and_no_more_than_it_says(
    index: RowIndex, cap: int, seed: int
) -> None:
    rows = choose_rows(index, StreamSettings(frames_per_clip=cap), seed)
    kept, held = Counter(index.clip[rows]), Counter(index.clip)
    assert kept == {clip: min(cap, count) for clip, count in held.items()}
    assert len(set(rows)) == len(rows)


@given(indices(), st.none() | st.integers(1, 9), seeds)
def test_real_only_leaves_the_fakes_out(index: RowIndex, cap: int | None, seed: int) -> None:
    real = StreamSettings(real_only=True, frames_per_clip=cap)
    both = StreamSettings(frames_per_clip=cap)
    rows = choose_rows(index, both, seed)
    assert sorted(choose_rows(index, real, seed)) == sorted(rows[index.label[rows] == 1])


@given(indices(), st.sampled_from(["class", "method"]), seeds)
def test_balance_gives_each_kind_as_many_and_each_of_its_rows_as_often(
    index: RowIndex, balance: str, seed: int
) -> None:
    rows = choose_rows(index, StreamSettings(balance=balance), seed)
    keys = index.label if balance == "class" else index.method
    by_kind = Counter(keys[rows])
    assert len(rows) == len(index)
    assert max(by_kind.values()) - min(by_kind.values()) <= 1 or len(by_kind) < len(set(keys))
    for kind in set(keys):
        often = Counter(rows[keys[rows] == kind])
        times = [often[row] for row in np.flatnonzero(keys == kind)]
        assert max(times) - min(times) <= 1


@given(indices(), st.floats(0.1, 10), seeds)
def test_datasets_are_mixed_by_their_shares(index: RowIndex, share: float, seed: int) -> None:
    shares = (1.0, share)[: int(index.dataset.max()) + 1]
    rows = choose_rows(index, StreamSettings(mix=shares), seed)
    exact = len(index) * np.array(shares) / sum(shares)
    counts = np.bincount(index.dataset[rows], minlength=len(shares))
    assert np.abs(counts - exact).max() < 1


@given(indices(), seeds)
def test_pieces_hold_the_rows_and_none_twice(index: RowIndex, seed: int) -> None:
    rows = choose_rows(index, StreamSettings(balance="class"), seed)
    pieces = pieces_of(index, rows, seed)
    found = [piece.row_group * GROUP + row for piece in pieces for row in piece.rows]
    assert sorted(found) == sorted(rows)
    assert all(len(set(piece.rows)) == len(piece) for piece in pieces)


def test_every_epoch_draws_anew() -> None:
    count = 60
    place = np.arange(count)
    groups = tuple(RowGroup("shard", number, GROUP) for number in range(9))
    zero = np.zeros(count, np.int64)
    index = RowIndex(groups, place // GROUP, place % GROUP, zero, zero, place // 10, zero)
    settings = StreamSettings(frames_per_clip=2)
    first, again, other = (sorted(choose_rows(index, settings, seed)) for seed in (1, 1, 2))
    assert first == again != other
