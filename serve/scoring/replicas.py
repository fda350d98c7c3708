"""Calls to other deployments."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

from grpc.aio import AioRpcError
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError

from serve.problems import ProblemError

logger = logging.getLogger(__name__)

PAUSES_S = (0.1, 0.2, 0.5, 1, 2, 4, 8, 16)
"""Between one try and the next: in all longer than a new process takes to load a detector."""


class Replicas:
    """The processes of a deployment. What dies with one of them is asked of another.

    Args:
        handle: Ray Serve's, of the deployment.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._methods: dict[tuple[str, bool], Any] = {}
        """Each is a handle of its own, which takes a while to make."""

    async def call(self, method: str, *args: Any, by_value: bool = False) -> Any:
        """Calls a method of one process.

        Args:
            method: Its name.
            args: Its arguments.
            by_value: They and the result are likely small: they travel with the call, which takes
                two thirds of the time of one through Ray's object store.

        Raises:
            ProblemError: The method raised it, or no process answers.
        """
        for pause_s in (*PAUSES_S, None):
            response = self._method(method, by_value).remote(*args)
            try:
                return await response
            except asyncio.CancelledError:
                response.cancel()  # Ray would let the process finish what nobody waits for
                raise
            except RayTaskError as error:
                raise _cause(error) from None
            except BackPressureError:
                raise _no_room() from None
            except AioRpcError:
                by_value = False  # something was too large for a message
            except RayActorError as error:
                await _pause(pause_s, error)
        raise _no_room()

    def _method(self, name: str, by_value: bool) -> Any:
        if (name, by_value) not in self._methods:
            # Nothing public says it for one call; the pinned version of Ray has it.
            handle = self._handle.options(method_name=name, _by_reference=not by_value)
            self._methods[name, by_value] = handle
        return self._methods[name, by_value]

    async def stream(self, method: str, *args: Any) -> AsyncGenerator[Any]:
        """What a generator of one process yields; begun anew in another only before its first.

        Use it in `contextlib.aclosing`: who stops early ends the work.

        Raises:
            ProblemError: The generator raised it, or no process answers.
        """
        for pause_s in (*PAUSES_S, None):
            begun = False
            parts = getattr(self._handle.options(stream=True), method).remote(*args)
            try:
                async for part in parts:
                    begun = True
                    yield part
                return
            except (asyncio.CancelledError, GeneratorExit):
                parts.cancel()
                raise
            except RayTaskError as error:
                raise _cause(error) from None
            except BackPressureError:
                raise _no_room() from None
            except RayActorError as error:
                if begun:
                    raise
                await _pause(pause_s, error)
        raise _no_room()


def _cause(error: RayTaskError) -> Exception:
    cause = error.cause
    return cause if isinstance(cause, ProblemError) else error


def _no_room() -> ProblemError:
    return ProblemError(503, "no process has room for it; try again later.", "overload", 2)


async def _pause(pause_s: float | None, error: Exception) -> None:
    logger.warning("a process died and its work is done over: %s", type(error).__name__)
    if pause_s is not None:
        await asyncio.sleep(pause_s)
