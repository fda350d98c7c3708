"""Clips that a CSV, JSON or JSONL file lists."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from genconvit.data.clip import LABELS, SPLITS, Clip
from genconvit.data.tree import decode, join, read_bytes
from genconvit.errors import UserError

MANIFEST_SUFFIXES = frozenset({".csv", ".json", ".jsonl"})

_KEYS = frozenset({"video_name", "path", "label", "group", "method", "source", "split"})


def read_manifest(location: str | Path) -> list[Clip]:
    """The clips that a file lists. Their files may be missing, and groups are empty if it has none.

    A CSV has a header. A JSONL file has an object a line, a JSON file a list of them. The columns
    or keys are `video_name` (or `path`), and perhaps `label`, `group`, `method`, `source`, `split`.
    Others become the clips' `columns`.

    Args:
        location: The file or its URL. Its suffix says what it is.

    Raises:
        UserError: It is missing, malformed or empty, or a row is wrong.
    """
    content = read_bytes(location)
    if content is None:
        raise UserError(f"{location} does not exist; check the path")
    suffix = Path(str(location)).suffix.lower()
    readers = {".json": _json_rows, ".jsonl": _jsonl_rows}
    clips = [
        _row_to_clip(row, location, where)
        for where, row in readers.get(suffix, _csv_rows)(content, location)
    ]
    if not clips:
        raise UserError(f"{location} has no rows; add one for each clip")
    return clips


_Rows = Iterator[tuple[str, dict[str, str]]]
"""Where each row is, and its values by column."""


def _csv_rows(content: bytes, location: str | Path) -> _Rows:
    try:
        text = content.decode("utf-8-sig")
        header, *lines = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{location} is not a CSV in UTF-8; save it as one") from error
    columns = [column.strip().lower() for column in header]
    if not {"video_name", "path"} & set(columns):
        raise UserError(f"{location} lacks the column video_name; its first line must name it")
    for number, line in enumerate(lines, start=2):
        row = dict(zip(columns, (value.strip() for value in line), strict=False))
        if any(row.values()):
            yield f"line {number} of {location}", row


def _jsonl_rows(content: bytes, location: str | Path) -> _Rows:
    for number, line in enumerate(decode(content, location).split("\n"), start=1):
        if line.strip():
            where = f"line {number} of {location}"
            yield where, _words(_parse(line, where), where)


def _json_rows(content: bytes, location: str | Path) -> _Rows:
    items = _parse(decode(content, location), str(location))
    if not isinstance(items, list):
        raise UserError(f"{location} is not a list; write a list with an object for each clip")
    for number, item in enumerate(items, start=1):
        where = f"entry {number} of {location}"
        yield where, _words(item, where)


def _parse(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}); correct it") from error


def _words(item: object, where: str) -> dict[str, str]:
    if not isinstance(item, dict):
        raise UserError(f"{where} is not an object; write one with path and label")
    row = {str(key).lower(): value for key, value in item.items()}
    words = {}
    for key, value in row.items():
        if not isinstance(value, dict | list):
            words[key] = "" if value is None else str(value).strip()
        elif key in _KEYS:
            raise UserError(f"{where} has a {key} that is not a word; write text")
    return words


def _row_to_clip(row: dict[str, str], location: str | Path, where: str) -> Clip:
    word = row.get("label", "")
    label = LABELS.get(word.lower())
    if word and label is None:
        raise UserError(f"{where} has the label {word!r}; write real or fake")
    split_word = row.get("split", "").lower()
    if split_word and split_word not in SPLITS:
        raise UserError(f"{where} has the split {split_word!r}; write train, val or test")
    name = row.get("video_name") or row.get("path")
    if not name:
        raise UserError(f"{where} has no video_name; write the path of its clip")
    if "://" not in name:
        name = Path(name).as_posix()
    folder = str(location).rpartition("/")[0] if "://" in str(location) else Path(location).parent
    return Clip(
        join(folder, name),
        name,
        label,
        group=row.get("group", ""),
        method=row.get("method", ""),
        source=row.get("source", ""),
        split=SPLITS.get(split_word),
        columns={key: value for key, value in row.items() if key and key not in _KEYS and value},
    )
