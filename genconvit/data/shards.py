"""The frame dataset: Parquet shards of face crops, and what describes them.

    DATASET/current.json            names the newest version
    DATASET/VERSION/extract.json    settings, counts, and the name, size and hash of every shard
    DATASET/VERSION/clips.parquet   a row for every clip, those that failed included
    DATASET/VERSION/{train,val,test}/*.parquet   shards, a row for every crop

A version is never changed but to remove a person's data (`genconvit.data.removal`). Without its
`extract.json`, which is written last, it is no dataset.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genconvit.config import PreprocessSettings, SamplingSettings
from genconvit.data.clip_table import ClipRecord, read_clip_table, write_clip_table
from genconvit.data.crops import ClipCrops, Crop
from genconvit.errors import UserError
from genconvit.folder import Folder, open_parquet
from genconvit.storage import is_url

FORMAT = 2
SPLITS = ("train", "val", "test")
MANIFEST = "extract.json"
CURRENT = "current.json"
ROWS_PER_GROUP = 64  # read at once: about 1 MB of JPEG at 224 px

SCHEMA = pa.schema(
    [
        ("image", pa.binary()),
        ("label", pa.int8()),
        ("video_id", pa.string()),
        ("group", pa.string()),
        ("frame_index", pa.int32()),
        ("time_s", pa.float32()),
        ("track", pa.int32()),
        ("box", pa.list_(pa.int32(), 4)),
        ("face_score", pa.float32()),
        ("source", pa.string()),
        ("method", pa.string()),
        ("split", pa.string()),
    ]
)
"""A shard's row. `image` is a JPEG; `label` is 0 (fake) or 1 (real); `box` is in frame pixels."""


@dataclass(frozen=True)
class Shard:
    """A shard as the manifest has it."""

    path: str
    """Relative to the dataset's folder; absolute, or a URL, in a `FrameDataset`."""
    split: str
    rows: int
    bytes: int
    sha256: str
    row_groups: tuple[int, ...]
    """Rows of each row group."""


@dataclass(frozen=True)
class RowGroup:
    """A part of a shard that is read at once."""

    path: str
    index: int
    rows: int
    tag: str = ""
    """Goes before the names of its clips, where datasets are mixed: each may have an `a.mp4`."""


@dataclass(frozen=True)
class FrameDataset:
    """An extracted dataset that has been opened."""

    path: str
    """The folder of the version that is open: a path or a URL."""
    preprocess: PreprocessSettings
    sampling: SamplingSettings
    counts: dict[str, dict[str, int]]
    """For each split, the crops of `fake` and `real`."""
    digest: str
    """Twelve hex digits over the content of all shards."""
    shards: tuple[Shard, ...]
    manifest: Mapping[str, Any]
    """The content of `extract.json`."""

    @property
    def folder(self) -> Folder:
        """The folder of the version that is open."""
        return Folder(self.path)

    def row_groups(self, split: str) -> list[RowGroup]:
        """All row groups of a split, in a fixed order.

        Raises:
            UserError: The split is empty.
        """
        groups = [
            RowGroup(shard.path, index, rows)
            for shard in self.shards
            if shard.split == split
            for index, rows in enumerate(shard.row_groups)
        ]
        if not groups:
            held = ", ".join(s for s in SPLITS if sum(self.counts.get(s, {}).values()))
            raise UserError(
                f"{self.path} has no crops in its {split} split (it has {held or 'none'}); "
                "extract again with clips for it."
            )
        return groups

    def only(self, *splits: str) -> FrameDataset:
        """The dataset without its other splits: training is never given the test split."""
        return replace(self, shards=tuple(s for s in self.shards if s.split in splits))

    def clips(self) -> list[ClipRecord]:
        """What is known of every clip, those that failed included."""
        return read_clip_table(self.folder)


def is_dataset(path: str | Path) -> bool:
    """Whether `path` is a folder that extract has written."""
    folder = Folder(path)
    return folder.has(MANIFEST) or folder.has(CURRENT)


def current_version(path: str | Path) -> Folder:
    """The folder of the version that is meant by a dataset's folder, or by a version's own.

    Raises:
        UserError: There is no dataset at `path`.
    """
    folder = Folder(path)
    if not folder.has(MANIFEST) and folder.has(CURRENT):
        current = folder.read_json(CURRENT, "the name of the dataset's version")
        folder = folder.folder(str(current["version"]))
    if not folder.has(MANIFEST):
        if not is_url(folder.location) and not Path(folder.location).exists():
            raise UserError(f"{path} does not exist; check the path.")
        raise UserError(f"{path} holds no shards; give a folder that genconvit extract wrote.")
    return folder


def open_dataset(path: str | Path) -> FrameDataset:
    """Opens what `genconvit extract` wrote: the newest version, or the one whose folder is given.

    Args:
        path: A folder, or a URL of one.

    Raises:
        UserError: There is no dataset at `path`.
    """
    folder = current_version(path)
    manifest = folder.read_json(MANIFEST, "the dataset's description")
    try:
        if manifest["format"] != FORMAT:
            raise ValueError(manifest["format"])
        settings = manifest["settings"]
        preprocess = PreprocessSettings.model_validate(settings["preprocess"])
        sampling = SamplingSettings.model_validate(settings["sampling"])
        counts = {name: dict(split["crops"]) for name, split in manifest["splits"].items()}
        shards = tuple(
            Shard(**{**shard, "path": folder.at(shard["path"]), "row_groups": tuple(rows)})
            for shard in manifest["shards"]
            for rows in [shard["row_groups"]]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder.at(MANIFEST)} is from another version; extract again.") from error
    digest = digest_of(shard.sha256 for shard in shards)
    return FrameDataset(folder.location, preprocess, sampling, counts, digest, shards, manifest)


