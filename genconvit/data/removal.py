"""Removing the data of a person, a group, from every version of a dataset.

A kill at any moment leaves datasets that open, and the same call again finishes the work: the
removal is noted first, a version's new shards are written beside the old ones, its manifest then
names the new ones alone, and what no manifest names is deleted last.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from genconvit.data.shards import (
    CURRENT,
    MANIFEST,
    SPLITS,
    FrameDataset,
    Shard,
    open_dataset,
    write_manifest,
    write_shard,
)
from genconvit.errors import UserError
from genconvit.folder import Folder, open_parquet
from genconvit.storage import is_url

REMOVALS = "removals.json"
WORK = ".work"
"""Folder of an extraction that has not finished."""
VERSION = re.compile("[0-9a-f]{12}")
"""How extraction names the folder of a version."""
MADE_ANEW = {
    *("format", "settings", "fingerprint", "clips", "splits", "failures", "removed_crops"),
    *("digest", "shards", "removed_groups"),
}
"""Entries of a manifest that are not copied."""


@dataclass(frozen=True)
class Removal:
    """What was removed."""

    group: str
    when: str
    """ISO time, UTC."""
    versions: dict[str, dict[str, Any]]
    """By name of a version's folder: `clips`, `crops`, and the `digest` that it had before."""
    names: list[str] = field(default_factory=list)
    """Digests of the names of its clips, sorted; empty in lists of older versions."""

    @property
    def digests(self) -> list[str]:
        """Of the datasets that held the group: detectors name the one they were trained on."""
        return [version["digest"] for version in self.versions.values()]


def removed_groups(folder: Folder) -> set[str]:
    """Groups that were removed from a dataset: an extraction into it leaves them out.

    Args:
        folder: The dataset's folder, above its versions.
    """
    return {entry["group"] for entry in _removals(folder)}


def removed_names(folder: Folder) -> set[str]:
    """Digests of the names of all clips that were removed from a dataset.

    A group is named after one of its films, so its name can change when files are added.
    An extraction therefore leaves out every group that holds one of these clips.

    Args:
        folder: The dataset's folder, above its versions.
    """
    return {name for entry in _removals(folder) for name in entry.get("names", [])}


