from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from genconvit.data.ahead import ahead


def test_items_come_in_order_and_are_made_before_they_are_asked_for() -> None:
    made: list[int] = []
    third = threading.Event()

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            if number == 2:
                third.set()
            yield number

    coming = ahead(items(), 2)
    assert next(coming) == 0
    assert third.wait(5)
    assert list(coming) == list(range(1, 10))
    assert made == list(range(10))


def test_an_error_comes_after_what_was_made_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("broken")

    coming = ahead(items(), 2)
    assert next(coming) == 1
    with pytest.raises(OSError, match="broken"):
        next(coming)


def test_a_reader_that_stops_early_ends_the_thread() -> None:
    before = threading.active_count()
    coming = ahead(iter(range(1000)), 1)
    next(coming)
    coming.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
