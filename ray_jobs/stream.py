"""Shards to batches: tasks on any node read and decode, while the worker trains."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import ray
import ray.data

from genconvit.data.ahead import ahead
from genconvit.data.plan import Chunk, load_chunk
from ray_jobs.cache import Cache

Batch = dict[str, np.ndarray]
PREFETCH = 2
"""Batches that are ready before they are asked for."""


def stream(
    chunks: Sequence[Chunk],
    *,
    image_size: int,
    batch_size: int,
    columns: Sequence[str] = ("label",),
    num_cpus: float = 1.0,
    cache: Cache | None = None,
) -> Iterator[Batch]:
    """Decoded crops, in the same order for the same arguments, from a cache or without.

    Args:
        chunks: The rows, in order, from `genconvit.data.plan`.
        image_size: Side of the decoded crops.
        batch_size: Rows a batch; the last one may be smaller.
        columns: What comes along with `image`.
        num_cpus: CPUs a decoding task asks for.
        cache: Decoded row groups. Rows of others are decoded.

    Yields:
        `image`: uint8 (B, image_size, image_size, 3), and each of `columns`.
    """
    if not chunks:
        return
    if cache is not None:
        yield from ahead(_rebatched(map(cache.load, chunks), batch_size), PREFETCH)
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    # Blocks come as their tasks make them: none is cut or put together with others.
    context.target_max_block_size = None
    items = [{"chunk": pickle.dumps(chunk)} for chunk in chunks]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        load_rows,
        batch_size=1,
        fn_kwargs={"image_size": image_size, "columns": tuple(columns)},
        num_cpus=num_cpus,
    )
    yield from dataset.iter_batches(
        batch_size=batch_size, batch_format="numpy", prefetch_batches=PREFETCH
    )


def start_workers() -> None:
    """Has Ray start processes that decode, so that they are ready when the first batch is due."""
    task = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(_nothing)
    for _ in range(int(ray.available_resources().get("CPU", 0))):
        task.remote()


def _nothing() -> None:
    """Finding this function imports what decoding needs."""


def load_rows(batch: dict[str, Any], image_size: int, columns: tuple[str, ...]) -> dict[str, Any]:
    """Runs in a Ray task: reads and decodes one pickled `Chunk`."""
    return load_chunk(pickle.loads(batch["chunk"][0]), image_size, columns)


def _rebatched(loaded: Iterator[Batch], batch_size: int) -> Iterator[Batch]:
    """Batches of one size; the last one may be smaller."""
    left: Batch = {}
    for rows in loaded:
        if left:
            rows = {name: np.concatenate([left[name], rows[name]]) for name in rows}
        count = len(rows["image"])
        whole = count - count % batch_size
        for start in range(0, whole, batch_size):
            yield {name: column[start : start + batch_size] for name, column in rows.items()}
        left = {name: column[whole:] for name, column in rows.items()} if whole < count else {}
    if left:
        yield left
