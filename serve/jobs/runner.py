"""Takes jobs from the store and has them judged, one part of the clip after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from genconvit.verdict import TimelinePoint
from serve.jobs.queue import Claim, JobQueue
from serve.jobs.store import JobStore
from serve.problems import ProblemError
from serve.scoring.work import Judged

logger = logging.getLogger(__name__)

OnPart = Callable[[Sequence[TimelinePoint], float], Awaitable[None]]
"""Takes the points of the timeline that are new, and the share of the frames looked at."""

Judge = Callable[[bytes, Claim, OnPart], Awaitable[Judged]]
"""Judges an upload as the claim's options say, and reports each part.

ProblemError ends the job, or puts it off if it says when to retry. After any other exception it is
queued again. When the job was deleted, or took too long, the call is cancelled.
"""

TIDY_S = 60.0
STOPPING_S = 10.0
"""Work that does not end so long after it was cancelled is left to itself, seconds."""


class JobRunner:
    """Works on the jobs of a store. Any number of runners may share it.

    Nothing has to be put right when a runner is killed: the lease of its jobs runs out, and another
    one begins them anew.

    Args:
        store: The jobs.
        judge: Does the work.
        budget_s: Time for an attempt, seconds.
        on_done: Told of each job that ends with a verdict, once: not of an attempt that the store
            refuses, since the job was deleted or another runner has it.
        at_once: Jobs at once.
        poll_s: How often an idle runner asks for a job, seconds.
        watch_s: How soon it is noticed that a job was deleted, seconds.
        pause_s: From the first attempt to the second where it failed, seconds; twice that to the
            third. Jobs should outlive a rush of requests.
    """

    def __init__(
        self,
        store: JobStore,
        judge: Judge,
        budget_s: float,
        *,
        on_done: Callable[[Judged], None] | None = None,
        at_once: int = 1,
        poll_s: float = 0.3,
        watch_s: float = 1.0,
        pause_s: float = 30.0,
    ) -> None:
        self.store, self.queue, self.judge = store, JobQueue(store), judge
        self.budget_s, self.on_done, self.at_once = budget_s, on_done, at_once
        self.poll_s, self.watch_s, self.pause_s = poll_s, watch_s, pause_s

    async def run(self) -> None:
        """Works until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tidy())
            for _ in range(self.at_once):
                group.create_task(self._work())

    async def _tidy(self) -> None:
        while True:
            await self._ask(self.store.forget_old)
            await asyncio.sleep(TIDY_S)

    async def _work(self) -> None:
        while True:
            claim = await self._ask(self.queue.claim)
            if claim is None:
                await asyncio.sleep(self.poll_s)
            else:
                await self._attempt(claim)

    async def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls the store; None where it cannot be used just now, which the store has logged."""
        try:
            return await asyncio.to_thread(function, *arguments)
        except ProblemError:
            await asyncio.sleep(self.watch_s)
            return None

    async def _attempt(self, claim: Claim) -> None:
        work = asyncio.create_task(self._judged(claim))
        watch = asyncio.create_task(self._watch(claim))
        try:
            await asyncio.wait(
                {work, watch}, timeout=self.budget_s, return_when=asyncio.FIRST_COMPLETED
            )
            if work.done():
                await self._conclude(claim, work)
            elif watch.done():
                logger.info("job %.8s: deleted, or taken by another runner", claim.id)
            else:
                await self._fail(claim, _too_long(self.budget_s))
        finally:
            work.cancel()
            watch.cancel()
            _, left = await asyncio.wait({work, watch}, timeout=STOPPING_S)
            if left:
                logger.error("job %.8s: its work does not stop; it is left to itself", claim.id)

    async def _judged(self, claim: Claim) -> Judged:
        async def on_part(points: Sequence[TimelinePoint], progress: float) -> None:
            # That the job is gone is for the watch to see. A part that cannot be stored is no
            # reason to stop: the result will have it.
            await self._ask(self.queue.append, claim, points, progress)

        content = await asyncio.to_thread(self.queue.content, claim)
        return await self.judge(content, claim, on_part)

    async def _watch(self, claim: Claim) -> None:
        """Keeps the lease; ends when the job is not this runner's any more."""
        while await self._ask(self.queue.renew, claim) is not False:
            await asyncio.sleep(self.watch_s)

    async def _conclude(self, claim: Claim, work: asyncio.Task[Judged]) -> None:
        error = asyncio.CancelledError() if work.cancelled() else work.exception()
        if error is None:
            judged = work.result()
            if await self._settle(self.queue.finish, claim, judged.detection):
                logger.info("job %.8s: done in attempt %d", claim.id, claim.attempt)
                if self.on_done is not None:
                    self.on_done(judged)
            return
        pause_s = self.pause_s * claim.attempt
        if not isinstance(error, ProblemError):
            logger.error("job %.8s: attempt %d broke off", claim.id, claim.attempt, exc_info=error)
            await self._settle(self.queue.give_back, claim, pause_s, None)
        elif error.retry_after_s is not None:
            logger.warning("job %.8s: put off: %s", claim.id, error.reason)
            pause_s = max(pause_s, error.retry_after_s)
            await self._settle(self.queue.give_back, claim, pause_s, error.document())
        else:
            await self._fail(claim, error)

    async def _fail(self, claim: Claim, error: ProblemError) -> None:
        logger.info("job %.8s: failed: %s", claim.id, error.reason)
        await self._settle(self.queue.fail, claim, error.document())

    async def _settle(self, function: Callable[..., bool], *arguments: Any) -> bool:
        """Tells the store how an attempt ended, as soon as it can be used; whether it took it."""
        while (taken := await self._ask(function, *arguments)) is None:
            pass
        return bool(taken)


def _too_long(budget_s: float) -> ProblemError:
    detail = f"The clip was not judged within {budget_s:g} s; send a shorter one or ask for fewer "
    return ProblemError(504, detail + "frames.", "too long")
