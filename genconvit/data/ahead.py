"""Making the next items while the caller works on one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """Passes items on that a thread makes.

    Args:
        items: Where they come from; an error there is raised here.
        count: How many are ready before they are asked for.
    """
    ready: queue.Queue[Any] = queue.Queue(maxsize=count)
    stopped = threading.Event()
    end = object()

    def fill() -> None:
        try:
            for item in items:
                if not _put(ready, item, stopped):
                    return
            _put(ready, end, stopped)
        except BaseException as error:
            _put(ready, error, stopped)

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not end:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _put(ready: queue.Queue[Any], item: Any, stopped: threading.Event) -> bool:
    """Waits for a free place; gives up when nobody listens any more."""
    while not stopped.is_set():
        try:
            ready.put(item, timeout=0.2)
            return True
        except queue.Full:
            continue
    return False
