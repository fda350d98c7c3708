"""The one path from a clip to face crops, taken by extraction, evaluation, prediction and serving
alike."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from genconvit.config import PreprocessSettings, SamplingSettings
from genconvit.data.align import border_to_turn, eye_angle, turned_middle
from genconvit.data.detectors import build_face_detector
from genconvit.data.faces import Face, FaceDetector
from genconvit.data.quality import fault
from genconvit.data.tracks import Tracker
from genconvit.data.video import Frame, sample_frames
from genconvit.errors import ClipError


@dataclass(frozen=True)
class Crop:
    """One face of one frame, ready to be stored."""

    jpeg: bytes
    frame_index: int
    time_s: float
    track: int
    box: tuple[int, int, int, int]
    """The face x0, y0, x1, y1 in pixels of the frame, without margin, clipped to the frame."""
    face_score: float


@dataclass
class CropCounts:
    """What was seen of a clip on the way to its crops; right at any moment of the way."""

    frames_sampled: int = 0
    frames_with_face: int = 0
    """Frames in which the detector found a face, whether a filter removed it or not."""
    removed: dict[str, int] = field(default_factory=dict)
    """How many crops a filter removed, by reason."""


@dataclass(frozen=True)
class ClipCrops:
    """All crops of a clip, ordered by frame, then track."""

    crops: list[Crop]
    frames_sampled: int
    frames_with_face: int
    removed: dict[str, int] = field(default_factory=dict)
    """How many crops a filter removed, by reason."""


def extract_crops(
    path: str | Path,
    preprocess: PreprocessSettings,
    sampling: SamplingSettings,
    detector: FaceDetector | None = None,
) -> ClipCrops:
    """Crop every face of the sampled frames of a clip: all of `iter_crops` at once.

    Args:
        path: Video or still image.
        preprocess: From a frame to a crop.
        sampling: Which frames.
        detector: Used instead of the one that `preprocess` names, which is built once a process.

    Returns:
        The crops; none where no face is found.

    Raises:
        ClipError: The clip cannot be decoded.
    """
    counts = CropCounts()
    crops = list(iter_crops(path, preprocess, sampling, counts, detector))
    return ClipCrops(crops, counts.frames_sampled, counts.frames_with_face, counts.removed)


def iter_crops(
    path: str | Path,
    preprocess: PreprocessSettings,
    sampling: SamplingSettings,
    counts: CropCounts,
    detector: FaceDetector | None = None,
    retouch: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
) -> Iterator[Crop]:
    """Crop every face of the sampled frames of a clip, one after the other.

    Nothing of a clip is kept but the frame at hand, so that memory does not grow with its length.

    Args:
        path: Video or still image.
        preprocess: From a frame to a crop.
        sampling: Which frames.
        counts: Filled on the way.
        detector: Used instead of the one that `preprocess` names, which is built once a process.
        retouch: Changes each RGB crop before it is compressed, as real and fake crops both are
            once.

    Yields:
        The crops, ordered by frame, then track.

    Raises:
        ClipError: The clip cannot be decoded.
    """
    detector = detector or build_face_detector(preprocess)
    cutter = FaceCutter(preprocess, counts, retouch)
    for frame in sample_frames(path, sampling):
        yield from cutter.cut(frame, detector.detect(frame.image_HWC))


class FaceCutter:
    """Cuts the faces out of the frames of one clip, which are given in order.

    Args:
        preprocess: From a frame to a crop.
        counts: Filled on the way.
        retouch: Changes each RGB crop before it is compressed.
    """

    def __init__(
        self,
        preprocess: PreprocessSettings,
        counts: CropCounts,
        retouch: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
    ) -> None:
        self.preprocess = preprocess
        self.counts = counts
        self.retouch = retouch
        # Without a detector the frame is the face; a margin would only be mirrored border.
        self._margin = 0.0 if preprocess.detector == "none" else preprocess.margin
        square = functools.partial(crop_face, align=preprocess.align)
        self._cut = crop_box if preprocess.shape == "tight" else square
        self._tracker = Tracker()

    def cut(self, frame: Frame, faces: list[Face]) -> Iterator[Crop]:
        """The crops of the clip's next frame, ordered by track."""
        preprocess, counts = self.preprocess, self.counts
        tracks = self._tracker.update(frame.image_HWC, frame.time_s, faces)
        counts.frames_sampled += 1
        counts.frames_with_face += bool(faces)
        for track, face in sorted(zip(tracks, faces, strict=True), key=lambda pair: pair[0]):
            box = _clipped(face.box, frame.image_HWC)
            reason = fault(frame.image_HWC, box, face.score, preprocess)
            if reason is not None:
                counts.removed[reason] = counts.removed.get(reason, 0) + 1
                continue
            crop_HWC = self._cut(frame.image_HWC, face, self._margin, preprocess.size)
            if self.retouch is not None:
                crop_HWC = self.retouch(crop_HWC)
            jpeg = encode_crop(crop_HWC, preprocess.jpeg_quality)
            yield Crop(jpeg, frame.index, frame.time_s, track, box, face.score)


