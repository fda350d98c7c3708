"""Which faces are too poor to be looked at."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from genconvit.config import PreprocessSettings

SHARPNESS_SIDE = 128
"""Faces are measured at this size, pixels, so that their sharpness compares."""


def fault(
    image_HWC: NDArray[np.uint8],
    box: tuple[int, int, int, int],
    score: float,
    preprocess: PreprocessSettings,
) -> Literal["small", "unsure", "blurred"] | None:
    """The first of the reasons for which these settings remove a face; None where it stays.

    Args:
        image_HWC: RGB frame.
        box: The face x0, y0, x1, y1 in pixels, clipped to the frame.
        score: The detector's confidence.
        preprocess: Has the limits.
    """
    x0, y0, x1, y1 = box
    if min(x1 - x0, y1 - y0) < preprocess.min_face_size:
        return "small"
    if score < preprocess.min_face_score:
        return "unsure"
    if preprocess.min_sharpness and sharpness(image_HWC, box) < preprocess.min_sharpness:
        return "blurred"
    return None


def sharpness(image_HWC: NDArray[np.uint8], box: tuple[int, int, int, int]) -> float:
    """Variance of the Laplacian of a face.

    The face's box alone, without margin, in grey (0 to 255) and scaled to 128 x 128 pixels: so it
    depends on neither the size nor the border of the crop. A small face that is enlarged counts as
    blurred, as it should: it has no more detail.

    Source: Pech-Pacheco et al., Diatom autofocusing in brightfield
    microscopy: a comparative study, ICPR 2000, https://doi.org/10.1109/ICPR.2000.903548.

    Args:
        image_HWC: RGB frame.
        box: The face x0, y0, x1, y1 in pixels, clipped to the frame.

    Returns:
        Squared grey levels; 0 for a flat or an empty box.
    """
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        return 0.0
    grey_HW = cv2.cvtColor(image_HWC[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY)
    side = (SHARPNESS_SIDE, SHARPNESS_SIDE)
    shrinks = max(grey_HW.shape) > SHARPNESS_SIDE
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    grey_HW = cv2.resize(grey_HW, side, interpolation=interpolation)
    return float(cv2.Laplacian(grey_HW, cv2.CV_64F).var())
