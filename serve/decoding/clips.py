"""From an untrusted file to crops, within limits.

It runs in the process of `serve.decoding.decoder`.
"""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from genconvit.config import SamplingSettings
from genconvit.data.crops import Crop, CropCounts, decode_crop, iter_crops
from genconvit.data.detectors import build_face_detector
from genconvit.data.faces import Face, FaceDetector
from genconvit.errors import ClipError
from serve.decoding.sniff import image_size
from serve.decoding.wire import (
    CLIP_FD,
    CLIP_PATH,
    CROPS_A_PART,
    ClipRequest,
    CropsHeader,
    CropsRequest,
    Limits,
    PartHeader,
    Place,
)

MAX_CROP_SIDE = 1024
"""Pixels; what `preprocess.size` allows."""

PART_S = 1.0
"""So often a part is sent, full or not, so that a job's progress is seen."""

Send = Callable[[PartHeader | CropsHeader, Iterable[bytes]], None]


class TooLargeError(Exception):
    """A file exceeds a limit. The message is a sentence, as that of a ClipError."""


@dataclass
class _Length:
    """How much there is of a clip."""

    frames: int = 1
    duration_s: float | None = None


def send_clip(request: ClipRequest, send: Send) -> None:
    """Sends the crops of the clip at `CLIP_PATH` in parts.

    Raises:
        TooLargeError: The clip exceeds a limit.
        ClipError: It cannot be read.
    """
    limits = request.limits
    if request.medium == "image" or request.kind == "gif":
        with Path(CLIP_PATH).open("rb") as file:
            size = image_size(file)
        if size is not None:
            _refuse_many_pixels(*size, limits)
    length = measure(limits) if request.medium == "video" else _Length()
    wanted = count_wanted(request.sampling, length.frames)
    if wanted > limits.max_frames:
        raise TooLargeError(
            f"{wanted} frames of {CLIP_PATH} would be looked at, more than the "
            f"{limits.max_frames} that are allowed; ask for fewer"
        )
    parts = _Parts(request, length.duration_s, wanted, send)
    detector = _Watch(build_face_detector(request.preprocess), parts)
    crops = iter_crops(CLIP_PATH, request.preprocess, request.sampling, parts.counts, detector)
    for crop in crops:
        parts.add(crop)
    parts.flush(last=True)


def send_crops(request: CropsRequest, send: Send) -> None:
    """Sends the ready crops in the file at `CLIP_FD`, decoded.

    Raises:
        ClipError: One of them cannot be read, is not square or is too large.
    """
    start = 0
    images: list[NDArray[np.uint8]] = []
    for position, size in enumerate(request.sizes, 1):
        content = os.pread(CLIP_FD, size, start)
        start += size
        which = f"crop {position} of {len(request.sizes)}"
        _refuse_odd_crop(content, which)
        try:
            images.append(decode_crop(content, request.image_size))
        except (ClipError, cv2.error) as error:
            raise ClipError(f"{which} cannot be decoded; it is damaged") from error
        if len(images) == CROPS_A_PART or position == len(request.sizes):
            send(CropsHeader(count=len(images)), [image.tobytes() for image in images])
            images.clear()


