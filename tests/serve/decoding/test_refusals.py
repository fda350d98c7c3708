from __future__ import annotations

import time

import pytest

from serve.problems import ProblemError
from tests.serve import hostile
from tests.serve.decoding.bench import EVERY_FRAME, Bench, limits


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
