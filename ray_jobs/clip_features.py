"""What is measured of the clips of shards, a Ray task a shard."""

from __future__ import annotations

import ray

from genconvit.data.audit.measure import Features, features_in_shard, joined, shards_of
from genconvit.data.shards import FrameDataset


def split_features(dataset: FrameDataset, split: str) -> dict[str, Features]:
    """The features of the clips of a split, by name.

    Args:
        dataset: The dataset.
        split: Its split; no other one is opened.

    Raises:
        ray.exceptions.RayError: A shard cannot be read.
    """
    task = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(features_in_shard)
    return joined(ray.get([task.remote(path) for path in shards_of(dataset, split)]))
