"""How tasks and workers tell the process that shows them what they do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ray

Event = dict[str, Any]
POLL_S = 0.3


class Mailbox:
    """Takes events from the workers of a job, for the process that shows them."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def push(self, event: Event) -> None:
        """Adds an event."""
        self.events.append(event)

    def drain(self) -> list[Event]:
        """All events since the last call."""
        events, self.events = self.events, []
        return events


def new_mailbox() -> Any:
    """An actor that is a `Mailbox`."""
    return ray.remote(num_cpus=0)(Mailbox).remote()


def watch(mailbox: Any, work: Callable[[], Any], handle: Callable[[Event], None]) -> Any:
    """Runs `work` here and hands over the events that arrive meanwhile; returns its result."""
    done = threading.Event()

    def pump() -> None:
        while not done.wait(POLL_S):
            for event in ray.get(mailbox.drain.remote()):
                handle(event)

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    try:
        return work()
    finally:
        done.set()
        thread.join()
        for event in ray.get(mailbox.drain.remote()):
            handle(event)
