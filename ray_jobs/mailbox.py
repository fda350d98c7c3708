"""How tasks and workers tell the process that shows them what they do, and hear from it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Event = dict[str, Any]
POLL_S = 0.3
STOPPING = "saving the run's state and stopping; press Ctrl-C again to stop at once."


class Mailbox:
    """Takes events from the workers of a job, for the process that shows them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ends: dict[str, Event] = {}
        self.stop_asked = False

    def push(self, event: Event) -> None:
        """Adds an event."""
        self.events.append(event)

    def drain(self) -> list[Event]:
        """All events since the last call."""
        events, self.events = self.events, []
        return events

    def end(self, run: str, event: Event) -> None:
        """Notes why a run has ended before its time; the first reason counts."""
        self.ends.setdefault(run, event)

    def end_of(self, run: str) -> Event | None:
        """Why a run has ended before its time, if it has."""
        return self.ends.get(run)

    def ask_to_stop(self) -> None:
        """Has the runs save their state and stop."""
        self.stop_asked = True

    def is_stop_asked(self) -> bool:
        """Whether the runs are to stop."""
        return self.stop_asked


def new_mailbox() -> Any:
    """An actor that is a `Mailbox`, on this process's node: it is not lost with another one."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote()


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


def follow(mailbox: Any, work: Callable[[], Any], handle: Callable[[Event], None]) -> Any:
    """`watch`, for work that can be stopped: Ctrl-C and SIGTERM ask the mailbox for it.

    The work runs in a thread of its own, so that Ray does not take the signals. A second one ends
    the program at once.

    Raises:
        KeyboardInterrupt: On the second signal, or before the work has told of anything.
    """
    result: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            failure.append(error)

    told = False

    def collect() -> None:
        nonlocal told
        for event in ray.get(mailbox.drain.remote()):
            told = True
            handle(event)

    thread = threading.Thread(target=run, daemon=True)
    with _signals() as received:
        thread.start()
        asked = False
        while thread.is_alive():
            thread.join(POLL_S)
            collect()
            if received and not told:
                raise KeyboardInterrupt  # nothing is done that could be saved
            if received and not asked:
                asked = True
                mailbox.ask_to_stop.remote()
                handle({"event": "note", "text": STOPPING})
    collect()
    if failure:
        raise failure[0]
    return result[0]


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM; the second one is raised."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread hears signals
        return
    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
