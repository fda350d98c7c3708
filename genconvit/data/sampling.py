"""Choosing the rows of a training epoch: classes balanced, datasets mixed, frames of a clip capped.

Rows are chosen by their label, method and clip, which a `RowIndex` holds for a whole split; no
image is read for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genconvit.config import CLASSES, StreamSettings
from genconvit.data.plan import Piece
from genconvit.data.shards import RowGroup
from genconvit.folder import open_parquet

Ints = NDArray[np.int64]
REAL = CLASSES.index("real")


@dataclass(frozen=True)
class RowIndex:
    """What is known of every row of a split, an array each.

    Attributes:
        groups: The row groups.
        group: Which of them a row lies in.
        row: Its place there.
        label: 0 fake, 1 real.
        method: A number for each method of each label.
        clip: A number for each clip.
        dataset: Which of the datasets that are mixed.
    """

    groups: tuple[RowGroup, ...]
    group: Ints
    row: Ints
    label: Ints
    method: Ints
    clip: Ints
    dataset: Ints

    def __len__(self) -> int:
        return len(self.row)


def read_index(groups: Sequence[Sequence[RowGroup]]) -> RowIndex:
    """Reads the small columns of all row groups.

    Args:
        groups: Those of each dataset.
    """
    rows = _read(groups, "label", "method", "video_id")
    names = pc.binary_join_element_wise(rows["dataset"].cast(pa.string()), rows["video_id"], "\x00")
    methods = pc.binary_join_element_wise(rows["label"].cast(pa.string()), rows["method"], "\x00")
    flat = [group for members in groups for group in members]
    counts = [group.rows for group in flat]
    return RowIndex(
        tuple(flat),
        np.repeat(np.arange(len(flat)), counts),
        np.concatenate([np.arange(count) for count in counts]),
        rows["label"].to_numpy().astype(np.int64),
        _numbered(methods),
        _numbered(names),
        rows["dataset"].to_numpy(),
    )


def read_faces(groups: Sequence[Sequence[RowGroup]]) -> tuple[Ints, Ints]:
    """Face boxes (N, 4) and labels (N) of all rows, in the order of `read_index`."""
    rows = _read(groups, "box", "label")
    boxes = rows["box"].combine_chunks().flatten().to_numpy().astype(np.int64)
    return boxes.reshape(-1, 4), rows["label"].to_numpy().astype(np.int64)


def _read(groups: Sequence[Sequence[RowGroup]], *columns: str) -> pa.Table:
    """Columns of all rows, and the number of the `dataset` that each is of."""
    tables: list[pa.Table] = []
    for number, members in enumerate(groups):
        for path in dict.fromkeys(group.path for group in members):
            with open_parquet(path) as file:
                table = file.read(columns=list(columns))
            tables.append(table.append_column("dataset", pa.array(np.full(len(table), number))))
    return pa.concat_tables(tables)


def choose_rows(index: RowIndex, settings: StreamSettings, seed: int) -> Ints:
    """The rows of an epoch: places in the index, in no order, some perhaps several times.

    Args:
        index: All rows.
        settings: `frames_per_clip`, `real_only`, `balance` and `mix`.
        seed: Another one for every epoch.
    """
    generator = np.random.default_rng(seed)
    rows = np.arange(len(index))
    if settings.frames_per_clip is not None:
        rows = _capped(index, settings.frames_per_clip, generator)
    if settings.real_only:
        rows = rows[index.label[rows] == REAL]
    size = len(rows)
    strata = [rows]
    if settings.mix is not None:
        strata = [rows[index.dataset[rows] == number] for number in range(len(settings.mix))]
    shares = np.asarray(settings.mix or [1.0], float)
    quotas = _quotas(size, shares)
    picked = []
    for stratum, quota in zip(strata, quotas, strict=True):
        keys = {"none": None, "class": index.label, "method": index.method}[settings.balance]
        picked.append(_balanced(stratum, None if keys is None else keys, int(quota), generator))
    return np.concatenate(picked)


def _capped(index: RowIndex, cap: int, generator: np.random.Generator) -> Ints:
    """At most `cap` rows of every clip, drawn anew."""
    shuffled = generator.permutation(len(index))
    by_clip = shuffled[np.argsort(index.clip[shuffled], kind="stable")]
    clips = index.clip[by_clip]
    starts = np.flatnonzero(np.r_[True, clips[1:] != clips[:-1]])
    rank = np.arange(len(clips)) - np.repeat(starts, np.diff(np.r_[starts, len(clips)]))
    return np.sort(by_clip[rank < cap])


def _balanced(rows: Ints, keys: Ints | None, quota: int, generator: np.random.Generator) -> Ints:
    """`quota` of the rows, as many of each key; each as often as the others of its key, or once
    more."""
    if keys is None:
        return _drawn(rows, quota, generator)
    kinds = np.unique(keys[rows])
    quotas = _quotas(quota, np.ones(len(kinds)))
    return np.concatenate(
        [
            _drawn(rows[keys[rows] == kind], int(part), generator)
            for kind, part in zip(kinds, quotas, strict=True)
        ]
    )


def _drawn(rows: Ints, count: int, generator: np.random.Generator) -> Ints:
    if count == len(rows):
        return rows
    repeats, rest = divmod(count, len(rows))
    return np.concatenate([np.tile(rows, repeats), generator.permutation(rows)[:rest]])


def _quotas(total: int, shares: NDArray[np.float64]) -> Ints:
    """Whole numbers that add up to `total`, in proportion to shares."""
    exact = total * shares / shares.sum()
    whole = np.floor(exact).astype(np.int64)
    first = np.argsort(-(exact - whole), kind="stable")[: total - whole.sum()]
    whole[first] += 1
    return whole


def pieces_of(index: RowIndex, rows: Ints, seed: int) -> list[Piece]:
    """Rows as pieces, in an order that has nothing to do with the shards'.

    A row that is wanted several times is in as many pieces, which lie apart.
    """
    rows = np.sort(rows)
    starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
    repetition = np.arange(len(rows)) - np.repeat(starts, np.diff(np.r_[starts, len(rows)]))
    order = np.lexsort((rows, repetition))
    rows, repetition = rows[order], repetition[order]
    group = index.group[rows]
    new = (group[1:] != group[:-1]) | (repetition[1:] != repetition[:-1])
    pieces = [
        Piece(found.path, found.index, index.row[run], found.tag)
        for run in np.split(rows, np.flatnonzero(new) + 1)
        for found in [index.groups[index.group[run[0]]]]
    ]
    return [pieces[place] for place in np.random.default_rng(seed).permutation(len(pieces))]


def _numbered(words: pa.ChunkedArray) -> Ints:
    encoded = words.dictionary_encode().unify_dictionaries().combine_chunks()
    return np.asarray(encoded.indices.to_numpy(zero_copy_only=False), np.int64)
