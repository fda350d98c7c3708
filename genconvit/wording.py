"""Words of sentences that people read."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError


def plural(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def shortened(text: str, letters: int) -> str:
    """A text cut to so many letters, the last of them an ellipsis."""
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def first_mistake(error: ValidationError) -> str:
    """The first thing that is wrong with what was read, as `section.name: reason`."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the whole"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"
