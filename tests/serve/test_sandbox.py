from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genconvit.config import PreprocessSettings, SamplingSettings, ServeSettings
from genconvit.data.crops import decode_crop, extract_crops
from serve.child import NoChildError
from serve.conversation import Part
from serve.problems import ProblemError
from serve.sandbox import Sandbox
from serve.wire import Limits
from tests.serve import hostile

SIZE = 64
MEMORY_MB = 400
FACES = PreprocessSettings(size=SIZE)
WHOLE = PreprocessSettings(size=SIZE, detector="none")
SAMPLING = SamplingSettings(frames=4)
EVERY_FRAME = SamplingSettings(frame_interval=1)
LIMITS = Limits.of(ServeSettings(max_pixels=4_000_000, max_frames=10_000))


class Bench:
    """A sandbox and the loop that it lives in."""

    def __init__(self, kind: type[Sandbox] = Sandbox, **settings: Any) -> None:
        self.runner = asyncio.Runner()
        self.run = self.runner.run
        self.sandbox = self.run(self._make(kind, settings))

    async def _make(self, kind: type[Sandbox], settings: dict[str, Any]) -> Sandbox:
        return kind(WHOLE, settings.pop("memory_mb", MEMORY_MB), **settings)

    def parts(self, content: bytes, **changes: Any) -> list[Part]:
        return self.run(self.all_parts(content, **changes))

    async def all_parts(self, content: bytes, **changes: Any) -> list[Part]:
        asked = {"preprocess": WHOLE, "sampling": SAMPLING, "image_size": SIZE, "limits": LIMITS}
        async with aclosing(self.sandbox.clip(content, "it.mp4", **asked | changes)) as parts:
            return [part async for part in parts]

    def problem(self, content: bytes, **changes: Any) -> ProblemError:
        with pytest.raises(ProblemError) as caught:
            self.parts(content, **changes)
        assert "/proc" not in caught.value.detail
        assert caught.value.detail.endswith(".")
        return caught.value

    def crops(self, contents: list[bytes], limits: Limits = LIMITS) -> np.ndarray:
        return self.run(self.sandbox.crops(contents, image_size=SIZE, limits=limits))

    def outcome(self, content: bytes, *, as_crop: bool = False, **changes: Any) -> str:
        try:
            if as_crop:
                assert self.crops([content], changes["limits"]).shape == (1, SIZE, SIZE, 3)
            else:
                assert self.parts(content, **changes)[-1].last
        except ProblemError as problem:
            return f"{problem.status} {problem.reason}"
        return "a result"

    @property
    def pid(self) -> int:
        self.run(self.sandbox.start())
        assert self.sandbox._child is not None
        return self.sandbox._child._process.pid

    def close(self) -> None:
        self.run(self.sandbox.close())
        assert self.sandbox._child is None
        self.runner.close()


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return hostile.video(tmp_path_factory.mktemp("mp4"), "mp4", "mp4v")


