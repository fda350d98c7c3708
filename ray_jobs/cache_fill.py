"""Decodes the crops of a run into `ray_jobs.cache.Cache`, before it begins."""

from __future__ import annotations

from typing import Any

import ray

from genconvit.config import Settings
from genconvit.data.plan import Chunk, load_chunk, whole
from genconvit.data.shards import RowGroup
from genconvit.data.training_data import TrainingData
from ray_jobs.cache import Cache
from ray_jobs.estimate import human_bytes
from ray_jobs.output import Output

SHARE_OF_STORE = 0.6
"""The rest of the object store is for what else goes through it."""
COLUMNS = ("label", "video_id", "box")
AT_ONCE = 64


def fill_cache(data: TrainingData, settings: Settings, output: Output) -> Cache | None:
    """Decodes all crops once, on all nodes; None where they do not fit, and says which it is.

    Args:
        data: What is trained on.
        settings: `model.image_size` is the size of the decoded crops.
        output: Where to tell of it.
    """
    splits = [split for split, crops in data.counts.items() if any(crops.values())]
    groups = [g for split in splits for of in data.row_groups(split) for g in of]
    size = settings.model.image_size
    needed = sum(group.rows for group in groups) * size * size * 3
    store = ray.cluster_resources().get("object_store_memory", 0.0)
    if needed > SHARE_OF_STORE * store:
        output.warn(
            f"the decoded crops take {human_bytes(needed)} and Ray's object store has "
            f"{human_bytes(store)}, of which {SHARE_OF_STORE:.0%} may be used: they are decoded "
            "anew in every epoch."
        )
        return None
    task = ray.remote(num_cpus=1)(_decode)
    blocks = {(group.path, group.index): task.remote(group, size) for group in groups}
    waiting = list(blocks.values())
    with output.bar("decoding into the cache", total=len(waiting)) as bar:
        while waiting:
            some = min(len(waiting), AT_ONCE)
            ready, waiting = ray.wait(waiting, num_returns=some, fetch_local=False)
            for _ in ready:
                bar.advance()
    output.emit({"event": "cached", "bytes": needed, "object_store_bytes": int(store)})
    output.say(
        f"Keeping {human_bytes(needed)} of decoded crops in Ray's object store "
        f"({human_bytes(store)})."
    )
    return Cache(blocks)


def _decode(group: RowGroup, image_size: int) -> dict[str, Any]:
    return load_chunk(Chunk(tuple(whole([group]))), image_size, COLUMNS)
