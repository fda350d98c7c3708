from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from genconvit.errors import ClipError
from genconvit.evaluate.robustness.h264 import encode_h264, missing_h264


@pytest.fixture(autouse=True)
def _ask_again() -> Iterator[None]:
    missing_h264.cache_clear()
    yield
    missing_h264.cache_clear()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """One second at 12 frames a second, of odd sides."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12, (97, 65))
    rng = np.random.default_rng(0)
    for _ in range(12):
        writer.write(cv2.resize(rng.integers(0, 255, (9, 13, 3), np.uint8), (97, 65)))
    writer.release()
    return path


def fake_ffmpeg(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a program called ffmpeg first on the PATH."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")


def test_a_missing_program_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing_h264() == "the program ffmpeg is not on the PATH"


def test_a_program_without_the_encoder_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ffmpeg(tmp_path, "echo ' V..... mpeg4'", monkeypatch)
    assert "has no encoder libx264" in missing_h264()


def test_a_clip_that_takes_too_long_is_given_up(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ffmpeg(tmp_path, "exec sleep 30", monkeypatch)
    with pytest.raises(ClipError, match=r"took ffmpeg more than 0.2 s"):
        encode_h264(clip, tmp_path / "out.mp4", 23, limit_s=0.2)


def test_what_the_program_says_last_is_the_reason(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ffmpeg(tmp_path, "echo first >&2; echo no such codec >&2; exit 1", monkeypatch)
    with pytest.raises(ClipError, match=r"\(no such codec\)"):
        encode_h264(clip, tmp_path / "out.mp4", 23)


def test_a_folder_of_frames_is_no_file_to_encode(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="folder of frames"):
        encode_h264(tmp_path, tmp_path / "out.mp4", 23)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg program on the PATH")
def test_a_clip_keeps_its_frames_and_rate_and_a_playlist_is_refused(
    clip: Path, tmp_path: Path
) -> None:
    sizes = []
    for crf in (18, 40):
        out = tmp_path / f"{crf}.mp4"
        encode_h264(clip, out, crf)
        video = cv2.VideoCapture(str(out))
        assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
        assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 12
        assert (video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (
            96,
            64,
        )
        sizes.append(out.stat().st_size)
    assert sizes[1] < sizes[0]
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXTINF:1,\n{clip}\n")
    with pytest.raises(ClipError, match="cannot encode"):
        encode_h264(playlist, tmp_path / "out.mp4", 23)