def refuse_other_crops(dataset: FrameDataset, preprocess: PreprocessSettings) -> None:
    """Refuses shards whose crops were made otherwise than a detector's.

    Raises:
        UserError: Their preprocessing differs.
    """
    if dataset.preprocess.fingerprint() != preprocess.fingerprint():
        raise UserError(
            f"{dataset.path} was extracted with preprocessing {dataset.preprocess.fingerprint()}, "
            f"and this detector needs {preprocess.fingerprint()}; extract the clips with its "
            "settings."
        )


def write_shard(
    folder: Folder, rows: pa.Table, *, key: str = "", notes: Mapping[str, str] | None = None
) -> Shard:
    """Writes one shard, named after its content, so that the same rows give the same file.

    Args:
        folder: The version's folder.
        rows: Rows of one split.
        key: What it is named after; by default its clips, frames and tracks.
        notes: Goes into the file's metadata.

    Returns:
        Its entry in the manifest.
    """
    key = key or repr(rows.select(["video_id", "frame_index", "track"]).to_pydict())
    path = shard_name(rows["split"][0].as_py(), key)
    with folder.written(path) as aside:
        # JPEG does not compress any further.
        pq.write_table(
            rows.replace_schema_metadata(dict(notes) if notes else None),
            aside,
            row_group_size=ROWS_PER_GROUP,
            compression="none",
        )
        return shard_entry(path, aside)


def shard_name(split: str, key: str) -> str:
    """The name of a shard in its version's folder."""
    return f"{split}/{hashlib.sha256(key.encode()).hexdigest()[:16]}.parquet"


def shard_entry(path: str, file: Path) -> Shard:
    """Describes a shard for the manifest.

    Args:
        path: Its name in the version's folder.
        file: Where it is now, on this machine.
    """
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    metadata = pq.read_metadata(file)
    groups = tuple(metadata.row_group(at).num_rows for at in range(metadata.num_row_groups))
    split = path.split("/")[0]
    return Shard(path, split, metadata.num_rows, file.stat().st_size, digest, groups)


def write_manifest(
    folder: Folder,
    shards: Sequence[Shard],
    records: Sequence[ClipRecord],
    *,
    settings: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """Makes a dataset of shards: writes `clips.parquet` and, last, `extract.json`.

    Args:
        folder: The version's folder.
        shards: From `write_shard`.
        records: All clips.
        settings: `preprocess` and `sampling`, and what else made the crops.
        more: Other entries.

    Returns:
        The manifest.
    """
    preprocess = PreprocessSettings.model_validate(settings["preprocess"])
    removed: Counter[str] = Counter()
    for record in records:
        removed.update(record.removed)
    manifest = {
        "format": FORMAT,
        **more,
        "settings": dict(settings),
        "fingerprint": preprocess.fingerprint(),
        "clips": len(records),
        "splits": {split: _counts(records, split) for split in SPLITS},
        "failures": dict(Counter(r.failure_kind for r in records if r.failure_kind).most_common()),
        "removed_crops": dict(removed.most_common()),
        "digest": digest_of(shard.sha256 for shard in shards),
        "shards": [vars(shard) for shard in shards],
    }
    write_clip_table(folder, records)
    folder.write_json(MANIFEST, manifest)
    return manifest


def digest_of(texts: Iterable[str]) -> str:
    """Twelve hex digits that change when any of the texts does."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def read_clips(
    dataset: FrameDataset, split: str, clips: int | Collection[str]
) -> dict[str, ClipCrops]:
    """The stored crops of some clips of a split, by name, in the order of their names.

    Frames without a face are not in the shards, so they are not counted.

    Args:
        dataset: The dataset.
        split: Its split.
        clips: Their names, or how many; of a large training split those of the first shards.

    Raises:
        UserError: The split is empty.
    """
    groups = dataset.row_groups(split)
    columns = ["video_id", "image", "frame_index", "time_s", "track", "box", "face_score"]
    found: dict[str, list[Crop]] = {}
    asked = None if isinstance(clips, int) else set(clips)
    most = clips if isinstance(clips, int) else len(set(clips))
    for path in dict.fromkeys(group.path for group in groups):
        # A clip lies in one shard, and in the training split anywhere in it.
        with open_parquet(path) as file:
            names = file.read(columns=["video_id"])["video_id"].to_pylist()
            chosen = set(sorted(set(names))[: most - len(found)]) if asked is None else asked
            keep = np.flatnonzero([name in chosen for name in names])
            rows = file.read(columns=columns).take(keep).to_pylist()
        for row in rows:
            name, jpeg, box = row.pop("video_id"), row.pop("image"), tuple(row.pop("box"))
            found.setdefault(name, []).append(Crop(jpeg=jpeg, box=box, **row))
        if len(found) >= most:
            break
    result = {}
    for name in sorted(found):
        crops = sorted(found[name], key=lambda crop: (crop.frame_index, crop.track))
        frames = len({crop.frame_index for crop in crops})
        result[name] = ClipCrops(crops, frames, frames)
    return result


def _counts(records: Sequence[ClipRecord], split: str) -> dict[str, Any]:
    kept = [record for record in records if record.split == split and record.crops]
    clips = Counter(record.label for record in kept)
    crops: Counter[str] = Counter()
    methods: Counter[str] = Counter()
    for record in kept:
        crops[record.label] += record.crops
        methods[record.method] += record.crops
    return {
        "clips": {label: clips[label] for label in ("fake", "real")},
        "crops": {label: crops[label] for label in ("fake", "real")},
        "methods": dict(methods.most_common()),
        "groups": len({record.group for record in kept}),
    }
