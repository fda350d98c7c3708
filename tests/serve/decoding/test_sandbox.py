from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from genconvit.config import SamplingSettings
from genconvit.data.crops import decode_crop, extract_crops
from serve.decoding.child import NoChildError
from serve.decoding.sandbox import Sandbox
from tests.serve import hostile
from tests.serve.decoding.bench import EVERY_FRAME, FACES, SIZE, Bench

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
