"""From a clip, video or still image, to the frames that are looked at."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from genconvit.config import SamplingSettings
from genconvit.data.clip import IMAGE_SUFFIXES
from genconvit.errors import ClipError

FORMATS = (
    "mov,matroska,webm,avi,mpeg,mpegvideo,mpegts,m4v,h264,hevc,obu,ivf,flv,asf,ogg,mxf,gif,mjpeg"
)
"""Of videos, by FFmpeg's names."""
# OpenCV reads both when it opens the first video. The lists keep a playlist that poses as a video
# from opening other files or addresses.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault(
    "OPENCV_FFMPEG_CAPTURE_OPTIONS",
    f"protocol_whitelist;file|format_whitelist;{FORMATS}",
)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
cv2.setNumThreads(1)  # processes run side by side; threads inside each only get in each other's way

MAX_PIXELS = 2**27
"""Larger frames (400 MB) are refused: no camera makes them, but a forged header claims them."""

FOLDER_FPS = 25
"""What a folder of frames, which does not say, is taken to have."""


@dataclass(frozen=True)
class Frame:
    """One decoded frame, upright."""

    index: int
    time_s: float
    image_HWC: NDArray[np.uint8]  # noqa: N815
    """RGB."""


def evenly_spaced(total: int, count: int) -> list[int]:
    """The middles of `count` equal parts of range(total), or all of a shorter one.

    Neither the first nor the last index is taken unless all are: clips often begin and end with a
    black frame.

    Args:
        total: Length of the range.
        count: How many are wanted.

    Returns:
        min(total, count) indices, distinct and ascending.
    """
    count = min(total, count)
    return [(2 * part + 1) * total // (2 * count) for part in range(count)]


def linspaced(total: int, count: int) -> list[int]:
    """`count` indices from the first of range(total) to its last, or all of a shorter one.

    Args:
        total: Length of the range.
        count: How many are wanted.

    Returns:
        min(total, count) indices, distinct and ascending.
    """
    count = min(total, count)
    return np.linspace(0, total - 1, count).astype(int).tolist() if count else []


def sample_frames(path: str | Path, sampling: SamplingSettings) -> Iterator[Frame]:
    """Decode a clip from its start and give the sampled frames, in order.

    Every frame is decoded and none is sought, because a seek lands on the wrong frame in some
    formats. A clip that breaks off gives what decodes. Whether a file is an image or a video is
    told by its content.

    The images of a folder are the frames of one clip, in natural order: 10.png comes after 9.png.
    Their index is their position, and their time is that at 25 frames a second. Broken ones are
    left out.

    Args:
        path: Video, folder of frames, or still image: a clip of one frame.
        sampling: Which frames. `frames` are evenly spaced, as `spacing` says, `frame_interval`
            begins with frame 0, and `max_frames` then keeps fewer evenly spaced ones, or the first
            ones.

    Yields:
        Frames; at least one.

    Raises:
        ClipError: The file is missing, empty, not a clip, or no frame of it can be decoded.
    """
    path = Path(path).absolute()  # an absolute path is never taken for an address
    if path.is_dir():
        yield from _sample_folder(path, sampling)
        return
    _refuse_missing_or_empty(path)
    if _is_image(path):
        yield Frame(0, 0.0, read_image(path))
        return
    wanted, last = _plan(sampling, count_frames(path))
    decoded, given = yield from _decode(path, wanted, last)
    if given == 0 and decoded > 0:
        # It broke off before the first wanted frame; now its true length is known.
        decoded, given = yield from _decode(path, *_plan(sampling, decoded))
    if given == 0:
        raise ClipError(f"no frame of {path} can be decoded; it is damaged or in an unknown format")


def check_clip(path: str | Path, open_it: bool = True) -> None:
    """Look whether a clip can be read, without decoding it.

    Args:
        path: What `sample_frames` takes. Of a folder the first frame is looked at.
        open_it: Read its header too, not only whether it is there and has content.

    Raises:
        ClipError: The clip is missing, empty, or opens neither as a video nor as an image.
    """
    path = Path(path).absolute()
    if path.is_dir():
        path = frames_of_folder(path)[0]
    _refuse_missing_or_empty(path)
    if not open_it or _is_image(path):
        return
    _open(path, [cv2.CAP_PROP_N_THREADS, 1]).release()


def frames_of_folder(folder: Path) -> list[Path]:
    """The images of a folder in natural order, without hidden ones; at least one.

    Raises:
        ClipError: There are none.
    """
    images = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if not images:
        raise ClipError(f"{folder} is not a file and holds no image; check the path", "empty")
    return sorted(images, key=_natural_order)


def read_image(path: Path) -> NDArray[np.uint8]:
    """A still image as (H, W, 3) RGB, 8 bits, turned upright as its EXIF data say.

    Raises:
        ClipError: It cannot be decoded.
    """
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error:  # what it says is about OpenCV's own limits
        image = None
    if image is None or image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise ClipError(f"image {path} cannot be decoded; it is damaged or too large")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def count_frames(path: Path) -> int:
    """Count the frames of a video by its packets, without decoding them.

    The count in the header is missing or wrong in streams without an index, in clips of varying
    frame rate and in truncated files. A pass over the packets takes milliseconds. It can count a
    few too many: broken packets, and frames that an edit list hides.

    Raises:
        ClipError: The file cannot be opened as a video.
    """
    packets = _open(path, [cv2.CAP_PROP_FORMAT, -1])
    count = 0
    while packets.grab():
        count += 1
    packets.release()
    return count


def _refuse_missing_or_empty(path: Path) -> None:
    if not path.is_file():
        raise ClipError(f"{path} is not a file; check the path", "missing")
    if path.stat().st_size == 0:
        raise ClipError(f"{path} is empty; copy it again", "empty")


def _is_image(path: Path) -> bool:
    """By its content. A GIF is a video: OpenCV's reader of images would give its first frame."""
    if not cv2.haveImageReader(str(path)):
        return False
    with path.open("rb") as file:
        return file.read(4) != b"GIF8"


def _natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Numbers in a name by their value; the name itself decides between 1.png and 01.png."""
    words = re.split(r"(\d+)", path.name)
    return [(int(word), "") if i % 2 else (0, word) for i, word in enumerate(words)], path.name


def _sample_folder(folder: Path, sampling: SamplingSettings) -> Iterator[Frame]:
    images = frames_of_folder(folder)
    wanted, last = _plan(sampling, len(images))
    given = 0
    for index, path in enumerate(images[: last + 1]):
        if wanted(index):
            try:
                image_HWC = read_image(path)
            except ClipError:  # of a video, too, broken frames are passed over
                continue
            yield Frame(index, index / FOLDER_FPS, image_HWC)
            given += 1
    if given == 0:
        raise ClipError(f"no frame of the folder {folder} can be decoded; its images are damaged")


def _plan(sampling: SamplingSettings, total: int) -> tuple[Callable[[int], bool], int]:
    """Whether a frame is wanted, and the index of the last that is."""
    cap = sampling.max_frames or total
    if sampling.frame_interval is not None:
        interval = sampling.frame_interval
        return lambda index: index % interval == 0, (cap - 1) * interval
    spaced = linspaced if sampling.spacing == "linspace" else evenly_spaced
    indices = spaced(total, min(sampling.frames or total, cap))
    return set(indices).__contains__, indices[-1] if indices else -1


def _decode(
    path: Path, wanted: Callable[[int], bool], last: int
) -> Generator[Frame, None, tuple[int, int]]:
    """Give the wanted frames up to `last`; return how many were decoded and how many given."""
    # Rotation in the metadata is applied by OpenCV unless it is told not to.
    capture = _open(path, [cv2.CAP_PROP_N_THREADS, 1])
    fps = capture.get(cv2.CAP_PROP_FPS)
    index, given, time_s = 0, 0, -1.0
    while index <= last and capture.grab():
        if wanted(index):
            ok, image_BGR = capture.retrieve()
            if ok:
                time_s = _time_s(capture, index, fps, time_s)
                yield Frame(index, time_s, cv2.cvtColor(image_BGR, cv2.COLOR_BGR2RGB))
                given += 1
        index += 1
    capture.release()
    return index, given


def _time_s(capture: cv2.VideoCapture, index: int, fps: float, previous_s: float) -> float:
    """The frame's time stamp, right at varying frame rates too, or its index where it has none.

    A raw stream has no time stamps at all (0 throughout) and AVI has none for some frames.
    """
    stamp_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    if stamp_s > previous_s and (stamp_s > 0 or index == 0):
        return stamp_s
    return max(index / fps if fps > 0 else 0.0, previous_s)


def _open(path: Path, params: list[int]) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, params)
    if not capture.isOpened():
        raise ClipError(
            f"{path} cannot be opened as a video; it is damaged or in an unknown format",
            "not a clip",
        )
    width, height = (capture.get(p) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > MAX_PIXELS:
        raise ClipError(
            f"frames of {path} have {width:.0f} x {height:.0f} pixels; scale it down", "too large"
        )
    return capture
