"""Dividing clips into train, val and test by group, never by frame or clip."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from genconvit.config import SplitSettings
from genconvit.data.catalog import Clip, Split
from genconvit.data.video import evenly_spaced


def assign_splits(clips: list[Clip], split: SplitSettings) -> list[Clip]:
    """Give every clip a split.

    Groups are divided as wholes; those with real, with fake and with both kinds of clips each in
    proportion. The result depends on `split.seed` and the groups, not on the order of the clips. A
    share above 0 gets a group of each class that has two or more, even where that is more than its
    share.

    A split that is given stays, and a clip without one joins its group's. The one exception: where
    this leaves nothing to validate on, `val_fraction` of the training groups become validation.

    Args:
        clips: Clips of one dataset.
        split: The shares.

    Returns:
        The clips in their order, all with a split.
    """
    kinds = {
        group: tuple(sorted({c.label for c in members if c.label is not None}))
        for group, members in _by_group(clips).items()
    }
    given: dict[str, Split] = {}
    order: tuple[Split, ...] = ("test", "val", "train")  # of a group that leaks, train counts
    for word in order:
        given |= {clip.group: word for clip in clips if clip.split == word}

    free = {group: kinds[group] for group in kinds if group not in given}
    test = _draw(free, split.test_fraction, split.seed)
    rest = {group: kind for group, kind in free.items() if group not in test}
    val = _draw(rest, split.val_fraction / (1.0 - split.test_fraction), split.seed)
    splits: dict[str, Split] = dict.fromkeys(rest, "train")
    splits.update(dict.fromkeys(test, "test"))
    splits.update(dict.fromkeys(val, "val"))
    splits.update(given)
    divided = [replace(clip, split=clip.split or splits[clip.group]) for clip in clips]

    if all(clip.split != "val" for clip in divided):
        train = {group: kinds[group] for group in kinds if splits[group] == "train"}
        val = _draw(train, split.val_fraction, split.seed)
        divided = [
            replace(clip, split="val") if clip.split == "train" and clip.group in val else clip
            for clip in divided
        ]
    return divided


def leaking_groups(clips: list[Clip]) -> list[str]:
    """Groups with clips in more than one split, sorted: trained on and judged by."""
    return sorted(
        group
        for group, members in _by_group(clips).items()
        if len({clip.split for clip in members if clip.split is not None}) > 1
    )


def _by_group(clips: list[Clip]) -> dict[str, list[Clip]]:
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.group, []).append(clip)
    return groups


def _draw(kinds: Mapping[str, tuple[str, ...]], fraction: float, seed: int) -> set[str]:
    """Choose a share of the groups, in proportion from each kind, and leave at least one."""
    if fraction == 0.0 or len(kinds) < 2:
        return set()

    def order(group: str) -> tuple[tuple[str, ...], str]:
        return kinds[group], hashlib.sha256(f"{seed}/{group}".encode()).hexdigest()

    ordered = sorted(kinds, key=order)  # by kind, shuffled within: even steps take from each
    count = min(max(1, round(fraction * len(ordered))), len(ordered) - 1)
    drawn = {ordered[index] for index in evenly_spaced(len(ordered), count)}
    for label in ("fake", "real"):
        holders = [group for group in ordered if label in kinds[group]]
        if len(holders) >= 2 and drawn.isdisjoint(holders):
            drawn.add(holders[0])
    return drawn
