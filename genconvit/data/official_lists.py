"""What the files that come with a dataset say: official splits, and labels."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from genconvit.data.clip import LABELS, SPLITS, Split
from genconvit.data.layout_rules import Entry, Reading
from genconvit.data.tree import Tree
from genconvit.errors import UserError

_MANIPULATED = re.compile(r"(.*/)(?:\d{3}_\d{3})(\.\w+)?")
_ORIGINAL = re.compile(r"(.*/)(?:\d{3})(\.\w+)?")


def faceforensics(tree: Tree, base: str, reading: Reading) -> Reading:
    """The splits of train.json, val.json and test.json: lists of pairs of video ids."""
    splits: dict[str, Split] = {}
    pairs: list[tuple[str, str]] = []
    for split in ("train", "val", "test"):
        for folder in ("", "splits/", "dataset/splits/"):
            place = f"{base}/{folder}{split}.json".lstrip("/")
            text = tree.read(place)
            if text is not None:
                found = _pairs(text, place)
                pairs += found
                splits |= {video: SPLITS[split] for pair in found for video in pair}
                break
    if any(re.fullmatch(r"\d{3}", entry.keys[0]) for entry in reading.entries) and not pairs:
        reading.notes.append(
            "FaceForensics++: there is no train.json, val.json or test.json with the official "
            "splits, so groups are divided at random."
        )
    reading.links += pairs
    reading.entries = [replace(entry, split=splits.get(entry.keys[0])) for entry in reading.entries]
    reading.missing += _absent(reading.entries, pairs)
    return reading


def _pairs(text: str, place: str) -> list[tuple[str, str]]:
    pairs = _parsed(text, place)
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(i, str) for i in pair)
        for pair in pairs
    ):
        raise UserError(
            f"{place} is not a list of pairs of video ids; get the official split file again"
        )
    return [(a, b) for a, b in pairs]


def _absent(entries: list[Entry], pairs: list[tuple[str, str]]) -> list[str]:
    """Videos of the official lists that lack in a folder which has others of them."""
    names = {entry.name for entry in entries}
    expected: set[str] = set()
    for pattern, videos in (
        (_MANIPULATED, [f"{a}_{b}" for pair in pairs for a, b in (pair, pair[::-1])]),
        (_ORIGINAL, [video for pair in pairs for video in pair]),
    ):
        found = (pattern.fullmatch("/" + entry.name) for entry in entries)
        for folder, suffix in {(match[1], match[2] or "") for match in found if match}:
            expected |= {f"{folder}{video}{suffix}"[1:] for video in videos}
    return sorted(expected - names)


def celeb_df(tree: Tree, base: str, reading: Reading) -> Reading:
    """The test videos that List_of_testing_videos.txt names; others are for training.

    Those that share a film with the list, without being in it, are left out: they are no test
    videos, and a network that has seen them has seen the test's films.
    """
    place = f"{base}/List_of_testing_videos.txt".lstrip("/")
    text = tree.read(place)
    if text is None:
        reading.notes.append(
            "Celeb-DF: there is no List_of_testing_videos.txt with the official test videos, so "
            "groups are divided at random."
        )
        return reading
    tests: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        label, _, video = line.strip().partition(" ")
        if not line.strip():
            continue
        if label not in ("0", "1") or "/" not in video:
            raise UserError(
                f"line {number} of {place} is not 0 or 1 and a video; get the official list again"
            )
        tests[_folder_and_stem(video)] = video.strip()
    keys = [_folder_and_stem(tree.inside + entry.name) for entry in reading.entries]
    films = {_film(key) for key in tests}
    entries: list[Entry] = []
    left_out: set[str] = set()
    for key, entry in zip(keys, reading.entries, strict=True):
        if key in tests:
            entries.append(replace(entry, split="test"))
        elif _film(key) in films:
            left_out.add(entry.name)
        else:
            entries.append(replace(entry, split="train"))
    reading.entries = entries
    reading.left_out |= left_out
    if left_out:
        reading.notes.append(
            f"Celeb-DF: {len(left_out)} clips are left out: they share a film with the official "
            f"test list, such as {min(left_out)}."
        )
    for key in tests.keys() - set(keys):
        _note_absent(tree, base, tests[key], reading)
    return reading


def _folder_and_stem(video: str) -> str:
    """Celeb-real/id0_0000 for that video and for copies of it in Celeb-real/videos."""
    parts = [part for part in video.strip().lower().split("/") if part not in ("videos", "frames")]
    return "/".join([*parts[-2:-1], parts[-1].partition(".")[0]])


def _film(key: str) -> str:
    """The target's film, which is what groups are made of, of a key of `_folder_and_stem`."""
    return re.sub(r"^(id\d+)_id\d+_", r"\1_", key.rpartition("/")[2])


def dfdc(tree: Tree, base: str, reading: Reading) -> Reading:
    """The labels and originals of metadata.json, for the videos beside it."""
    listed = _listed(tree, f"{base}/metadata.json".lstrip("/"), "label")
    names = _names(tree, base)
    for video, about in listed.items():
        original = about.get("original") or video
        name = names.get(video)
        if name is None:
            _note_absent(tree, base, video, reading)
        else:
            reading.entries.append(
                Entry(
                    name,
                    LABELS[about["label"].lower()],
                    (str(original).rpartition(".")[0] or str(original),),
                    source="dfdc",
                    split=SPLITS.get(str(about.get("split")).lower()),
                )
            )
    return reading


def dfdc_preview(tree: Tree, base: str, reading: Reading) -> Reading:
    """The labels, people and split of dataset.json."""
    listed = _listed(tree, f"{base}/dataset.json".lstrip("/"), "target_id")
    names = _names(tree, base)
    for video, about in listed.items():
        name = names.get(video)
        if name is None:
            _note_absent(tree, base, video, reading)
        else:
            label = LABELS[about["label"].lower()]
            reading.entries.append(
                Entry(
                    name,
                    label,
                    (f"actor_{about['target_id']}",),
                    method=video.partition("/")[0] if label == "fake" else "",
                    source="dfdc_preview",
                    split=SPLITS.get(str(about.get("set")).lower()),
                )
            )
    return reading


def _listed(tree: Tree, place: str, key: str) -> dict[str, dict[str, Any]]:
    """Videos and what is said of them; none where the file is another of that name."""
    text = tree.read(place) or ""
    if f'"{key}"' not in text:
        return {}
    listed = _parsed(text, place)
    if not isinstance(listed, dict):
        return {}
    if not all(isinstance(about, dict) and key in about for about in listed.values()):
        return {}
    wrong = [v for v, about in listed.items() if str(about.get("label")).lower() not in LABELS]
    if len(wrong) == len(listed):
        return {}
    if wrong:
        raise UserError(f"{place} gives {wrong[0]} no label FAKE or REAL; get it again")
    return listed


def _names(tree: Tree, base: str) -> dict[str, str]:
    """Names of clips by their paths from a place."""
    return {below: name for name, below in tree.below(base)}


def _note_absent(tree: Tree, base: str, video: str, reading: Reading) -> None:
    name = tree.named(base, video)
    if name is not None:
        reading.missing.append(name)


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{place} is not JSON ({error}); get it again") from error
