"""Parts: the crops of a few clips each, on their way into shards.

    DATASET/.work/RECIPE/*.parquet

A part is what one step of extraction makes, and so what a stopped run continues from. Its rows
know nothing of labels, groups and splits, which may still change; its metadata hold a record of
every clip. Parts are packed into shards in a fixed order, and removed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genconvit.data.clip_table import ClipRecord
from genconvit.data.crops import Crop
from genconvit.data.shards import SCHEMA
from genconvit.folder import open_parquet

UNIT_CROPS = 512
"""Most crops that are held at once, of clips of any length: about 8 MB at 224 px."""
NOTE = b"genconvit"
"""Where a file's metadata hold the records."""

_OF_CROP = ("image", "frame_index", "time_s", "track", "box", "face_score")
_PART_SCHEMA = pa.schema([SCHEMA.field(name) for name in _OF_CROP])


@dataclass(frozen=True)
class Unit:
    """A row group of a part: crops of one clip, which stay together."""

    rows: int
    bytes: int
    path: str = ""
    """The part; empty once the crops are in a shard."""
    row_group: int = 0


@dataclass(frozen=True)
class Done:
    """A clip that is finished."""

    record: ClipRecord
    units: tuple[Unit, ...]
    """All of its units, in order."""
    part: str = ""
    """Where it is noted; empty where that is a shard."""
    unchanged: bool = False
    """Its file is as an earlier run saw it: the record has its size and time as they are now, and
    the crops are where they were."""


class PartWriter:
    """Writes a part, clip after clip, in bounded memory.

    Args:
        path: The local file.
    """

    def __init__(self, path: Path) -> None:
        # Statistics would repeat an image for every row group.
        self._writer = pq.ParquetWriter(
            path, _PART_SCHEMA, compression="none", write_statistics=False
        )
        self._groups = 0
        self._done: list[Done] = []

    def add(self, record: ClipRecord, crops: Iterable[Crop]) -> None:
        """Writes the crops of a clip. When they end with an error, the clip is not in the part."""
        units: list[Unit] = []
        waiting: list[Crop] = []
        for crop in crops:
            waiting.append(crop)
            if len(waiting) == UNIT_CROPS:
                units.append(self._write(waiting))
                waiting = []
        if waiting:
            units.append(self._write(waiting))
        record.crops = sum(unit.rows for unit in units)
        record.jpeg_bytes = sum(unit.bytes for unit in units)
        self.add_without_crops(record, units)

    def add_without_crops(self, record: ClipRecord, units: Sequence[Unit] = ()) -> None:
        """Notes a clip that gave no crop."""
        self._done.append(Done(record, tuple(units)))

    def add_unchanged(self, record: ClipRecord) -> None:
        """Notes a clip whose crops are where an earlier run has put them."""
        self._done.append(Done(record, (), unchanged=True))

    def close(self) -> None:
        """Ends the file."""
        self._writer.add_key_value_metadata({NOTE: note_of(self._done)})
        self._writer.close()

    def _write(self, crops: Sequence[Crop]) -> Unit:
        rows = [
            {
                "image": crop.jpeg,
                "frame_index": crop.frame_index,
                "time_s": crop.time_s,
                "track": crop.track,
                "box": list(crop.box),
                "face_score": crop.face_score,
            }
            for crop in crops
        ]
        return self.write_rows(pa.Table.from_pylist(rows, schema=_PART_SCHEMA))

    def write_rows(self, rows: pa.Table) -> Unit:
        """Writes rows of one clip as a unit."""
        self._writer.write_table(rows.select(_OF_CROP), row_group_size=len(rows))
        size = pc.sum(pc.binary_length(rows["image"])).as_py()
        self._groups += 1
        return Unit(len(rows), int(size), row_group=self._groups - 1)


def note_of(done: Iterable[Done]) -> str:
    """Finished clips as text for a file's metadata."""
    return json.dumps(
        [
            {
                "record": asdict(item.record),
                "units": [(unit.rows, unit.bytes, unit.row_group) for unit in item.units],
                "unchanged": item.unchanged,
            }
            for item in done
        ]
    )


def read_note(location: str, *, packed: bool = False) -> list[Done]:
    """The finished clips that are noted in a part, or with `packed` in a shard.

    A shard notes every clip of which it holds a unit, with all units that the clip has.
    """
    with open_parquet(location) as file:
        # Shards that a group was removed from have no note.
        note = (file.schema_arrow.metadata or {}).get(NOTE, b"[]")
        note = (file.metadata.metadata or {}).get(NOTE, note)
    path = "" if packed else location
    return [
        Done(
            ClipRecord(**item["record"]),
            tuple(Unit(rows, size, path, group) for rows, size, group in item["units"]),
            path,
            item["unchanged"],
        )
        for item in json.loads(note)
    ]


def pack(units: Sequence[tuple[ClipRecord, Unit]], *, shuffle_seed: int | None) -> pa.Table:
    """Reads units from their parts as rows of a shard.

    Args:
        units: In order, each with its clip.
        shuffle_seed: Mixes the rows, so that a row group holds crops of many clips; None keeps
            their order.
    """
    tables = []
    files: dict[str, pq.ParquetFile] = {}
    try:
        for record, unit in units:
            if unit.path not in files:
                files[unit.path] = open_parquet(unit.path)
            tables.append(_complete(files[unit.path].read_row_group(unit.row_group), record))
    finally:
        for file in files.values():
            file.close()
    rows = pa.concat_tables(tables)
    if shuffle_seed is not None:
        rows = rows.take(pa.array(np.random.default_rng(shuffle_seed).permutation(len(rows))))
    return rows


def unpack(location: str, done: Mapping[str, Done], path: Path) -> None:
    """Makes a part of a shard, so that its crops can go into another version.

    Args:
        location: The shard.
        done: The clips that are wanted, by name. Those that lie in several shards are left out.
        path: The part to write.
    """
    with open_parquet(location) as file:
        rows = file.read()
    order = [("video_id", "ascending"), ("frame_index", "ascending"), ("track", "ascending")]
    rows = rows.take(pc.sort_indices(rows, sort_keys=order))
    names = np.array(rows["video_id"].to_pylist(), object)
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    writer = PartWriter(path)
    for start, stop in itertools.pairwise([*starts.tolist(), len(names)]):
        found = done.get(names[start])
        # A very long clip has only a part of its crops here.
        if found is not None and stop - start == found.record.crops:
            mine = rows.slice(start, stop - start)
            units = [
                writer.write_rows(mine.slice(first, UNIT_CROPS))
                for first in range(0, len(mine), UNIT_CROPS)
            ]
            writer.add_without_crops(found.record, units)
    writer.close()


def _complete(rows: pa.Table, record: ClipRecord) -> pa.Table:
    """Rows of a part with what is the same for all crops of a clip."""
    same: dict[str, Any] = {
        "label": 0 if record.label == "fake" else 1,
        "video_id": record.name,
        "group": record.group,
        "source": record.source,
        "method": record.method,
        "split": record.split,
    }
    columns = [
        rows[field.name]
        if field.name in _OF_CROP
        else pa.array([same[field.name]] * len(rows), field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays([_flat(column) for column in columns], schema=SCHEMA)


def _flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
