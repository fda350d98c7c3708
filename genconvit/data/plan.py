"""Which rows of a dataset each worker reads, in which order: pure functions of seed and epoch.

An epoch is planned whole, before anything is read: `Piece`s (rows of one row group) are put into
an order, dealt to the workers, and bundled into `Chunk`s, each the work of one decoding task. The
same seed gives every run the same rows in the same order, however fast its tasks are.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genconvit.data.crops import decode_crop
from genconvit.data.shards import RowGroup
from genconvit.folder import open_parquet

CHUNK_ROWS = 256
"""About 38 MB decoded at 224 px."""


@dataclass(frozen=True)
class Piece:
    """Some rows of a row group."""

    path: str
    row_group: int
    rows: NDArray[np.int64]
    """Their places in the row group, in any order."""
    tag: str = ""
    """Goes before the names of clips."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Chunk:
    """Pieces that one task reads, and the order that their rows come out in."""

    pieces: tuple[Piece, ...]
    order: NDArray[np.int64] | None = None
    """A permutation of the pieces' rows laid end to end; None keeps them so."""
    skip: int = 0
    """Rows that would come out first and are left out."""

    def __len__(self) -> int:
        return sum(len(piece) for piece in self.pieces) - self.skip


def whole(groups: Iterable[RowGroup]) -> list[Piece]:
    """All rows of row groups."""
    return [Piece(group.path, group.index, np.arange(group.rows), group.tag) for group in groups]


def shuffled(pieces: Sequence[Piece], seed: int) -> list[Piece]:
    """The pieces in another order, across all shards."""
    order = list(pieces)
    random.Random(seed).shuffle(order)
    return order


def deal(pieces: Sequence[Piece], parts: int, *, equal: bool = False) -> list[list[Piece]]:
    """Deals rows to workers, in contiguous runs.

    Args:
        pieces: All rows.
        parts: How many workers.
        equal: Every worker gets the same number of rows, as DDP needs; at most `parts - 1` rows
            are left out. Without it every row goes to exactly one worker.
    """
    total = sum(len(piece) for piece in pieces)
    share = total // parts
    extra = 0 if equal else total % parts
    edges = [part * share + min(part, extra) for part in range(parts + 1)]
    return _cut(pieces, edges)


def chunks(
    pieces: Sequence[Piece], rows: int = CHUNK_ROWS, *, shuffle_seed: int | None = None
) -> list[Chunk]:
    """Bundles a worker's pieces into the work of tasks.

    Args:
        pieces: In order.
        rows: Rows a chunk; the last one may be smaller.
        shuffle_seed: Mixes the rows inside each chunk; None keeps their order.
    """
    total = sum(len(piece) for piece in pieces)
    bundles = _cut(pieces, [*range(0, total, rows), total]) if total else []
    generator = np.random.default_rng(shuffle_seed)
    return [
        Chunk(
            tuple(bundle),
            None
            if shuffle_seed is None
            else generator.permutation(sum(len(piece) for piece in bundle)),
        )
        for bundle in bundles
    ]


def without_first(planned: Sequence[Chunk], rows: int) -> list[Chunk]:
    """Chunks without the rows that would come out first; whole chunks are not even read."""
    left = list(planned)
    while left and rows >= len(left[0]):
        rows -= len(left.pop(0))
    if rows and left:
        left[0] = replace(left[0], skip=left[0].skip + rows)
    return left


def chunk_rows(batch_size: int) -> int:
    """Rows a chunk for a batch size: a multiple, so that no batch is put together of two chunks."""
    return batch_size * max(1, round(CHUNK_ROWS / batch_size))


def load_chunk(
    chunk: Chunk, image_size: int, columns: Iterable[str] = ("label",)
) -> dict[str, Any]:
    """Reads and decodes a chunk.

    Returns:
        `image`: uint8 (rows, image_size, image_size, 3), RGB; and each of `columns` as an array.
    """
    wanted = ["image", *columns]
    tables = []
    for piece in chunk.pieces:
        with open_parquet(piece.path) as file:
            table = file.read_row_group(piece.row_group, columns=wanted)
        table = table.take(pa.array(piece.rows))
        if piece.tag and "video_id" in wanted:
            tagged = [piece.tag + name for name in table["video_id"].to_pylist()]
            place = table.column_names.index("video_id")
            table = table.set_column(place, "video_id", pa.array(tagged, pa.string()))
        tables.append(table)
    table = pa.concat_tables(tables)
    if chunk.order is not None:
        table = table.take(pa.array(chunk.order))
    table = table.slice(chunk.skip)
    images = np.empty((len(table), image_size, image_size, 3), np.uint8)
    for place, jpeg in enumerate(table["image"]):
        images[place] = decode_crop(jpeg.as_buffer(), image_size)
    batch: dict[str, Any] = {"image": images}
    for name in columns:
        column = table[name]
        boxes = pa.types.is_fixed_size_list(column.type)
        batch[name] = np.array(column.to_pylist()) if boxes else column.to_numpy()
    return batch


def _cut(pieces: Sequence[Piece], edges: Sequence[int]) -> list[list[Piece]]:
    """Cuts the rows of pieces, laid end to end, at ascending places."""
    parts: list[list[Piece]] = [[] for _ in itertools.pairwise(edges)]
    if not parts:
        return parts
    part, position = 0, 0
    for piece in pieces:
        start = 0
        while start < len(piece) and part < len(parts):
            stop = min(len(piece), edges[part + 1] - position)
            if stop > start:
                parts[part].append(replace(piece, rows=piece.rows[start:stop]))
            if position + stop < edges[part + 1]:
                break
            start = stop
            part += 1
        position += len(piece)
    return parts
