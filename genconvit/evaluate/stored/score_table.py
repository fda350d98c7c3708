"""The tables of judged clips: rows are kept in parts as they come, and merged in the end.

    OUT/scores.parquet, scores.csv    one row a clip, ordered by name
    OUT/crop_scores.parquet           one row a crop, ordered by clip, frame and track
    OUT/parts/*.parquet               rows of a few clips each, with those of their crops

Of clips only names and places are held in memory, however many there are.
"""

from __future__ import annotations

import csv
import hashlib
import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from genconvit.data.clip import Clip
from genconvit.evaluate.evaluated import CropScore
from genconvit.folder import Folder, open_parquet
from genconvit.storage import is_url
from genconvit.verdict import Verdict

SCORES, SCORES_CSV, CROP_SCORES = "scores.parquet", "scores.csv", "crop_scores.parquet"
PARTS = "parts"
ROWS_A_GROUP = 1024

_TEXT, _NUMBER, _COUNT = pa.string(), pa.float64(), pa.int64()
_NAME = ("video_name", _TEXT)
_OF_CLIP = ("label", "group", "method", "source", "split")
_RESULT = [
    ("verdict", _TEXT),
    ("score", _NUMBER),
    ("reason", _TEXT),
    ("frames_sampled", _COUNT),
    ("frames_with_face", _COUNT),
    ("tracks", _COUNT),
    ("failure_kind", _TEXT),
    ("failure", _TEXT),
    ("seconds", _NUMBER),
]
_OF_CROP = [
    ("frame_index", _COUNT),
    ("time_s", _NUMBER),
    ("track", _COUNT),
    ("probability_fake", _NUMBER),
    ("sigmoid_fake", _NUMBER),
    ("sigmoid_real", _NUMBER),
]
PART_SCHEMA = pa.schema(
    [_NAME, ("stamp", _TEXT), *_RESULT, ("crops", pa.list_(pa.struct(_OF_CROP)))]
)
_JUDGED_BY = ("detector", "preprocess", "path")
_OWN = frozenset([_NAME[0], *_OF_CLIP, *(name for name, _ in _RESULT), *_JUDGED_BY])
PREFIX = "list_"
"""Before the name of a list's column that the table has itself."""
CROP_SCHEMA = pa.schema([_NAME, *_OF_CROP])

Row = dict[str, Any]


def crop_values(crop: CropScore) -> tuple[int | float | None, ...]:
    """A crop's cells in the columns of `CROP_SCHEMA`, but for the clip's name."""
    place = (crop.frame_index, crop.time_s, crop.track)
    return (*place, crop.p_fake, *(crop.sigmoids or (None, None)))


def part_row(
    name: str,
    stamp: str,
    verdict: Verdict | None,
    crops: Sequence[CropScore],
    failure_kind: str,
    failure: str,
    seconds: float,
) -> Row:
    """A judged clip as a row of a part.

    Args:
        name: Of the clip.
        stamp: Changes when the clip's file does.
        verdict: None where it could not be decoded.
        crops: Its crops' scores.
        failure_kind: Why, in a word or two; else empty.
        failure: The same as a sentence.
        seconds: What it took.
    """
    row: Row = {
        "video_name": name,
        "stamp": stamp,
        "failure_kind": failure_kind,
        "failure": failure,
        "seconds": round(seconds, 4),
        "crops": [],
    }
    if verdict is None:
        return row | {"reason": failure}
    for crop in crops:
        values = zip(_OF_CROP, crop_values(crop), strict=True)
        row["crops"].append({key: value for (key, _), value in values})
    return row | {
        "verdict": verdict.verdict,
        "score": verdict.probability_fake,
        "reason": verdict.reason,
        "frames_sampled": verdict.frames_sampled,
        "frames_with_face": verdict.frames_with_face,
        "tracks": len(verdict.tracks),
    }


@dataclass(frozen=True, slots=True)
class Known:
    """Where the row of a clip is, and what it says."""

    part: str
    verdict: str | None
    failure_kind: str


