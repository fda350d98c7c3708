"""Shards to batches: Ray Data reads and decodes, in tasks on any node, while the worker trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import ray.data

from genconvit.data.shards import ROWS_PER_GROUP, Slice, load_slice

SHUFFLE_BUFFER = 8 * ROWS_PER_GROUP


def stream(
    slices: Sequence[Slice],
    *,
    image_size: int,
    batch_size: int,
    columns: Sequence[str] = ("label",),
    shuffle_seed: int | None = None,
    num_cpus: float = 1.0,
) -> Iterator[dict[str, np.ndarray]]:
    """Decoded crops, in the same order for the same arguments.

    Args:
        slices: The rows, from `plan_slices`.
        image_size: Side of the decoded crops.
        batch_size: Rows a batch; the last one may be smaller.
        columns: What comes along with `image`.
        shuffle_seed: Mixes rows of neighbouring row groups; None keeps the order.
        num_cpus: CPUs a decoding task asks for.

    Yields:
        `image`: uint8 (B, image_size, image_size, 3), and each of `columns`.
    """
    if not slices:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    items = [{"slice": vars(rows)} for rows in slices]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _load,
        batch_size=1,
        fn_kwargs={"image_size": image_size, "columns": tuple(columns)},
        num_cpus=num_cpus,
    )
    shuffle: dict[str, Any] = {}
    if shuffle_seed is not None:
        shuffle = {
            "local_shuffle_buffer_size": SHUFFLE_BUFFER,
            "local_shuffle_seed": shuffle_seed,
        }
    yield from dataset.iter_batches(
        batch_size=batch_size, batch_format="numpy", prefetch_batches=2, **shuffle
    )


def _load(batch: dict[str, Any], image_size: int, columns: tuple[str, ...]) -> dict[str, Any]:
    return load_slice(Slice(**batch["slice"][0]), image_size, columns)
