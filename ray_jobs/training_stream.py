"""The batches of a training worker. Apart from `ray_jobs.stream`, whose tasks need no torch."""

from __future__ import annotations

from functools import partial

from genconvit.config import Settings
from genconvit.data.match import Train, match_face_sizes
from genconvit.data.training_data import Epochs
from ray_jobs.cache import Cache
from ray_jobs.stream import stream


def training_stream(
    epochs: Epochs,
    settings: Settings,
    *,
    batch_size: int,
    num_cpus: float,
    rank: int,
    cache: Cache | None = None,
) -> Train:
    """The batches of a worker's training epochs.

    Args:
        epochs: Which crops they have.
        settings: `model.image_size`, and what `match_face_sizes` takes, matter.
        batch_size: As of `stream`.
        num_cpus: As of `stream`.
        rank: The worker's number.
        cache: As of `stream`.
    """
    matches = settings.augment.match_face_size
    read = partial(
        stream,
        image_size=settings.model.image_size,
        batch_size=batch_size,
        columns=("label", "box") if matches else ("label",),
        num_cpus=num_cpus,
        cache=cache,
    )
    return match_face_sizes(
        lambda epoch, skip: read(epochs.train(epoch, skip)), epochs.faces, settings, rank
    )
