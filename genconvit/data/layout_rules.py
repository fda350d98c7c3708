"""What a dataset layout is, and how its rules make clips of names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

from genconvit.data.clip import (
    IMAGE_SUFFIXES,
    LABELS,
    SPLITS,
    VIDEO_SUFFIXES,
    Label,
    Split,
    suffix_of,
)
from genconvit.data.tree import Tree


@dataclass(frozen=True)
class Rule:
    """How one kind of clip is named. Words may hold `{name}`: what the pattern's group found."""

    pattern: str
    """Of the whole path below the dataset: of a video without its suffix, or of a folder that
    holds frames. Upper and lower case are the same."""
    label: str
    keys: tuple[str, ...]
    """The people or films in it. Clips with a key in common are one group, and so are those that
    a chain of such clips joins."""
    method: str = ""
    source: str = ""
    split: str = ""
    stills: bool = False
    """It is a single image that the pattern names."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A clip as its layout tells of it, before groups are made of keys."""

    name: str
    label: Label
    keys: tuple[str, ...]
    method: str = ""
    source: str = ""
    split: Split | None = None
    is_folder: bool = False


@dataclass
class Reading:
    """What a layout tells of a tree."""

    entries: list[Entry]
    links: list[tuple[str, ...]] = field(default_factory=list)
    """Keys that are one group besides."""
    missing: list[str] = field(default_factory=list)
    """Files that its lists name, and are not there."""
    notes: list[str] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)
    """Clips that are in it twice, or fit no split."""


@dataclass(frozen=True)
class Layout:
    """How the files of a dataset are named and what that says."""

    name: str
    marker: str
    """Recognises a folder (ending in a slash) or list of it. The dataset begins where it matches,
    so what it finds is best left to a look-ahead."""
    rules: tuple[Rule, ...] = ()
    lists: Callable[[Tree, str, Reading], Reading] | None = None
    """Adds what the layout's own files say. It is given the tree, where the dataset begins, and
    what the rules say."""
    notes: tuple[str, ...] = ()


def bases_of(layout: Layout, tree: Tree, places: list[str]) -> list[str]:
    """Where datasets of a layout begin in a tree: none within a plain `real` or `fake` folder."""
    search = re.compile(f"(?:^|/){layout.marker}", re.IGNORECASE).search
    bases = {place[: match.start()] for place in places if (match := search(place))}
    return sorted(
        base
        for base in bases
        if not any(part.lower() in LABELS for part in base[len(tree.inside) :].split("/"))
    )


def read_layout(layout: Layout, tree: Tree, base: str) -> Reading:
    """The clips of a dataset that begins at a place.

    Raises:
        UserError: One of its lists is malformed.
    """
    reading = Reading(_apply(layout.rules, tree, base), notes=list(layout.notes))
    folders = [entry for entry in reading.entries if entry.is_folder]
    videos = {_what(entry) for entry in reading.entries if not entry.is_folder} if folders else ()
    twice = [entry for entry in folders if _what(entry) in videos]
    if twice:
        reading.left_out = {entry.name for entry in twice}
        reading.entries = [e for e in reading.entries if e.name not in reading.left_out]
        reading.notes.append(
            f"{len(twice)} folders of frames, such as {twice[0].name}, are left out, because their "
            "videos are there."
        )
    return layout.lists(tree, base, reading) if layout.lists else reading


def groups_of(readings: Iterable[Reading]) -> dict[str, str]:
    """The group of every key: the first, in order, of all keys that clips or lists join to it."""
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        parents.setdefault(key, key)
        while parents[key] != key:
            parents[key] = parents[parents[key]]  # halves the way for the next who comes
            key = parents[key]
        return key

    for reading in readings:
        for keys in [*(entry.keys for entry in reading.entries), *reading.links]:
            first = root(keys[0])
            for other in map(root, keys[1:]):
                first, later = min(first, other), max(first, other)
                parents[later] = first
    return {key: root(key) for key in list(parents)}


def _what(entry: Entry) -> tuple[object, ...]:
    """The same for a video and the folder of its frames."""
    stem = entry.name.rpartition("/")[2]
    if not entry.is_folder:
        stem = stem.rpartition(".")[0]
    return stem.lower(), entry.label, entry.keys, entry.method, entry.source


def _apply(rules: tuple[Rule, ...], tree: Tree, base: str) -> list[Entry]:
    if not rules:
        return []
    compiled = [(re.compile(rule.pattern, re.IGNORECASE), rule) for rule in rules]
    moving = [pair for pair in compiled if not pair[1].stills]
    stills = [pair for pair in compiled if pair[1].stills]
    entries: list[Entry | None] = []
    known: dict[str, bool] = {}  # folders of images, and whether they are clips
    for name, below in tree.below(base):
        suffix = suffix_of(below)
        stem = below[: len(below) - len(suffix)]
        if suffix in VIDEO_SUFFIXES:
            entries.append(_first(moving, name, stem))
        elif suffix in IMAGE_SUFFIXES:
            folder = name.rpartition("/")[0]
            if folder not in known:
                entry = _first(moving, folder, below.rpartition("/")[0], is_folder=True)
                known[folder] = entry is not None
                entries.append(entry)
            if not known[folder] and stills:
                entries.append(_first(stills, name, stem))
    return [entry for entry in entries if entry is not None]


def _first(
    rules: list[tuple[re.Pattern[str], Rule]],
    name: str,
    path: str,
    is_folder: bool = False,
) -> Entry | None:
    """What the first rule that fits says of a clip."""
    for pattern, rule in rules:
        match = pattern.fullmatch(path)
        if match:
            found = match.groupdict()
            label = rule.label.format_map(found).lower()
            split = rule.split.format_map(found).lower()
            return Entry(
                name,
                cast(Label, label),
                tuple(key.format_map(found) for key in rule.keys),
                rule.method.format_map(found),
                rule.source.format_map(found).lower(),
                SPLITS.get(split),
                is_folder,
            )
    return None
