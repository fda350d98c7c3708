"""The frame dataset: a folder of Parquet shards, and who reads which of its rows.

    DATASET/extract.json          settings, counts, failures
    DATASET/{train,val,test}/     shards, one row a crop

`plan_slices` deals the rows of a split to the workers. It is a pure function of the seed and the
epoch, so that every
run with the same seed sees the same rows in the same order, and validation sees each row exactly
once.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genconvit.config import PreprocessSettings, SamplingSettings
from genconvit.data.crops import ClipCrops, Crop, decode_crop
from genconvit.errors import UserError
from genconvit.files import read_json, replaced_file

SPLITS = ("train", "val", "test")
MANIFEST = "extract.json"
ROWS_PER_GROUP = 256  # one task's work: about 4 MB of JPEG, 38 MB decoded at 224 px

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
class RowGroup:
    """A part of a shard that is read at once."""

    path: str
    index: int
    rows: int


@dataclass(frozen=True)
class Slice:
    """Rows `start` to `stop` of a row group."""

    path: str
    row_group: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class FrameDataset:
    """An extracted dataset that has been opened."""

    path: Path
    preprocess: PreprocessSettings
    sampling: SamplingSettings
    counts: dict[str, dict[str, int]]
    """For each split, the crops of `fake` and `real`."""
    digest: str
    """Twelve hex digits over names and sizes of all shards."""

    def row_groups(self, split: str) -> list[RowGroup]:
        """All row groups of a split, in a fixed order.

        Raises:
            UserError: The split is empty.
        """
        groups = [
            RowGroup(str(file), index, metadata.row_group(index).num_rows)
            for file in sorted((self.path / split).glob("*.parquet"))
            for metadata in [pq.read_metadata(file)]
            for index in range(metadata.num_row_groups)
        ]
        if not groups:
            held = ", ".join(s for s in SPLITS if sum(self.counts.get(s, {}).values()))
            raise UserError(
                f"{self.path} has no crops in its {split} split (it has {held or 'none'}); "
                "extract again with clips for it."
            )
        return groups


def is_dataset(path: Path) -> bool:
    """Whether `path` is a folder that extract has written."""
    return (path / MANIFEST).is_file()


def open_dataset(path: Path) -> FrameDataset:
    """Opens what `genconvit extract` wrote.

    Raises:
        UserError: There is no dataset at `path`.
    """
    path = path.resolve()  # workers have another current folder
    if not is_dataset(path):
        raise UserError(f"{path} holds no {MANIFEST}; give a folder that genconvit extract wrote.")
    manifest = read_json(path / MANIFEST, "the dataset's description")
    try:
        settings = manifest["settings"]
        preprocess = PreprocessSettings.model_validate(settings["preprocess"])
        sampling = SamplingSettings.model_validate(settings["sampling"])
        counts = {name: dict(split["crops"]) for name, split in manifest["splits"].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path / MANIFEST} is from another version; extract again.") from error
    files = sorted(path.glob("*/*.parquet"))
    listing = "\n".join(f"{f.relative_to(path)} {f.stat().st_size}" for f in files)
    digest = hashlib.sha256(listing.encode()).hexdigest()[:12]
    return FrameDataset(path, preprocess, sampling, counts, digest)


def refuse_other_crops(dataset: FrameDataset, preprocess: PreprocessSettings) -> None:
    """Refuses shards whose crops were made otherwise than a detector's.

    Raises:
        UserError: Their preprocessing differs.
    """
    if dataset.preprocess != preprocess:
        raise UserError(
            f"{dataset.path} was extracted with preprocessing {dataset.preprocess.fingerprint()}, "
            f"and this detector needs {preprocess.fingerprint()}; extract the clips with its "
            "settings."
        )


def write_shard(folder: Path, rows: pa.Table) -> Path:
    """Writes one shard, named after its content, so that the same rows give the same file."""
    keys = rows.select(["video_id", "frame_index", "track"]).to_pydict()
    digest = hashlib.sha256(repr(keys).encode())
    path = folder / f"{digest.hexdigest()[:16]}.parquet"
    with replaced_file(path) as aside:
        # JPEG does not compress any further.
        pq.write_table(rows, aside, row_group_size=ROWS_PER_GROUP, compression="none")
    return path


def plan_slices(
    groups: Sequence[RowGroup],
    parts: int,
    *,
    equal: bool = False,
    seed: int | None = None,
) -> list[list[Slice]]:
    """Deals rows to workers, in contiguous runs.

    Args:
        groups: All row groups of a split.
        parts: How many workers.
        equal: Every worker gets the same number of rows, as DDP needs; at most `parts - 1` rows
            are left out. Without
            it every row goes to exactly one worker.
        seed: Shuffles the row groups first; None keeps their order.
    """
    order = list(groups)
    if seed is not None:
        random.Random(seed).shuffle(order)
    total = sum(group.rows for group in order)
    share = total // parts
    extra = 0 if equal else total % parts
    edges = [part * share + min(part, extra) for part in range(parts + 1)]
    return [_cut(order, start, stop) for start, stop in itertools.pairwise(edges)]


def load_slice(rows: Slice, image_size: int, columns: Iterable[str] = ("label",)) -> dict[str, Any]:
    """Reads and decodes rows.

    Returns:
        `image`: uint8 (rows, image_size, image_size, 3), RGB; and each of `columns` as an array.
    """
    wanted = ["image", *columns]
    with pq.ParquetFile(rows.path, memory_map=True) as file:
        table = file.read_row_group(rows.row_group, columns=wanted)
    table = table.slice(rows.start, rows.rows)
    images = [decode_crop(jpeg, image_size) for jpeg in table["image"].to_pylist()]
    batch: dict[str, Any] = {"image": np.stack(images)}
    for name in columns:
        column = table[name]
        boxes = pa.types.is_fixed_size_list(column.type)
        batch[name] = np.array(column.to_pylist()) if boxes else column.to_numpy()
    return batch


def _cut(order: Sequence[RowGroup], start: int, stop: int) -> list[Slice]:
    """Rows `start` to `stop` of the row groups laid end to end."""
    slices = []
    position = 0
    for group in order:
        first, last = max(start - position, 0), min(stop - position, group.rows)
        if first < last:
            slices.append(Slice(group.path, group.index, first, last))
        position += group.rows
    return slices


def read_clips(dataset: FrameDataset, split: str, clips: int) -> dict[str, ClipCrops]:
    """The stored crops of the first clips of a split, by name.

    Frames without a face are not in the shards, so they are not counted.

    Raises:
        UserError: The split is empty.
    """
    columns = ["video_id", "image", "frame_index", "time_s", "track", "box", "face_score"]
    found: dict[str, list[Crop]] = {}
    for group in dataset.row_groups(split):
        with pq.ParquetFile(group.path, memory_map=True) as file:
            rows = file.read_row_group(group.index, columns=columns).to_pylist()
        for row in rows:
            name, jpeg, box = row.pop("video_id"), row.pop("image"), tuple(row.pop("box"))
            found.setdefault(name, []).append(Crop(jpeg=jpeg, box=box, **row))
        if len(found) > clips:  # the last clip may go on in the next row group
            break
    chosen = {name: found[name] for name in list(found)[:clips]}
    frames = {name: len({crop.frame_index for crop in crops}) for name, crops in chosen.items()}
    return {name: ClipCrops(chosen[name], frames[name], frames[name]) for name in chosen}