class Parts:
    """The rows that are there already.

    Args:
        folder: The tables' folder.
        stamps: Of each wanted clip, by name; rows of other clips and of older files do not count.

    Attributes:
        known: The rows that count, by name.
    """

    def __init__(self, folder: Folder, stamps: Mapping[str, str]) -> None:
        self._folder = folder.folder(PARTS)
        self.known: dict[str, Known] = {}
        self._first: dict[str, str] = {}
        for part in self._folder.names():
            with open_parquet(self._folder.at(part)) as file:
                rows = file.read(["video_name", "stamp", "verdict", "failure_kind"]).to_pylist()
            self._first[part] = rows[0]["video_name"]
            for row in rows:
                before = self.known.get(row["video_name"])
                # A clip that failed may have been judged later on.
                if stamps.get(row["video_name"]) == row["stamp"] and (
                    before is None or before.failure_kind
                ):
                    self._note(row, part)

    def add(self, rows: Iterable[Row]) -> None:
        """Keeps the rows of a few clips; a reader sees all of them or none."""
        rows = sorted(rows, key=lambda row: str(row["video_name"]))
        part = _part_name(f"{row['video_name']} {row['stamp']}" for row in rows)
        with self._folder.written(part) as aside:
            pq.write_table(pa.Table.from_pylist(rows, PART_SCHEMA), aside, compression="zstd")
        self._first[part] = rows[0]["video_name"]
        for row in rows:
            self._note(row, part)

    def in_order(self) -> Iterator[Row]:
        """The rows that count, by name, from as few open files as that takes."""
        waiting = deque(sorted((first, part) for part, first in self._first.items()))
        heads: list[tuple[str, str, Row, Iterator[Row]]] = []
        while waiting or heads:
            while waiting and (not heads or waiting[0][0] <= heads[0][0]):
                _, part = waiting.popleft()
                _push(heads, part, self._rows_of(part))
            name, part, row, rest = heapq.heappop(heads)
            _push(heads, part, rest)
            known = self.known.get(name)
            if known is not None and known.part == part:
                yield row

    def compact(self) -> None:
        """Makes one part of all, without the rows that do not count."""
        old = sorted(self._first)
        if len(old) == 1:
            return
        name = _part_name(old)
        with self._folder.written(name) as aside, pq.ParquetWriter(aside, PART_SCHEMA) as writer:
            for rows in _groups(self.in_order()):
                writer.write_table(pa.Table.from_pylist(rows, PART_SCHEMA))
        for part in old:
            self._folder.remove(part)
        if not is_url(self._folder.location):
            for half in Path(self._folder.location).glob(".*"):  # of a process that was killed
                half.unlink()

    def _note(self, row: Row, part: str) -> None:
        self.known[row["video_name"]] = Known(part, row.get("verdict"), row["failure_kind"])

    def _rows_of(self, part: str) -> Iterator[Row]:
        with open_parquet(self._folder.at(part)) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()


def _push(heads: list[tuple[str, str, Row, Iterator[Row]]], part: str, rows: Iterator[Row]) -> None:
    row = next(rows, None)
    if row is not None:
        heapq.heappush(heads, (row["video_name"], part, row, rows))


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rest = iter(rows)
    while group := list(islice(rest, ROWS_A_GROUP)):
        yield group


def _part_name(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16] + ".parquet"


def score_schema(others: Iterable[str]) -> pa.Schema:
    """The columns of the table of clips.

    Args:
        others: What the lists of clips have beside, under the names that they get here.
    """
    names = (*_OF_CLIP, *others)
    texts = [(name, _TEXT) for name in names]
    return pa.schema([_NAME, *texts, *_RESULT, *((name, _TEXT) for name in _JUDGED_BY)])


def column_names(clips: Iterable[Clip]) -> dict[str, str]:
    """What the other columns of lists of clips are called in the table, by their names there."""
    found = dict.fromkeys(name for clip in clips for name in clip.columns)
    taken = {*_OWN, *found}
    names = {}
    for name in found:
        new = name
        while new in taken and (new in _OWN or new != name):
            new = PREFIX + new
        taken.add(new)
        names[name] = new
    return names


def write_tables(
    folder: Folder,
    rows: Iterable[Row],
    clips: Mapping[str, Clip],
    detector: str,
    preprocess: str,
) -> None:
    """Writes the three tables, each aside and then put in place.

    Args:
        folder: Where to.
        rows: Of parts, in order.
        clips: By name; what their lists say of them is in the table, too.
        detector: The detector's id.
        preprocess: Fingerprint of how crops are made.
    """
    names = column_names(clips.values())
    schema = score_schema(names.values())
    with ExitStack() as stack:
        enter = stack.enter_context
        scores = enter(pq.ParquetWriter(enter(folder.written(SCORES)), schema))
        crops = enter(pq.ParquetWriter(enter(folder.written(CROP_SCORES)), CROP_SCHEMA))
        text = enter(enter(folder.written(SCORES_CSV)).open("w", newline="", encoding="utf-8"))
        table = csv.DictWriter(text, schema.names, extrasaction="ignore")
        table.writeheader()
        for some in _groups(rows):
            whole = [
                {
                    **row,
                    **{key: getattr(clip, key) for key in _OF_CLIP},
                    **{names[key]: value for key, value in clip.columns.items()},
                    "detector": detector,
                    "preprocess": preprocess,
                    "path": str(clip.path),
                }
                for row in some
                for clip in [clips[row["video_name"]]]
            ]
            table.writerows(whole)
            scores.write_table(pa.Table.from_pylist(whole, schema))
            of_crops = [
                {"video_name": row["video_name"], **crop} for row in some for crop in row["crops"]
            ]
            crops.write_table(pa.Table.from_pylist(of_crops, CROP_SCHEMA))
