"""Finding what went wrong inside what Ray made of it."""

from __future__ import annotations

from genconvit.errors import UserError


def user_error_in(error: BaseException | None, depth: int = 8) -> UserError | None:
    """The `UserError` that a task, an actor or a worker raised; None where there is none."""
    if error is None or depth == 0:
        return None
    if isinstance(error, UserError):
        return error
    inner = [error.__cause__, getattr(error, "cause", None)]
    inner += list(getattr(error, "worker_failures", {}).values())
    for candidate in inner:
        if isinstance(candidate, BaseException):
            found = user_error_in(candidate, depth - 1)
            if found is not None:
                return found
    return None


def reason_of(error: BaseException) -> str:
    """Why something failed, in a line: the user's own error where there is one."""
    found = user_error_in(error)
    if found is not None:
        # What Ray raises for a task is of the user's class too, and its text a traceback.
        cause = getattr(found, "cause", None)
        return str(cause if isinstance(cause, UserError) else found)
    inner = list(getattr(error, "worker_failures", {}).values())
    cause = inner[0] if inner else getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    if "Traceback" in str(cause):
        return lines[-1]  # which names the error's class
    return ": ".join([type(cause).__name__, *lines[:1]])
