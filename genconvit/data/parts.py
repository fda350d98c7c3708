"""Parts: the crops of a few clips each, on their way into shards.

    DATASET/.work/RECIPE/*.parquet

A part is what one step of extraction makes, and so what a stopped run continues from. Its rows
know nothing of labels, groups and splits, which may still change; its metadata hold a record of
every clip. Parts are packed into shards in a fixed order, and removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    part: str = ""
    """Where it is noted; empty once it is in a shard."""


class PartWriter:
    """Writes a part, clip after clip, in bounded memory.

    Args:
        path: The local file.
    """

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, _PART_SCHEMA, compression="none")
        self._groups = 0
        self._done: list[Done] = []

    def add(self, record: ClipRecord, crops: Iterable[Crop]) -> Iterator[int]:
        """Writes the crops of a clip; yields after each unit how many crops there are by now.

        When the crops end with an error, the clip is not in the part.
        """
        units: list[Unit] = []
        waiting: list[Crop] = []
        for crop in crops:
            waiting.append(crop)
            if len(waiting) == UNIT_CROPS:
                units.append(self._write(waiting))
                waiting = []
                yield sum(unit.rows for unit in units)
        if waiting:
            units.append(self._write(waiting))
        record.crops = sum(unit.rows for unit in units)
        record.jpeg_bytes = sum(unit.bytes for unit in units)
        self.add_without_crops(record, units)
        yield record.crops

    def add_without_crops(self, record: ClipRecord, units: Sequence[Unit] = ()) -> None:
        """Notes a clip that gave no crop."""
        self._done.append(Done(record, tuple(units)))

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
                "units": [(u.rows, u.bytes, u.row_group) for u in item.units],
            }
            for item in done
        ]
    )


def read_note(location: str, *, packed: bool = False) -> list[Done]:
    """The finished clips in a part, or with `packed` in a shard."""
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
        done: The clips that are wanted, by name.
        path: The part to write.
    """
    with open_parquet(location) as file:
        rows = file.read()
    order = [("video_id", "ascending"), ("frame_index", "ascending"), ("track", "ascending")]
    rows = rows.take(pc.sort_indices(rows, sort_keys=order))
    names = rows["video_id"].to_pylist()
    writer = PartWriter(path)
    for name in dict.fromkeys(names):
        if name in done:
            mine = rows.slice(names.index(name), names.count(name))
            units = [
                writer.write_rows(mine.slice(start, UNIT_CROPS))
                for start in range(0, len(mine), UNIT_CROPS)
            ]
            writer.add_without_crops(done[name].record, units)
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
