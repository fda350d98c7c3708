"""A process that was taken over, and says what it likes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from serve.decoding.sandbox import Sandbox
from tests.serve import hostile
from tests.serve.decoding.bench import SIZE, Bench, limits

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
