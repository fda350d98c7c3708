from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from genconvit.config import SamplingSettings
from genconvit.data.video import count_frames, evenly_spaced, linspaced, sample_frames
from genconvit.errors import ClipError

ALL = SamplingSettings(frame_interval=1)


def numbered(index: int) -> NDArray[np.uint8]:
    """A frame that carries its index as ten black or white bars, which any codec keeps apart."""
    bits = [255 * (index >> bit & 1) for bit in range(10)]
    return np.repeat(np.array(bits, np.uint8), 16)[None, :, None] * np.ones((48, 1, 3), np.uint8)


def number(image_HWC: NDArray[np.uint8]) -> int:
    return sum(int(image_HWC[24, 16 * bit + 8].mean() > 127) << bit for bit in range(10))


def write(path: Path, frames: int, codec: str = "mp4v", make: Callable = numbered) -> Path:
    height, width = make(0).shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (width, height))
    for index in range(frames):
        writer.write(make(index))
    writer.release()
    return path


@given(total=st.integers(0, 5000), count=st.integers(1, 300))
def test_evenly_spaced_indices(total: int, count: int) -> None:
    indices = evenly_spaced(total, count)
    assert len(indices) == min(total, count)
    assert indices == sorted(set(indices))
    assert all(0 <= index < total for index in indices)
    steps = set(np.diff(indices).tolist())
    assert not steps or max(steps) - min(steps) <= 1


def test_evenly_spaced_takes_the_middle_of_each_part() -> None:
    assert evenly_spaced(100, 1) == [50]
    assert evenly_spaced(100, 4) == [12, 37, 62, 87]
    assert evenly_spaced(3, 8) == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "mp4v")]
)
def test_the_right_frames_come_out(tmp_path: Path, name: str, codec: str) -> None:
    clip = write(tmp_path / name, 75, codec)
    frames = list(sample_frames(clip, SamplingSettings(frames=8)))
    assert [frame.index for frame in frames] == evenly_spaced(75, 8)
    assert [number(frame.image_HWC) for frame in frames] == evenly_spaced(75, 8)
    assert [frame.time_s for frame in frames] == pytest.approx(
        [index / 10 for index in evenly_spaced(75, 8)], abs=0.002
    )


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (SamplingSettings(frame_interval=10), [0, 10, 20]),
        (SamplingSettings(frame_interval=10, max_frames=2), [0, 10]),
        (SamplingSettings(frames=1000), list(range(25))),
        (SamplingSettings(frames=32, max_frames=5), [2, 7, 12, 17, 22]),
        (SamplingSettings(frames=1), [12]),
    ],
)
def test_sampling(tmp_path: Path, sampling: SamplingSettings, expected: list[int]) -> None:
    frames = list(sample_frames(write(tmp_path / "a.mp4", 25), sampling))
    assert [frame.index for frame in frames] == expected
    assert [number(frame.image_HWC) for frame in frames] == expected


def test_one_frame_clip(tmp_path: Path) -> None:
    (frame,) = sample_frames(write(tmp_path / "a.mp4", 1), SamplingSettings())
    assert (frame.index, frame.time_s) == (0, 0.0)


def test_colours_are_rgb(tmp_path: Path) -> None:
    def red(_: int) -> NDArray[np.uint8]:
        return np.full((48, 64, 3), (0, 0, 255), np.uint8)

    clip = write(tmp_path / "a.mp4", 3, make=red)
    photo = tmp_path / "a.png"
    cv2.imwrite(str(photo), red(0))
    for path in (clip, photo):
        for frame in sample_frames(path, ALL):
            r, g, b = frame.image_HWC.reshape(-1, 3).mean(0)
            assert r > 200
            assert max(g, b) < 50


