"""Calls that are made as one, where each alone would cost more than its share of a joint one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class Together(Generic[Asked, Answered]):
    """Collects what is asked, and asks for it together.

    What comes in the same turn of the event loop goes together, and so does what has to wait since
    enough is under way. A lone request waits for nobody.

    Args:
        ask: Gets questions; answers each, or with an exception in its place.
        size: Most of a call, as `weigh` counts; a question that is larger goes alone.
        calls: Most calls under way; None for any number.
        weigh: What a question adds to a call.
    """

    def __init__(
        self,
        ask: Callable[[list[Asked]], Awaitable[Sequence[Answered | Exception]]],
        size: int,
        calls: int | None = None,
        weigh: Callable[[Asked], int] = lambda asked: 1,
    ) -> None:
        self._ask, self._size, self._weigh = ask, size, weigh
        self.calls = calls
        self._waiting: list[tuple[Asked, asyncio.Future[Answered]]] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def __call__(self, asked: Asked) -> Answered:
        """The answer.

        Raises:
            Exception: What came in its place, or what the call raised.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answered] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._start)
        self._waiting.append((asked, answer))
        return await answer

    def _start(self) -> None:
        while self._waiting and (self.calls is None or len(self._under_way) < self.calls):
            task = asyncio.get_running_loop().create_task(self._call(self._take()))
            self._under_way.add(task)
            task.add_done_callback(self._ended)

    def _take(self) -> list[tuple[Asked, asyncio.Future[Answered]]]:
        """The longest-waiting questions that fit into a call; who has left is left out."""
        self._waiting = [waiting for waiting in self._waiting if not waiting[1].done()]
        count, weight = 0, 0
        for asked, _ in self._waiting:
            weight += self._weigh(asked)
            if count and weight > self._size:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._start()

    async def _call(self, some: list[tuple[Asked, asyncio.Future[Answered]]]) -> None:
        some = [(asked, answer) for asked, answer in some if not answer.done()]  # who still waits
        if not some:
            return
        try:
            found = await self._ask([asked for asked, _ in some])
        except Exception as error:
            found = [error] * len(some)
        for (_, answer), result in zip(some, found, strict=True):
            if answer.done():
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)
