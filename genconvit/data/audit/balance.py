"""How many clips and crops there are of what, and what is lopsided."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from pydantic import BaseModel

from genconvit.config import CLASSES
from genconvit.data.audit.scan import ScannedClip
from genconvit.data.clip_table import ClipRecord
from genconvit.data.leakage import counted, some
from genconvit.data.shards import SPLITS

RARE = 0.1
"""A class with a smaller share of a split's clips is worth a warning."""
FEW = 4
"""Clips with fewer crops are counted apart."""


class Count(BaseModel):
    """A part of the dataset."""

    kind: str
    """`split`, `method` or `source`."""
    name: str
    label: str
    clips: int
    groups: int
    crops: int
    splits: dict[str, int]
    """Clips in each split."""


class Faces(BaseModel):
    """Crops and tracks a clip."""

    crops: dict[str, float]
    """Minimum, median and maximum over clips with crops."""
    crops_histogram: dict[int, int]
    """Crops of a clip to clips."""
    tracks_histogram: dict[int, int]
    """Tracks of a clip to clips."""
    few: list[str]
    """Clips with fewer than `FEW` crops."""
    without: list[str]
    """Clips without any."""
    failures: dict[str, int]
    """Why, with the number of clips."""


def balance(clips: Sequence[ScannedClip]) -> list[Count]:
    """Clips, groups and crops by split, method and source, each by label."""
    kinds: dict[str, Callable[[ScannedClip], str]] = {
        "split": lambda clip: clip.split,
        "method": lambda clip: clip.method,
        "source": lambda clip: clip.source,
    }
    counts = []
    for kind, key in kinds.items():
        parts: dict[tuple[str, str], list[ScannedClip]] = defaultdict(list)
        for clip in clips:
            if clip.label in (0, 1):
                parts[key(clip) or "not given", CLASSES[clip.label]].append(clip)
        order = sorted(parts, key=lambda part: (_place(part[0]), part))
        counts += [
            Count(
                kind=kind,
                name=name,
                label=label,
                clips=len(own),
                groups=len({clip.group for clip in own}),
                crops=sum(clip.crops for clip in own),
                splits=dict(Counter(clip.split for clip in own)),
            )
            for name, label in order
            for own in [parts[name, label]]
        ]
    return counts


def balance_warnings(counts: Sequence[Count]) -> list[str]:
    """What is lopsided, a sentence each."""
    warnings = []
    by_split = _by_name(counts, "split")
    for split, labels in by_split.items():
        total = sum(count.clips for count in labels.values())
        if len(labels) == 1:
            warnings.append(f"The {split} split has {next(iter(labels))} clips alone.")
            continue
        for label, count in labels.items():
            if count.clips < RARE * total:
                share = f"{count.clips / total:.1%}"
                warnings.append(f"Only {share} of the clips in {split} are {label}.")
    if len(by_split) > 1:
        lone: dict[str, list[str]] = defaultdict(list)
        for method, labels in _by_name(counts, "method").items():
            splits = {split for count in labels.values() for split in count.splits}
            if len(splits) == 1:
                lone[splits.pop()].append(method)
        for split, methods in sorted(lone.items()):
            them = counted(len(methods), "method is", "methods are")
            warnings.append(f"{them} in the {split} split alone: {some(methods)}.")
    sources = _by_name(counts, "source")
    one_sided = [f"{name} ({next(iter(of))})" for name, of in sources.items() if len(of) == 1]
    if one_sided and len(sources) > 1:
        them = counted(len(one_sided), "source has", "sources have")
        warnings.append(
            f"{them} clips of one label alone, so what marks the source tells the label: "
            f"{some(one_sided)}."
        )
    return warnings


def faces(clips: Sequence[ScannedClip], records: Sequence[ClipRecord]) -> Faces:
    """How many crops and tracks clips gave."""
    crops = [clip.crops for clip in clips]
    without = [record for record in records if not record.crops]
    failures = Counter(record.failure_kind or "not given" for record in without)
    return Faces(
        crops={
            "minimum": min(crops, default=0),
            "median": float(np.median(crops)) if crops else 0.0,
            "maximum": max(crops, default=0),
        },
        crops_histogram=dict(sorted(Counter(crops).items())),
        tracks_histogram=dict(sorted(Counter(clip.tracks for clip in clips).items())),
        few=sorted(clip.name for clip in clips if clip.crops < FEW),
        without=sorted(record.name for record in without),
        failures=dict(failures.most_common()),
    )


def _by_name(counts: Sequence[Count], kind: str) -> dict[str, dict[str, Count]]:
    names: dict[str, dict[str, Count]] = defaultdict(dict)
    for count in counts:
        if count.kind == kind:
            names[count.name][count.label] = count
    return names


def _place(name: str) -> int:
    return SPLITS.index(name) if name in SPLITS else len(SPLITS)
