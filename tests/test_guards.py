"""docs/guards.md names a test for every old mistake, and those tests exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
MISTAKES = 12


def rows() -> list[tuple[str, str]]:
    """The table: an item's number, or nothing where it goes on, and what guards it."""
    lines = (ROOT / "docs" / "guards.md").read_text(encoding="utf-8").splitlines()
    table = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in table[2:]]  # without the heading
    assert all(len(row) == 4 for row in cells)
    return [(row[0], row[-1]) for row in cells]


def named(cell: str) -> list[tuple[str, str]]:
    """File and function of each test in a cell, which holds nothing else."""
    ids = [re.fullmatch(r"`([\w/]+\.py)::(test_\w+)`", text) for text in cell.split("<br>")]
    assert all(ids), cell
    return [(match[1], match[2]) for match in ids if match]


def test_every_mistake_is_listed_with_a_guard() -> None:
    assert [int(number) for number, _ in rows() if number] == list(range(1, MISTAKES + 1))
    assert all(named(cell) for _, cell in rows())


def test_every_guard_exists() -> None:
    for file, function in [test for _, cell in rows() for test in named(cell)]:
        assert (ROOT / file).is_file(), f"{file} is gone"
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        tests = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert tests.count(function) == 1, f"{file} does not define {function} once"
