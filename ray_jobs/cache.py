"""Decoded crops in Ray's object store: decoded once, read in every epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import ray

if TYPE_CHECKING:
    from genconvit.data.plan import Chunk


class Cache:
    """Decoded row groups in Ray's object store, shared by all workers.

    Args:
        blocks: The rows of each row group, by path and index.
    """

    def __init__(self, blocks: Mapping[tuple[str, int], ray.ObjectRef]) -> None:
        self.blocks = dict(blocks)

    def load(self, chunk: Chunk) -> dict[str, np.ndarray]:
        """The rows of a chunk, as `load_chunk` gives them."""
        found = ray.get([self.blocks[piece.path, piece.row_group] for piece in chunk.pieces])
        count = len(chunk) + chunk.skip
        order = np.arange(count) if chunk.order is None else chunk.order
        # The order of `load_chunk`: row i of the batch is row order[i] of the pieces.
        place = np.empty(count, np.int64)
        place[order] = np.arange(count)
        batch = {
            name: np.empty((count, *column.shape[1:]), column.dtype)
            for name, column in found[0].items()
        }
        start = 0
        for piece, block in zip(chunk.pieces, found, strict=True):
            target = place[start : start + len(piece)]
            for name, column in block.items():
                rows = column[piece.rows]
                if piece.tag and name == "video_id":
                    rows = np.array([piece.tag + clip for clip in rows], object)
                batch[name][target] = rows
            start += len(piece)
        return {name: column[chunk.skip :] for name, column in batch.items()}
