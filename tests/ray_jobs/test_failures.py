from __future__ import annotations

from genconvit.errors import ClipError, UserError
from ray_jobs.failures import reason_of, user_error_in


class _TaskError(Exception):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class _GroupError(Exception):
    def __init__(self, failures: dict[int, Exception]) -> None:
        self.worker_failures = failures


def test_a_users_mistake_is_found_inside_what_ray_wraps_around_it() -> None:
    mistake = ClipError("a.mp4 is empty")
    outer = RuntimeError("job failed")
    outer.__cause__ = _GroupError({0: ValueError("other"), 1: _TaskError(mistake)})
    assert user_error_in(outer) is mistake


def test_a_bug_is_no_users_mistake() -> None:
    assert user_error_in(_TaskError(ValueError("bug"))) is None
    assert user_error_in(UserError("x")) is not None


def test_errors_that_go_in_a_circle_end() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert user_error_in(first) is None


def test_the_reason_is_a_line_that_says_what_happened() -> None:
    oom = RuntimeError("CUDA out of memory. Tried\n to allocate 2 GiB")
    assert reason_of(_GroupError({1: oom})) == "RuntimeError: CUDA out of memory. Tried"
    assert reason_of(_TaskError(UserError("a.mp4 is empty."))) == "a.mp4 is empty."
    assert reason_of(ValueError()) == "ValueError"
