"""Folds of a cross-validation: whole groups, with as much of each source, method and class in each.

Groups are dealt one after another, the largest first, each to the fold in which it adds least to
the squares of what the folds have: of clips in all, and of those of each class, source and method.
scikit-learn's StratifiedGroupKFold deals alike, by one label instead of several.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from genconvit.data.clip_table import ClipRecord
from genconvit.errors import UserError
from genconvit.wording import plural


def assign_folds(clips: Sequence[ClipRecord], folds: int, seed: int = 0) -> dict[str, int]:
    """Deals clips to folds by group.

    Args:
        clips: The clips. One without a group is a group of its own.
        folds: How many, 2 at least.
        seed: Decides between groups that are alike; the order of the clips decides nothing.

    Returns:
        The fold of each clip, from 0, by the clip's name.

    Raises:
        UserError: There are fewer groups than folds.
    """
    groups: dict[str, list[ClipRecord]] = {}
    for clip in clips:
        groups.setdefault(group_of(clip), []).append(clip)
    if len(groups) < folds:
        raise UserError(
            f"{folds} folds need as many groups, and the train split has {len(groups)}; give "
            "fewer --folds, or --folds 0 with --validate."
        )

    def order(group: str) -> tuple[int, str]:
        return -len(groups[group]), hashlib.sha256(f"{seed}/{group}".encode()).hexdigest()

    strata = sorted({stratum for clip in clips for stratum in _strata(clip)})
    column = {stratum: number for number, stratum in enumerate(strata)}
    total_K = np.zeros(len(strata))
    for clip in clips:
        total_K[[column[stratum] for stratum in _strata(clip)]] += 1
    held_FK = np.zeros((folds, len(strata)))
    dealt: dict[str, int] = {}
    for group in sorted(groups, key=order):
        own_K = np.zeros(len(strata))
        for clip in groups[group]:
            own_K[[column[stratum] for stratum in _strata(clip)]] += 1
        added_FK = ((held_FK + own_K) ** 2 - held_FK**2) / total_K**2
        fold = int(np.argmin(added_FK.sum(axis=1).round(12)))  # of equal ones the first
        held_FK[fold] += own_K
        dealt |= {clip.name: fold for clip in groups[group]}
    return dealt


def group_of(clip: ClipRecord) -> str:
    """The group of a clip; a name of its own where it has none."""
    return f"group {clip.group}" if clip.group else f"clip {clip.name}"


def refuse_one_sided(clips: Sequence[ClipRecord], folds: dict[str, int], blended: bool) -> None:
    """Whether the rest of the clips has both classes, whichever fold is held out.

    Args:
        clips: The clips.
        folds: Of `assign_folds`.
        blended: Fakes are made of real crops, so that real clips are enough.

    Raises:
        UserError: It has not.
    """
    for fold in sorted(set(folds.values())):
        labels = {clip.label for clip in clips if folds[clip.name] != fold}
        for label in ("fake", "real"):
            if label not in labels and not (blended and label == "fake"):
                raise UserError(
                    f"without fold {fold + 1} of {plural(max(folds.values()) + 1, 'fold')} the "
                    f"train split has no {label} clips to train on; give other --folds."
                )


def _strata(clip: ClipRecord) -> Iterator[tuple[str, str, str]]:
    """What each fold is to have its share of, that this clip is one of."""
    yield "clips", "", ""
    yield "class", "", clip.label
    yield "source", clip.source, clip.label
    yield "method", clip.method, clip.label
