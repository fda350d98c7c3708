"""What a report says of the data that were evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from genconvit.data.clip import Clip
from genconvit.data.shards import FrameDataset
from genconvit.evaluate.evaluated_data import OF_CLIPS, OF_SHARDS, EvaluatedData, clips_digest
from ray_jobs.extract_plan import file_stamps


def data_of_clips(location: str | Path, clips: Sequence[Clip]) -> EvaluatedData:
    """What a report says of clips that were evaluated.

    Args:
        location: The folder or list that they are of.
        clips: Labelled as they were evaluated.
    """
    sizes = (size for size, _ in file_stamps(list(clips)))
    known = [(clip.name, clip.label, size) for clip, size in zip(clips, sizes, strict=True)]
    return EvaluatedData(location=str(location), digest=clips_digest(known), digest_of=OF_CLIPS)


def data_of_shards(dataset: FrameDataset, split: str) -> EvaluatedData:
    """What a report says of shards that were evaluated."""
    return EvaluatedData(
        location=dataset.path, split=split, digest=dataset.digest, digest_of=OF_SHARDS
    )