def test_portrait_clip_is_turned_upright(tmp_path: Path) -> None:
    def left_white(_: int) -> NDArray[np.uint8]:
        image = np.zeros((48, 96, 3), np.uint8)
        image[:, :48] = 255
        return image

    clip = write(tmp_path / "a.mp4", 5, make=left_white)
    # The track header's matrix, as a phone held upright writes it: turn by 90 degrees clockwise.
    matrix = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    data = bytearray(clip.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = matrix
    clip.write_bytes(data)
    image = next(iter(sample_frames(clip, ALL))).image_HWC
    assert image.shape == (96, 48, 3)
    assert image[:40].mean() > 200
    assert image[56:].mean() < 50


def test_cut_off_clip_gives_what_decodes(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.avi", 60, "MJPG").read_bytes()
    clip = tmp_path / "cut.avi"
    clip.write_bytes(whole[: len(whole) // 2])
    frames = list(sample_frames(clip, SamplingSettings(frames=8)))
    assert 7 <= len(frames) <= 8
    assert [number(frame.image_HWC) for frame in frames] == [frame.index for frame in frames]
    assert 20 <= frames[-1].index < 32


def test_count_ignores_what_the_header_claims(tmp_path: Path) -> None:
    clip = write(tmp_path / "a.avi", 60, "MJPG")
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    claimed = cv2.VideoCapture(str(clip)).get(cv2.CAP_PROP_FRAME_COUNT)
    assert count_frames(clip) < 40 < claimed


def test_mp4_without_its_index_is_refused(tmp_path: Path) -> None:
    clip = write(tmp_path / "a.mp4", 60)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(ClipError, match="cannot be opened"):
        next(sample_frames(clip, ALL))


@pytest.mark.parametrize("name", ["a.mp4", "a.jpg", "a"])
@pytest.mark.parametrize("content", [b"", b"no video", b"\xff\xd8\xff\xe0 no image", bytes(9999)])
def test_what_is_no_clip_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ClipError, match=name):
        next(sample_frames(tmp_path / name, ALL))


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.mp4", tmp_path):
        with pytest.raises(ClipError, match="not a file"):
            next(sample_frames(path, ALL))


def test_playlist_cannot_open_other_files(tmp_path: Path) -> None:
    write(tmp_path / "secret.mp4", 5)
    playlist = tmp_path / "upload.mp4"
    playlist.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(ClipError, match="cannot be opened"):
        next(sample_frames(playlist, ALL))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_image_is_a_clip_of_one_frame(tmp_path: Path, suffix: str) -> None:
    cv2.imwrite(str(tmp_path / f"a{suffix}"), numbered(341))
    (frame,) = sample_frames(tmp_path / f"a{suffix}", SamplingSettings())
    assert (frame.index, frame.time_s) == (0, 0.0)
    assert number(frame.image_HWC) == 341


def test_image_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    image = np.zeros((48, 96, 3), np.uint8)
    image[:, :48] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it 90 degrees clockwise
    Image.fromarray(image).save(tmp_path / "a.jpg", exif=exif)
    (frame,) = sample_frames(tmp_path / "a.jpg", ALL)
    assert frame.image_HWC.shape == (96, 48, 3)
    assert frame.image_HWC[:40].mean() > 200


def test_content_counts_more_than_the_name(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), numbered(7))
    image = (tmp_path / "a.jpg").rename(tmp_path / "a.mp4")
    video = write(tmp_path / "b.mp4", 4).rename(tmp_path / "b.png")
    assert [number(frame.image_HWC) for frame in sample_frames(image, ALL)] == [7]
    assert [number(frame.image_HWC) for frame in sample_frames(video, ALL)] == [0, 1, 2, 3]


def test_mpeg1_gives_the_frames_of_a_sequential_decode(shared: Path) -> None:
    clip = shared / "data/edge/mpeg1.mpg"
    capture = cv2.VideoCapture(str(clip))
    decoded = []
    while (read := capture.read())[0]:
        decoded.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    frames = list(sample_frames(clip, SamplingSettings(frames=9)))
    assert [frame.index for frame in frames] == evenly_spaced(len(decoded), 9)
    for frame in frames:
        np.testing.assert_array_equal(frame.image_HWC, decoded[frame.index])


@pytest.mark.parametrize("name", ["edge/mpeg1.mpg", "videos/train/real/vox1__tpsmm_driving.mp4"])
def test_cut_off_real_clip_gives_what_decodes(shared: Path, tmp_path: Path, name: str) -> None:
    whole = shared / "data" / name
    clip = tmp_path / whole.name
    clip.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    frames = list(sample_frames(clip, SamplingSettings(frames=8)))
    assert 7 <= len(frames) <= 8
    assert frames[-1].index < 0.8 * count_frames(whole)


@given(st.integers(1, 3000), st.integers(1, 64))
def test_linspaced_is_numpys_from_end_to_end(total: int, count: int) -> None:
    indices = linspaced(total, count)
    assert indices == sorted(set(indices))
    assert len(indices) == min(total, count)
    assert indices[0] == 0
    if count > 1:
        assert indices[-1] == total - 1
    if count <= total:
        assert indices == np.linspace(0, total - 1, count).astype(int).tolist()


def test_published_sampling_takes_the_first_and_the_last_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 30)
    frames = list(sample_frames(path, SamplingSettings(frames=15, spacing="linspace")))
    assert len(frames) == 15
    assert [number(frames[end].image_HWC) for end in (0, -1)] == [0, 29]