@pytest.fixture(scope="module")
def long_mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Takes seconds to decode when every frame is looked at."""
    folder = tmp_path_factory.mktemp("long")
    return hostile.video(folder, "mp4", "mp4v", frames=300, side=480)


def slow(limits: Limits = LIMITS) -> dict[str, Any]:
    return {"preprocess": FACES, "sampling": EVERY_FRAME, "limits": limits}


def limits(**changes: Any) -> Limits:
    return LIMITS.model_copy(update=changes)


# What it gives


@pytest.mark.parametrize("which", [0, 5])
def test_crops_are_those_of_the_library(bench: Bench, clips: Path, which: int) -> None:
    clip = sorted(clips.parent.glob("test/*/*"))[which]
    sampling = SamplingSettings(frames=40)
    parts = bench.parts(clip.read_bytes(), preprocess=FACES, sampling=sampling, image_size=96)
    expected = extract_crops(clip, FACES, sampling)
    assert expected.crops
    np.testing.assert_array_equal(
        np.concatenate([part.crops_NHWC for part in parts]),
        np.stack([decode_crop(crop.jpeg, 96) for crop in expected.crops]),
    )
    assert [
        (p.frame_index, p.time_s, p.track, p.box, p.face_score)
        for part in parts
        for p in part.places
    ] == [(c.frame_index, c.time_s, c.track, c.box, c.face_score) for c in expected.crops]
    assert parts[-1].last
    assert parts[-1].frames_sampled == expected.frames_sampled
    assert parts[-1].frames_with_face == expected.frames_with_face


def test_it_tells_of_the_clip(bench: Bench, mp4: bytes) -> None:
    part = bench.parts(mp4)[-1]
    assert (part.width, part.height, part.frames_total) == (96, 96, 4)
    assert part.duration_s == pytest.approx(12 / 25)
    image = bench.parts(hostile.image("png"))[-1]
    assert (image.width, image.height, image.duration_s) == (96, 64, None)


def test_parts_come_while_it_decodes(bench: Bench, long_mp4: bytes) -> None:
    parts = bench.parts(long_mp4, sampling=EVERY_FRAME)
    assert sum(len(part.places) for part in parts) == 300
    sampled = [part.frames_sampled for part in parts]
    assert len(parts) > 5 and sampled == sorted(sampled)
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]


def test_a_gif_gives_its_frames(bench: Bench) -> None:
    assert len(bench.parts(hostile.gif(6))[-1].places) == 4


def test_a_polyglot_is_its_picture(bench: Bench) -> None:
    picture = hostile.image("jpg")
    part = bench.parts(picture + hostile.zip_bomb())[-1]
    np.testing.assert_array_equal(part.crops_NHWC, bench.parts(picture)[-1].crops_NHWC)


def test_ready_crops_come_back_in_order(bench: Bench) -> None:
    contents = [hostile.image("png", side, side) for side in (SIZE, 32, 100, *[SIZE] * 40)]
    np.testing.assert_array_equal(
        bench.crops(contents), np.stack([decode_crop(content, SIZE) for content in contents])
    )
    assert bench.crops([]).shape == (0, SIZE, SIZE, 3)


# What it refuses


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (413, hostile.png(50_000, 50_000)),
        (413, hostile.png(20_000, 20_000)),
        (413, hostile.jpeg_that_claims(20_000, 20_000)),
        (413, hostile.gif_that_claims(65_535, 65_535)),
        (422, b""),
        (422, b"\xff\xd8\xff\xe0 and nothing of a JPEG"),
        (415, hostile.zip_bomb()),
        *((415, content) for content in hostile.NO_MEDIA.values()),
    ],
)
def test_hostile_files_are_refused_at_once(bench: Bench, status: int, content: bytes) -> None:
    pid = bench.pid
    began = time.monotonic()
    assert bench.problem(content).status == status
    assert time.monotonic() - began < 5
    assert bench.pid == pid


def test_forged_durations_are_refused_or_ignored(bench: Bench, mp4: bytes) -> None:
    # A header that claims a day is not believed ...
    for box in (b"mvhd", b"mdhd"):
        assert len(bench.parts(hostile.forged(mp4, box, 16, 2**31 - 1))[-1].places) == 4
    # ... but frames that last minutes are: by their duration, or by a clock of one tick a second.
    for forged in (hostile.forged(mp4, b"stts", 12, 2**24), hostile.forged(mp4, b"mdhd", 12, 1)):
        problem = bench.problem(forged)
        assert problem.status == 413
        assert "longer than the 300 s" in problem.detail
    # What makes no sense at all is not waited for.
    for value in (0, 2**30, 2**32 - 1):
        for box in (b"stts", b"mdhd", b"mvhd", b"elst"):
            outcome = bench.outcome(hostile.forged(mp4, box, 12, value))
            assert outcome == "a result" or outcome[:3] in ("413", "422")
            assert "time" not in outcome


def test_ten_thousand_streams_end_soon(bench: Bench, mp4: bytes) -> None:
    began = time.monotonic()
    assert bench.problem(hostile.with_tracks(mp4, 10_000)).status == 422
    assert time.monotonic() - began < 10
    bench.parts(mp4)


def test_a_playlist_behind_a_video_head_opens_nothing(bench: Bench) -> None:
    for head in (b"\x00\x00\x00\x08free", b"OggS", b"FLV\x01"):
        for playlist in ("hls", "concat", "sdp"):
            problem = bench.problem(head + b"\n" + hostile.NO_MEDIA[playlist])
            assert problem.status == 422
            assert "root:" not in problem.detail


def test_truncated_files_give_a_result_or_a_sentence(bench: Bench, mp4: bytes) -> None:
    for content in (mp4, hostile.gif(), hostile.image("png"), hostile.image("webp")):
        for share in (0.1, 0.5, 0.9, 0.99):
            cut = content[: int(share * len(content))]
            assert bench.outcome(cut) in ("a result", "422 damaged", "422 not a clip")


def test_limits_of_a_request(bench: Bench, long_mp4: bytes) -> None:
    for change, sentence in {
        "max_pixels": "480 x 480 pixels, more than the 100000",
        "max_duration_s": "lasts 12 s, longer than the 5 s",
        "max_frames": "300 frames of it.mp4 would be looked at, more than the 10",
        "max_crops": "more than the 10 faces",
    }.items():
        value = {"max_pixels": 100_000, "max_duration_s": 5.0}.get(change, 10)
        problem = bench.problem(long_mp4, sampling=EVERY_FRAME, limits=limits(**{change: value}))
        assert problem.status == 413
        assert sentence in problem.detail


@pytest.mark.parametrize(
    ("content", "status", "sentence"),
    [
        (hostile.image("png", 64, 32), 422, "crop 2 of 2 has 64 x 32 pixels; a crop is square"),
        (hostile.png(2000, 2000), 413, "crop 2 of 2 has 2000 x 2000 pixels"),
        (hostile.image("png", 64, 64)[:200], 422, "crop 2 of 2 cannot be"),
        (hostile.NO_MEDIA["svg"], 415, "crop 2 of 2 is no JPEG"),
        (hostile.gif(), 415, "crop 2 of 2 is no JPEG"),
    ],
)
def test_a_bad_crop_is_named(bench: Bench, content: bytes, status: int, sentence: str) -> None:
    with pytest.raises(ProblemError, match=sentence) as caught:
        bench.crops([hostile.image("png", 64, 64), content])
    assert caught.value.status == status


def test_too_many_crops_are_refused(bench: Bench) -> None:
    with pytest.raises(ProblemError, match="11 crops"):
        bench.crops([hostile.image("png", 64, 64)] * 11, limits(max_crops=10))


# What ends the process ends one request


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
        "from serve.sandbox import Sandbox\n"
        "async def main():\n"
        "    s = Sandbox(PreprocessSettings(detector='none'), 400)\n"
        "    await s.start(); print(s._child._process.pid, flush=True); await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = Path("/proc", parent.stdout.readline().strip())
    assert "serve.decoder" in (child / "cmdline").read_text()
    os.kill(int(child.name), signal.SIGSTOP)  # it cannot notice by itself
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while child.exists() and "State:\tZ" not in (child / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# What the process is


def test_it_is_small_and_knows_no_secrets(
    bench: Bench, mp4: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abc")
    os.kill(bench.pid, signal.SIGKILL)
    time.sleep(0.2)
    proc = Path("/proc", str(bench.pid))
    assert "AWS" not in (proc / "environ").read_text()
    mapped = (proc / "maps").read_text()
    assert "torch" not in mapped
    assert "_raylet" not in mapped
    # Bytes of a clip are gone when it is answered.
    bench.parts(mp4)
    time.sleep(0.1)
    assert not [f for f in (proc / "fd").iterdir() if "memfd" in str(f.readlink())]


def test_what_does_not_start_says_so() -> None:
    class Broken(Sandbox):
        command = (sys.executable, "-c", "raise SystemExit(3)")

    bench = Bench(Broken)
    with pytest.raises(NoChildError, match="does not start"):
        bench.run(bench.sandbox.start())
    problem = bench.problem(hostile.image("png"))
    assert (problem.status, problem.retry_after_s) == (503, 5)
    bench.close()


LIAR = """
import socket, sys, time
parent = socket.socket(fileno=0)
socket.recv_fds(parent, 1, 2)
ready = b'{"answer":"ready"}'
parent.sendall(len(ready).to_bytes(4, "big") + ready)
socket.recv_fds(parent, 1, 2)
parent.sendall(open(sys.argv[1], "rb").read())
if len(sys.argv) > 2:
    time.sleep(60)
