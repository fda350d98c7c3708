from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serve.problems import ProblemError
from serve.scoring.together import Together


def test_a_lone_question_waits_for_nobody_and_those_of_a_turn_go_together() -> None:
    calls = []

    async def ask(some: list[int]) -> list[int | Exception]:
        calls.append(some)
        await asyncio.sleep(0.02)
        return [10 * one for one in some]

    async def talk() -> list[int]:
        together: Together[int, int] = Together(ask, size=3, calls=2)
        first = asyncio.create_task(together(1))
        await asyncio.sleep(0.01)
        assert calls == [[1]]
        rest = await asyncio.gather(*(together(n) for n in range(2, 10)))
        return [await first, *rest]

    assert asyncio.run(talk()) == [10 * n for n in range(1, 10)]
    # The second call takes what is there; the others wait for room and then go together.
    assert calls == [[1], [2, 3, 4], [5, 6, 7], [8, 9]]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(1, 3))
def test_calls_hold_what_fits_in_the_order_in_which_it_came(weights: list[int], calls: int) -> None:
    asked: list[list[int]] = []

    async def ask(some: list[int]) -> list[int | Exception]:
        asked.append([weights[place] for place in some])
        await asyncio.sleep(0)
        return list(some)

    async def talk() -> list[int]:
        together: Together[int, int] = Together(ask, 10, calls, weigh=lambda place: weights[place])
        return await asyncio.gather(*(together(place) for place in range(len(weights))))

    assert asyncio.run(talk()) == list(range(len(weights)))
    assert [weight for call in asked for weight in call] == weights
    assert all(sum(call) <= 10 or len(call) == 1 for call in asked)
    for call, following in pairwise(asked):
        assert sum(call) + following[0] > 10  # no call without need


def test_one_that_is_refused_or_leaves_does_not_take_the_others_with_it() -> None:
    async def ask(some: list[str]) -> list[str | Exception]:
        await asyncio.sleep(0.02)
        return [ValueError(one) if one == "bad" else one for one in some]

    async def talk() -> list[Any]:
        together: Together[str, str] = Together(ask, size=8)
        tasks = [asyncio.create_task(together(one)) for one in ("good", "bad", "gone", "late")]
        await asyncio.sleep(0.01)
        tasks[2].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    good, bad, gone, late = asyncio.run(talk())
    assert (good, late) == ("good", "late")
    assert isinstance(bad, ValueError)
    assert isinstance(gone, asyncio.CancelledError)


def test_who_has_left_takes_no_place_in_a_call() -> None:
    calls = []

    async def ask(some: list[int]) -> list[int | Exception]:
        calls.append(some)
        await asyncio.sleep(0.02)
        return list(some)

    async def talk() -> None:
        together: Together[int, int] = Together(ask, size=2, calls=1)
        tasks = [asyncio.create_task(together(0))]
        await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(together(one)) for one in (1, 2, 3, 4)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(talk())
    assert calls == [[0], [2, 3], [4]]


def test_all_are_told_when_the_call_itself_fails() -> None:
    async def ask(some: list[str]) -> list[str | Exception]:
        raise ProblemError(503, "no process has room.", "overload", 2)

    async def talk() -> list[Any]:
        together: Together[str, str] = Together(ask, size=8)
        return await asyncio.gather(together("a"), together("b"), return_exceptions=True)

    assert [error.status for error in asyncio.run(talk())] == [503, 503]
