"""What a dataset keeps of every clip, those included that gave no crop: clips.parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields

import pyarrow as pa
import pyarrow.parquet as pq

from genconvit.folder import Folder, open_parquet

CLIP_TABLE = "clips.parquet"


@dataclass(slots=True)
class ClipRecord:
    """A clip and what came of it."""

    name: str
    """Its `video_id` in the shards."""
    label: str = ""
    group: str = ""
    method: str = ""
    source: str = ""
    split: str = ""
    content: str = ""
    """SHA-256 of the file, 32 hex digits; empty where it could not be read."""
    size: int = 0
    """Bytes of the file."""
    modified_ns: int = 0
    """When the file was changed: with `size` it tells a file that is known without reading it."""
    crops: int = 0
    jpeg_bytes: int = 0
    """Size of its crops."""
    frames_sampled: int = 0
    """0 where the clip could not be decoded."""
    frames_with_face: int = 0
    removed: dict[str, int] = field(default_factory=dict)
    """Crops that a quality filter removed, by reason."""
    failure_kind: str = ""
    """Why there is no crop, in a word or two; empty where there are crops."""
    failure: str = ""
    """The same as a sentence."""


_SCHEMA = pa.schema(
    [
        (name, pa.int64() if kind is int or kind == "int" else pa.string())
        for name, kind in ((item.name, item.type) for item in fields(ClipRecord))
    ]
)


def clip_table(records: Iterable[ClipRecord]) -> pa.Table:
    """Records as a table, a column a field; `removed` is JSON."""
    rows = [{**asdict(record), "removed": json.dumps(record.removed)} for record in records]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def clip_records(table: pa.Table) -> list[ClipRecord]:
    """The records of a table that `clip_table` made."""
    rows = table.to_pylist()
    return [ClipRecord(**{**row, "removed": json.loads(row["removed"])}) for row in rows]


def write_clip_table(folder: Folder, records: Iterable[ClipRecord]) -> None:
    """Writes the records of a dataset."""
    with folder.written(CLIP_TABLE) as aside:
        pq.write_table(clip_table(records), aside, compression="zstd")


def read_clip_table(folder: Folder) -> list[ClipRecord]:
    """Reads the records of a dataset."""
    with open_parquet(folder.at(CLIP_TABLE)) as file:
        return clip_records(file.read())
