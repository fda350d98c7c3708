"""Rows of a CSV or Parquet file of scores, read with care: what is wrong is told by its place."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from genconvit.data.tree import decode
from genconvit.errors import UserError

_T = TypeVar("_T", int, float)


@dataclass(frozen=True)
class Row:
    """One row: its place in words, and its cells as text."""

    where: str
    cells: Mapping[str, str]

    def text(self, column: str) -> str:
        """A cell; empty where there is no such column."""
        return self.cells.get(column, "")

    def name(self) -> str:
        """The clip's `video_name`, with forward slashes.

        Raises:
            UserError: It is empty.
        """
        name = self.text("video_name")
        if not name:
            raise UserError(f"{self.where} has no video_name; write which clip it is of.")
        return name if "://" in name else Path(name).as_posix()

    def others(self, known: Collection[str]) -> dict[str, str]:
        """The cells of all columns but these, without those that are empty."""
        return {key: cell for key, cell in self.cells.items() if key not in known and cell}

    def share(self, column: str) -> float | None:
        """A number from 0 to 1; None where the cell is empty or NaN.

        Raises:
            UserError: It is something else.
        """
        return self._number(column, float, 1.0, "a number from 0 to 1")

    def seconds(self, column: str) -> float | None:
        """A number from 0; None where the cell is empty or NaN.

        Raises:
            UserError: It is something else.
        """
        return self._number(column, float, math.inf, "seconds from 0")

    def whole(self, column: str) -> int | None:
        """A whole number from 0; None where the cell is empty or NaN.

        Raises:
            UserError: It is something else.
        """
        return self._number(column, _whole, math.inf, "a whole number from 0")

    def needed(self, read: Callable[[str], _T | None], column: str) -> _T:
        """What `read` finds in a column that must not be empty.

        Raises:
            UserError: It is empty, or something else.
        """
        found = read(column)
        if found is None:
            raise UserError(f"{self.where} has no {column}; every crop needs one.")
        return found

    def _number(
        self, column: str, read: Callable[[str], _T], most: float, wanted: str
    ) -> _T | None:
        text = self.text(column)
        if text.lower() in ("", "nan"):
            return None
        try:
            number = read(text)
            if 0 <= number <= most and math.isfinite(number):
                return number
        except (ValueError, OverflowError):
            pass
        raise UserError(f"{self.where} has the {column} {text!r}; write {wanted}.")


def read_rows(content: bytes, location: str | Path) -> tuple[list[str], list[Row]]:
    """The columns and rows of a file.

    Args:
        content: Its bytes, which tell what it is.
        location: Where it is, for messages.

    Raises:
        UserError: It is neither CSV nor Parquet, or has no `video_name` or no row.
    """
    read = _parquet if content.startswith(b"PAR1") else _csv
    columns, rows = read(content, location)
    if "video_name" not in columns:
        raise UserError(f"{location} lacks the column video_name; it must name each row's clip.")
    found = list(rows)
    if not found:
        raise UserError(f"{location} has no rows; add one for each clip.")
    return columns, found


def _parquet(content: bytes, location: str | Path) -> tuple[list[str], Iterator[Row]]:
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{location} is a damaged Parquet file; write it anew.") from error
    rows = (
        Row(f"row {number} of {location}", {key: _cell(value) for key, value in row.items()})
        for number, row in enumerate(table.to_pylist(), start=1)
    )
    return table.column_names, rows


def _csv(content: bytes, location: str | Path) -> tuple[list[str], Iterator[Row]]:
    try:
        reader = csv.reader(io.StringIO(decode(content, location), newline=""))
        lines = [(reader.line_num, line) for line in reader]
    except csv.Error as error:
        raise UserError(f"{location} is not a CSV ({error}); save it as one.") from error
    header = [column.strip().lower() for column in lines[0][1]] if lines else []
    twice = next((column for column in header if header.count(column) > 1), None)
    if twice is not None:
        raise UserError(f"{location} has the column {twice!r} twice; remove one.")
    return header, _csv_rows(header, lines[1:], location)


def _csv_rows(
    header: list[str], lines: list[tuple[int, list[str]]], location: str | Path
) -> Iterator[Row]:
    for number, line in lines:
        where = f"line {number} of {location}"
        if len(line) > len(header):
            raise UserError(f"{where} has {len(line)} cells for {len(header)} columns; correct it.")
        cells = dict(zip(header, (cell.strip() for cell in line), strict=False))
        if any(cells.values()):
            yield Row(where, cells)


def _cell(value: object) -> str:
    return "" if value is None else str(value).strip()


def _whole(text: str) -> int:
    """Also 3.0: a column of whole numbers with gaps is often kept as one of floats."""
    number = float(text)
    if not number.is_integer():
        raise ValueError(text)
    return int(number)