def crop_face(
    image_HWC: NDArray[np.uint8], face: Face, margin: float, size: int, *, align: bool = False
) -> NDArray[np.uint8]:
    """Cut a square around a face.

    Beyond the border the image is mirrored: stretched edge pixels or black would be a texture that
    no camera makes, and texture is what the detector looks at.

    Args:
        image_HWC: RGB frame.
        face: The face.
        margin: Border on each side, as a share of the box's longer side.
        size: Side of the result, pixels.
        align: Turn the face about the middle of its box so that the eyes are level.

    Returns:
        (size, size, 3) RGB.

    Raises:
        UserError: A face without landmarks is to be aligned.
    """
    x0, y0, x1, y1 = face.box
    side = max(1, round(max(x1 - x0, y1 - y0) * (1 + 2 * margin)))
    if not align:
        return _resize(_square(image_HWC, face, side), size)
    around_HWC = _square(image_HWC, face, side, border_to_turn(side))
    return _resize(turned_middle(around_HWC, eye_angle(face), side), size)


def _square(
    image_HWC: NDArray[np.uint8], face: Face, side: int, border: int = 0
) -> NDArray[np.uint8]:
    """A square with the face in its middle, and `border` more pixels on each side."""
    x0, y0, x1, y1 = face.box
    height, width = image_HWC.shape[:2]
    whole = side + 2 * border
    # Held so that a pixel of the image stays in view even of a box outside of it.
    left = min(max(round((x0 + x1 - side) / 2) - border, 1 - whole), width - 1)
    top = min(max(round((y0 + y1 - side) / 2) - border, 1 - whole), height - 1)
    right, bottom = left + whole, top + whole
    return cv2.copyMakeBorder(
        image_HWC[max(top, 0) : bottom, max(left, 0) : right],
        max(-top, 0),
        max(bottom - height, 0),
        max(-left, 0),
        max(right - width, 0),
        cv2.BORDER_REFLECT_101,
    )


def crop_box(
    image_HWC: NDArray[np.uint8], face: Face, margin: float, size: int
) -> NDArray[np.uint8]:
    """Cut a face's box out of the frame and stretch it to a square.

    The published networks saw faces so; pixels are averaged, which is what they were resized with.

    Args:
        image_HWC: RGB frame.
        face: The face.
        margin: Border on each side, as a share of that side of the box; it ends at the frame's.
        size: Side of the result, pixels.

    Returns:
        (size, size, 3) RGB.
    """
    x0, y0, x1, y1 = face.box
    border_x, border_y = margin * (x1 - x0), margin * (y1 - y0)
    height, width = image_HWC.shape[:2]
    # Held so that a pixel of the image stays in view even of a box outside of it.
    left, top = (
        min(max(round(x0 - border_x), 0), width - 1),
        min(max(round(y0 - border_y), 0), height - 1),
    )
    right, bottom = max(round(x1 + border_x), left + 1), max(round(y1 + border_y), top + 1)
    return cv2.resize(image_HWC[top:bottom, left:right], (size, size), interpolation=cv2.INTER_AREA)


def encode_crop(crop_HWC: NDArray[np.uint8], quality: int) -> bytes:
    """Compress an RGB crop as JPEG."""
    params = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(crop_HWC, cv2.COLOR_RGB2BGR), params)
    return jpeg.tobytes()


def decode_crop(jpeg: bytes, size: int) -> NDArray[np.uint8]:
    """A stored crop as (size, size, 3) RGB, resized when it was stored in another size.

    Raises:
        ClipError: The bytes are no image.
    """
    return _resize(decode_stored(jpeg), size)


def decode_stored(jpeg: bytes) -> NDArray[np.uint8]:
    """A stored crop as (S, S, 3) RGB in the size S in which it was stored.

    Raises:
        ClipError: The bytes are no image.
    """
    image = None
    if jpeg:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ClipError("a stored crop is not a readable JPEG; extract its clip again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _resize(image_HWC: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """To a square: averaging when it shrinks, interpolating when it grows."""
    if image_HWC.shape[:2] == (size, size):
        return image_HWC
    shrinks = max(image_HWC.shape[:2]) > size
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image_HWC, (size, size), interpolation=interpolation)


def _clipped(
    box: tuple[float, float, float, float], image_HWC: NDArray[np.uint8]
) -> tuple[int, int, int, int]:
    height, width = image_HWC.shape[:2]
    x0, y0, x1, y1 = (round(value) for value in box)
    return max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