"""


def framed(header: str | bytes, payload: bytes = b"") -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return len(text).to_bytes(4, "big") + text + payload


PLACE = '{"frame_index":0,"time_s":0.0,"track":0,"box":[0,0,1,1],"face_score":1.0}'


def part_header(places: list[str], **changes: str) -> str:
    values = {
        "answer": '"part"',
        "places": f"[{','.join(places)}]",
        **dict.fromkeys(["frames_sampled", "frames_with_face", "frames_total"], "0"),
        "width": "0",
        "height": "0",
        "duration_s": "null",
        "last": "true",
    }
    return "{" + ",".join(f'"{k}":{v}' for k, v in (values | changes).items()) + "}"


PIXELS = bytes(SIZE * SIZE * 3)
LIES = {
    "nothing": b"",
    "huge header": b"\xff\xff\xff\xff" + bytes(1000),
    "no JSON": framed(b"\x80\x04\x95cos\nsystem\n(S'echo hi'\ntR."),
    "no answer": framed("[1, 2]"),
    "unknown answer": framed('{"answer":"run","code":"1"}'),
    "ready again": framed('{"answer":"ready"}'),
    "crops instead": framed('{"answer":"crops","count":1}', PIXELS),
    "a field more": framed(part_header([], cmd='"x"')),
    "no number": framed(part_header([PLACE.replace("0.0", "NaN")], last="true"), PIXELS),
    "huge number": framed(part_header([], width="1e999")),
    "negative": framed(part_header([], frames_total="-1")),
    "text for a number": framed(part_header([], frames_total='"1"')),
    "many places": framed(part_header([PLACE] * 33), PIXELS * 33),
    "few pixels": framed(part_header([PLACE]), PIXELS[:-1]),
    "more crops than allowed": framed(part_header([PLACE] * 20, last="false"), PIXELS * 20) * 2,
    "odd refusal": framed(
        '{"answer":"refusal","cause":"unreadable","kind":"<b>","detail":"x"}',
    ),
}


@pytest.mark.parametrize("lie", sorted(LIES))
def test_lies_never_reach_the_parent(lie: str, tmp_path: Path) -> None:
    (tmp_path / "lie").write_bytes(LIES[lie])

    class Lying(Sandbox):
        command: ClassVar = (sys.executable, "-S", "-c", LIAR, str(tmp_path / "lie"))

    bench = Bench(Lying)
    problem = bench.problem(hostile.image("png"), limits=limits(max_crops=30))
    assert problem.status == 422
    assert problem.reason == "broken"
    bench.close()


def test_silence_ends_with_the_time() -> None:
    class Silent(Sandbox):
        command: ClassVar = (sys.executable, "-S", "-c", LIAR, os.devnull, "stay")

    bench = Bench(Silent)
    assert bench.problem(hostile.image("png"), limits=limits(time_s=0.3)).reason == "time"
    bench.close()


# Whatever comes


IMAGES = [hostile.image(suffix, SIZE, SIZE) for suffix in ("jpg", "png", "webp", "bmp")]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    formats = [("mp4", "mp4v"), ("avi", "MJPG"), ("mkv", "mp4v"), ("webm", "VP80"), ("ts", "mpg2")]
    formats += [("flv", "FLV1"), ("wmv", "WMV2")]
    folder = tmp_path_factory.mktemp("seeds")
    videos = [hostile.video(folder, *names) for names in formats]
    return [*videos, hostile.gif(), *IMAGES]


def test_mutated_files_give_a_result_or_a_sentence(bench: Bench, seeds: list[bytes]) -> None:
    quick = limits(time_s=5.0)
    files, _ = usage()
    outcomes: Counter[str] = Counter()

    def judge(content: bytes, as_crop: bool) -> None:
        outcome = bench.outcome(content, as_crop=as_crop, preprocess=FACES, limits=quick)
        outcomes[outcome] += 1
        assert outcome == "a result" or outcome[:3] in ("413", "415", "422")

    examples = int(os.environ.get("GENCONVIT_FUZZ", "200"))
    for share, files_of, as_crop in ((0.8, seeds, False), (0.2, IMAGES, True)):
        mutated = given(hostile.mutations(files_of), st.just(as_crop))(judge)
        settings(max_examples=int(share * examples), database=None)(mutated)()
    sys.stdout.write(f"{outcomes}\n")  # seen with pytest -rP
    assert usage()[0] <= files + 2
    assert bench.parts(seeds[0])[-1].last


def test_nothing_piles_up_in_the_parent(bench: Bench, seeds: list[bytes]) -> None:
    def a_round() -> tuple[int, float]:
        for content in [*seeds, hostile.png(20_000, 20_000), hostile.NO_MEDIA["svg"]]:
            bench.outcome(content)
        return usage()

    files, memory_mb = [a_round() for _ in range(3)][-1]
    for _ in range(8):
        files_now, memory_now_mb = a_round()
    assert files_now <= files + 2
    assert memory_now_mb < memory_mb + 20


def usage() -> tuple[int, float]:
    """Open files and resident memory, MB, of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return sum(1 for _ in Path("/proc/self/fd").iterdir()), pages * os.sysconf("SC_PAGE_SIZE") / 1e6
