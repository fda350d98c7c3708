"""Choosing some clips of many."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, zip_longest

from genconvit.data.clip import Clip


def balanced_clips(clips: Sequence[Clip], count: int, seed: int = 0) -> list[Clip]:
    """Some labelled clips: half of them fake, and the fakes of as many methods as can be.

    Where one class has too few, the other has more.

    Args:
        clips: All of them; those without a label are not chosen.
        count: How many.
        seed: Decides which.

    Returns:
        At most `count` clips, in the order that they had.
    """
    rng = random.Random(seed)
    fake, real = (
        _methods_in_turn([clip for clip in clips if clip.label == label], rng)
        for label in ("fake", "real")
    )
    reals = min(len(real), max(count // 2, count - len(fake)))
    chosen = {clip.name for clip in [*real[:reals], *fake[: count - reals]]}
    return [clip for clip in clips if clip.name in chosen]


def _methods_in_turn(clips: Sequence[Clip], rng: random.Random) -> list[Clip]:
    """The clips in such an order that any first ones are of all methods alike."""
    piles: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        piles[clip.method].append(clip)
    for _, pile in sorted(piles.items()):
        rng.shuffle(pile)
    rows = zip_longest(*(pile for _, pile in sorted(piles.items())))
    return [clip for clip in chain.from_iterable(rows) if clip is not None]
