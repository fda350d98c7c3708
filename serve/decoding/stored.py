"""Crops that stay in Ray's object store while their place is passed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import ray
from ray.exceptions import ObjectLostError

MESSAGE_BYTES = 1_000_000
"""Less travels with a call itself."""


class LostError(Exception):
    """The process that made them is gone, and they with it."""


@dataclass(frozen=True)
class Stored:
    """Crops in the store: who only passes them on, as the ingress does, need not read them.

    Attributes:
        ref: Of all crops that were stored together.
        start, stop: Which of them.
        side: Their side S, pixels.
    """

    ref: ray.ObjectRef
    start: int
    stop: int
    side: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def nbytes(self) -> int:
        """Of the crops."""
        return len(self) * self.side**2 * 3


Images = np.ndarray | Stored
"""uint8 RGB (N, S, S, 3)."""


def stored(images: Images) -> Images:
    """Many crops by their place, few as they are; outside of Ray all as they are."""
    if isinstance(images, Stored) or images.nbytes <= MESSAGE_BYTES or not ray.is_initialized():
        return images
    return Stored(ray.put(images), 0, len(images), images.shape[1])


def part_of(images: Images, start: int, stop: int) -> Images:
    """The crops from `start` to before `stop`, or to the last one."""
    if not isinstance(images, Stored):
        return images[start:stop]
    first = images.start + start
    return replace(images, start=first, stop=min(images.start + stop, images.stop))


def side_of(images: Images) -> int:
    """Their side, pixels."""
    return images.side if isinstance(images, Stored) else int(images.shape[1])


def load(images: Images) -> np.ndarray:
    """The crops themselves. Blocks, so not for an event loop.

    Raises:
        LostError: They are gone.
    """
    if not isinstance(images, Stored):
        return images
    try:
        return np.asarray(ray.get(images.ref)[images.start : images.stop])
    except ObjectLostError as error:
        raise LostError from error


def load_some(images: Sequence[Images], places: Sequence[int]) -> np.ndarray:
    """Single crops of several parts, by their place in all of them; as `load`."""
    ends = np.cumsum([len(part) for part in images])
    found = []
    for place in places:
        part = int(np.searchsorted(ends, place, side="right"))
        first = place - int(ends[part]) + len(images[part])
        found.append(load(part_of(images[part], first, first + 1)))
    return np.concatenate(found)