def measure(limits: Limits) -> _Length:
    """Counts the frames of the video at `CLIP_PATH` and looks at their times, decoding none.

    Neither the count nor the duration in a header can be trusted; what is looked at is each packet.
    The duration is the longer one of two: by the time stamps, and by the frame rate.

    Raises:
        TooLargeError: Its frames are too large, or it is too long.
    """
    params = [cv2.CAP_PROP_FORMAT, -1, cv2.CAP_PROP_N_THREADS, 1]
    capture = cv2.VideoCapture(CLIP_PATH, cv2.CAP_FFMPEG, params)
    if not capture.isOpened():
        return _Length()  # who decodes it says why
    width, height = (capture.get(p) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    _refuse_many_pixels(int(width), int(height), limits)
    frames, first_s, last_s = 0, math.inf, -math.inf
    while capture.grab():
        frames += 1
        stamp_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        first_s, last_s = min(first_s, stamp_s), max(last_s, stamp_s)
    fps = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    if frames == 0:
        return _Length()
    frame_s = 1 / fps if math.isfinite(fps) and fps > 0 else 0.0
    by_stamps_s = last_s - first_s + frame_s
    duration_s = max(frames * frame_s, by_stamps_s if math.isfinite(by_stamps_s) else 0.0)
    if duration_s > limits.max_duration_s:
        raise TooLargeError(
            f"{CLIP_PATH} lasts {duration_s:.6g} s, longer than the {limits.max_duration_s:.6g} s "
            "that are allowed; send a shorter part of it"
        )
    return _Length(frames, duration_s)


def count_wanted(sampling: SamplingSettings, total: int) -> int:
    """How many of `total` frames are looked at."""
    wanted = total
    if sampling.frame_interval is not None:
        wanted = -(-total // sampling.frame_interval)
    return min(wanted, *(cap for cap in (sampling.frames, sampling.max_frames, total) if cap))


@dataclass
class _Parts:
    """Collects crops and sends them when they are enough, or after a while."""

    request: ClipRequest
    duration_s: float | None
    frames_total: int
    send: Send
    counts: CropCounts = field(default_factory=CropCounts)
    width: int = 0
    height: int = 0

    def __post_init__(self) -> None:
        self._crops: list[Crop] = []
        self._given = 0
        self._sent_at = time.monotonic()

    def add(self, crop: Crop) -> None:
        """The clip's next crop."""
        self._given += 1
        if self._given > self.request.limits.max_crops:
            raise TooLargeError(
                f"{CLIP_PATH} shows more than the {self.request.limits.max_crops} faces that are "
                "allowed; ask for fewer frames"
            )
        self._crops.append(crop)
        if len(self._crops) == CROPS_A_PART:
            self.flush()

    def begin_frame(self, image_HWC: NDArray[np.uint8]) -> None:
        """A frame was decoded; all crops of those before it are in."""
        height, width = image_HWC.shape[:2]
        _refuse_many_pixels(width, height, self.request.limits)  # the header may have lied
        if not self.width:
            self.width, self.height = width, height
        if time.monotonic() - self._sent_at > PART_S:
            self.flush()

    def flush(self, last: bool = False) -> None:
        """Sends what there is."""
        crops = self._crops
        header = PartHeader(
            places=[
                Place(
                    frame_index=crop.frame_index,
                    time_s=crop.time_s,
                    track=crop.track,
                    box=crop.box,
                    face_score=float(crop.face_score),
                )
                for crop in crops
            ],
            frames_sampled=self.counts.frames_sampled,
            frames_with_face=self.counts.frames_with_face,
            frames_total=max(self.frames_total, self.counts.frames_sampled),
            width=self.width,
            height=self.height,
            duration_s=self.duration_s,
            last=last,
        )
        size = self.request.image_size
        self.send(header, [decode_crop(crop.jpeg, size).tobytes() for crop in crops])
        self._crops = []
        self._sent_at = time.monotonic()


@dataclass
class _Watch:
    """A face detector that also tells of each frame before it looks for faces."""

    detector: FaceDetector
    parts: _Parts

    def detect(self, image_HWC: NDArray[np.uint8]) -> list[Face]:
        self.parts.begin_frame(image_HWC)
        return self.detector.detect(image_HWC)


def _refuse_many_pixels(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise TooLargeError(
            f"{CLIP_PATH} has {width} x {height} pixels, more than the {limits.max_pixels} that "
            "are allowed; scale it down"
        )


def _refuse_odd_crop(content: bytes, which: str) -> None:
    size = image_size(io.BytesIO(content))
    if size is None:
        raise ClipError(f"{which} cannot be read as an image; it is damaged")
    width, height = size
    if max(size) > MAX_CROP_SIDE:
        raise TooLargeError(
            f"{which} has {width} x {height} pixels; a crop has at most {MAX_CROP_SIDE} on a side"
        )
    if width != height:
        raise ClipError(
            f"{which} has {width} x {height} pixels; a crop is square, so send the whole image to "
            "/v1/detect or cut the face out",
            "not square",
        )
