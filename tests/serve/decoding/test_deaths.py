"""What ends the process ends one request."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from serve.decoding.conversation import Part
from serve.problems import ProblemError
from tests.serve import hostile
from tests.serve.decoding.bench import (
    EVERY_FRAME,
    LIMITS,
    MEMORY_MB,
    SAMPLING,
    SIZE,
    WHOLE,
    Bench,
    limits,
    slow,
)


def test_too_much_memory_fails_one_request(bench: Bench, mp4: bytes) -> None:
    many = limits(max_pixels=2**27)
    problem = bench.problem(hostile.png(9000, 4000), limits=many)
    assert problem.status == 422
    assert f"needs more than {MEMORY_MB} MB" in problem.detail
    assert bench.problem(hostile.png(11_000, 11_000), limits=many).status == 422
    assert bench.parts(mp4)[-1].last


def test_too_much_time_fails_one_request(bench: Bench, long_mp4: bytes, mp4: bytes) -> None:
    began = time.monotonic()
    problem = bench.problem(long_mp4, **slow(limits(time_s=0.2)))
    assert time.monotonic() - began < 5
    assert problem.status == 422
    assert "longer than 0.2 s" in problem.detail
    assert bench.parts(mp4)[-1].last


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_death_fails_one_request(
    bench: Bench, long_mp4: bytes, mp4: bytes, death: signal.Signals
) -> None:
    pid = bench.pid

    async def die() -> list[Part]:
        asyncio.get_running_loop().call_later(0.3, os.kill, pid, death)
        return await bench.all_parts(long_mp4, **slow())

    with pytest.raises(ProblemError) as caught:
        bench.run(die())
    assert caught.value.status == 422
    assert bench.parts(mp4)[-1].last
    assert bench.pid != pid


def test_a_death_between_requests_fails_none(bench: Bench, mp4: bytes) -> None:
    os.kill(bench.pid, signal.SIGKILL)
    time.sleep(0.2)
    assert bench.parts(mp4)[-1].last


def test_who_leaves_ends_the_work(bench: Bench, long_mp4: bytes, mp4: bytes) -> None:
    pid = bench.pid

    async def leave() -> list[Part]:
        task = asyncio.create_task(bench.all_parts(long_mp4, **slow()))
        waiting = asyncio.create_task(bench.all_parts(mp4))
        await asyncio.sleep(0.2)
        task.cancel()
        return await asyncio.wait_for(waiting, 20)

    assert bench.run(leave())[-1].last
    assert bench.pid != pid

    async def stop_early() -> None:
        clip = bench.sandbox.clip(
            long_mp4, "it", image_size=SIZE, preprocess=WHOLE, sampling=EVERY_FRAME, limits=LIMITS
        )
        async with aclosing(clip) as parts:
            async for part in parts:
                assert not part.last
                return

    bench.run(stop_early())
    assert bench.parts(mp4)[-1].last


def test_the_last_part_lets_the_next_request_in(bench: Bench, mp4: bytes) -> None:
    async def look_while_another_runs() -> None:
        clip = bench.sandbox.clip(
            mp4, "it", image_size=SIZE, preprocess=WHOLE, sampling=SAMPLING, limits=LIMITS
        )
        async with aclosing(clip) as parts:
            async for part in parts:
                assert part.last
                await asyncio.wait_for(bench.all_parts(mp4), 20)

    bench.run(look_while_another_runs())


def test_it_is_exchanged_after_some_requests(mp4: bytes) -> None:
    bench = Bench(exchange_after=3)
    pids = set()
    deadline = time.monotonic() + 30
    while len(pids) < 3 and time.monotonic() < deadline:
        pids.add(bench.pid)
        assert bench.parts(mp4)[-1].last
        bench.run(asyncio.sleep(0.02))
    bench.close()
    assert len(pids) == 3


def test_closing_ends_all_work(long_mp4: bytes) -> None:
    bench = Bench()
    child = Path("/proc", str(bench.pid))

    async def close_at_work() -> list[object]:
        working = asyncio.create_task(bench.all_parts(long_mp4, **slow()))
        waiting = asyncio.create_task(bench.all_parts(long_mp4))
        await asyncio.sleep(0.2)
        await bench.sandbox.close()
        return await asyncio.gather(working, waiting, return_exceptions=True)

    assert all(isinstance(outcome, ProblemError) for outcome in bench.run(close_at_work()))
    assert not child.exists()
    bench.close()


def test_it_dies_with_its_parent() -> None:
    script = (
        "import asyncio; from genconvit.config import PreprocessSettings; "
        "from serve.decoding.sandbox import Sandbox\n"
        "async def main():\n"
        "    s = Sandbox(PreprocessSettings(detector='none'), 400)\n"
        "    await s.start(); print(s._child._process.pid, flush=True); await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = Path("/proc", parent.stdout.readline().strip())
    assert "serve.decoding.decoder" in (child / "cmdline").read_text()
    os.kill(int(child.name), signal.SIGSTOP)  # it cannot notice by itself
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while child.exists() and "State:\tZ" not in (child / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