def name_digest(name: str) -> str:
    """Stands for a clip's name, which may be a person's, in the list of removals."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def remove_group(folder: Folder, group: str) -> Removal:
    """Deletes all crops and all mention of a group's clips from every version below a folder.

    Unfinished extractions into the dataset, and versions without an `extract.json` that they left,
    go as a whole, since they may hold crops of the group.

    Args:
        folder: A dataset with its versions, or one version.
        group: As it is in the column `group`.

    Returns:
        What was removed, by this call or by one before it that did not finish.

    Raises:
        UserError: There is no dataset, or no such group in it.
    """
    versions = _versions(folder)
    if not versions:
        raise UserError(
            f"{folder} holds no {MANIFEST}; give a folder that genconvit extract wrote."
        )
    datasets = {name: open_dataset(version.location) for name, version in versions.items()}
    found = {name: _found(dataset, group) for name, dataset in datasets.items()}
    top = _top(folder)
    entries = _removals(top)
    entry = next((entry for entry in entries if entry["group"] == group), None)
    if entry is None:
        if not any(clips for clips, _ in found.values()):
            raise UserError(_unknown(folder, group, datasets.values()))
        entry = {"group": group, "when": datetime.now(UTC).isoformat(timespec="seconds")}
        entries.append(entry)
    noted = entry.setdefault("versions", {})
    for name, (clips, crops) in found.items():
        # What a call before this one noted is right: it counted before anything was removed.
        if clips and name not in noted:
            noted[name] = {"clips": len(clips), "crops": crops, "digest": datasets[name].digest}
    clips = set().union(*(clips for clips, _ in found.values()))
    entry["names"] = sorted({*entry.get("names", []), *map(name_digest, clips)})
    top.write_json(REMOVALS, {"removed": entries})
    top.remove(WORK)
    for name in _unfinished(top):
        top.remove(name)
    for name, version in versions.items():
        version.remove(WORK)
        clips, _ = found[name]
        if clips:
            record = {"group": group, **noted[name], "when": entry["when"]}
            _rewrite(version, datasets[name], clips, record)
        _remove_unnamed(version)
    return Removal(**entry)


def _rewrite(
    folder: Folder, dataset: FrameDataset, clips: set[str], record: dict[str, Any]
) -> None:
    """Makes the version anew without a group: first its shards, then what names them."""
    group = record["group"]
    shards: list[Shard] = []
    for shard in dataset.shards:
        with open_parquet(shard.path) as file:
            if not pc.any(_is(file.read(columns=["group"]), group)).as_py():
                shards.append(replace(shard, path=shard.path[len(folder.location) + 1 :]))
                continue
            table = file.read()
        rest = table.filter(pc.invert(_is(table, group)))
        if len(rest):
            # Notes in the file's metadata may name the clips, so they do not come along.
            shards.append(write_shard(folder, rest))
    more = {
        key: _without(value, {group, *clips})
        for key, value in dataset.manifest.items()
        if key not in MADE_ANEW
    }
    removed = [r for r in dataset.manifest.get("removed_groups", []) if r["group"] != group]
    record = {key: record[key] for key in ("group", "clips", "crops", "when")}
    write_manifest(
        folder,
        shards,
        [clip for clip in dataset.clips() if clip.group != group],
        settings=dataset.manifest["settings"],
        **more,
        removed_groups=[*removed, record],
    )


def _without(value: Any, names: set[str]) -> Any:
    """JSON without what mentions a name."""
    if isinstance(value, dict):
        return {k: _without(v, names) for k, v in value.items() if k not in names}
    if isinstance(value, list):
        return [_without(item, names) for item in value if not _mentions(item, names)]
    return value


def _mentions(item: Any, names: set[str]) -> bool:
    values = item.values() if isinstance(item, dict) else [item]
    return any(isinstance(value, str) and value in names for value in values)


def _remove_unnamed(folder: Folder) -> None:
    """Deletes the shards that the manifest does not name, and halves of files that a kill left."""
    manifest = folder.read_json(MANIFEST, "the dataset's description")
    named = {shard["path"] for shard in manifest["shards"]}
    for name in folder.names():
        if name.split("/")[0] in SPLITS and name not in named:
            folder.remove(name)
    if not is_url(folder.location):
        for place in ("", *SPLITS):
            for half in Path(folder.at(place)).glob(".*"):
                if half.is_file():
                    half.unlink()


def _found(dataset: FrameDataset, group: str) -> tuple[set[str], int]:
    """The names of a group's clips and the number of its crops, in the table and in the shards."""
    names = {clip.name for clip in dataset.clips() if clip.group == group}
    crops = 0
    for shard in dataset.shards:
        with open_parquet(shard.path) as file:
            table = file.read(columns=["group", "video_id"])
        own = table.filter(_is(table, group))
        names.update(own["video_id"].to_pylist())
        crops += len(own)
    return names, crops


def _is(table: Any, group: str) -> Any:
    return pc.fill_null(pc.equal(table["group"], group), False)


def _versions(folder: Folder) -> dict[str, Folder]:
    """The finished versions below a folder by name, itself included."""
    if folder.has(MANIFEST):
        return {folder.location.rsplit("/", 1)[-1]: folder}
    paths = [name.split("/") for name in folder.names()]
    found = [path[0] for path in paths if len(path) == 2 and path[1] == MANIFEST]
    return {name: folder.folder(name) for name in found if name != WORK}


def _unfinished(folder: Folder) -> list[str]:
    """The folders of versions below a dataset's folder that extraction has not finished."""
    names = {name.split("/")[0] for name in folder.names() if "/" in name}
    if not is_url(folder.location):  # where only halves of files are in it, they are not listed
        names |= {path.name for path in Path(folder.location).iterdir() if path.is_dir()}
    versions = sorted(name for name in names if VERSION.fullmatch(name))
    return [name for name in versions if not folder.has(f"{name}/{MANIFEST}")]


def _top(folder: Folder) -> Folder:
    """The dataset's folder, also where one of its versions is given."""
    above = Folder(folder.location.rsplit("/", 1)[0] or "/")
    return above if folder.has(MANIFEST) and above.has(CURRENT) else folder


def _removals(folder: Folder) -> list[dict[str, Any]]:
    if not folder.has(REMOVALS):
        return []
    entries: list[dict[str, Any]] = folder.read_json(REMOVALS, "the list of removals")["removed"]
    return entries


def _unknown(folder: Folder, group: str, datasets: Iterable[FrameDataset]) -> str:
    groups = {clip.group for dataset in datasets for clip in dataset.clips()}
    near = difflib.get_close_matches(group, groups, n=3, cutoff=0.5)
    hint = f"near are {', '.join(near)}" if near else f"it has {len(groups)} others"
    return f"{folder} has no group {group} ({hint}); give one as it is in clips.parquet."
