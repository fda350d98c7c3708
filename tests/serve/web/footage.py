"""Drawn footage for the page's tests: faces that nobody has, at known places."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, FPS = 640, 360, 10
FACE = (110, 140)
"""Width and height of a face, pixels."""
WALL, SKIN, OUTLINE = (178, 164, 150), (150, 178, 214), (60, 66, 82)  # BGR
MARKER = (255, 0, 255)
"""Of the frame around the first face, where one is drawn: a colour of nothing else."""

Box = tuple[int, int, int, int]


def box_at(track: int, time_s: float) -> Box:
    """Where a face is: x0, y0, x1, y1 in pixels of the frame."""
    sway = 60 * np.sin(0.9 * time_s + 2 * track)
    x0, y0 = round(140 + 250 * track + sway), round(110 + 20 * np.cos(1.3 * time_s))
    return x0, y0, x0 + FACE[0], y0 + FACE[1]


def frame_at(time_s: float, faces: int, marked: bool = False) -> NDArray[np.uint8]:
    """A frame, BGR (HEIGHT, WIDTH, 3); with `marked` the first face's box is drawn in `MARKER`."""
    image = np.full((HEIGHT, WIDTH, 3), WALL, np.uint8)
    cv2.rectangle(image, (0, 285), (WIDTH, HEIGHT), (128, 116, 104), -1)
    for track in range(faces):
        _draw_face(image, box_at(track, time_s), track)
    if marked:
        x0, y0, x1, y1 = box_at(0, time_s)
        cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), MARKER, -1)
    return image


def write_clip(
    path: Path, seconds: float, faces: int = 1, codec: str = "VP80", marked: bool = False
) -> Path:
    """A clip; VP80 in .webm is played by any Chromium, mp4v in .mp4 by none."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), FPS, (WIDTH, HEIGHT))
    for index in range(round(seconds * FPS)):
        writer.write(frame_at(index / FPS, faces, marked))
    writer.release()
    return path


def write_image(path: Path, faces: int = 1, marked: bool = False) -> Path:
    """The first frame as an image."""
    cv2.imwrite(str(path), frame_at(0.0, faces, marked))
    return path


def crop_of(track: int, time_s: float) -> NDArray[np.uint8]:
    """The square around a face, BGR (224, 224, 3)."""
    x0, y0, x1, y1 = box_at(track, time_s)
    middle = (x0 + x1) // 2
    crop = frame_at(time_s, track + 1)[y0 - 30 : y1 + 30, middle - 100 : middle + 100]
    return cv2.resize(crop, (224, 224), interpolation=cv2.INTER_LINEAR)


def _draw_face(image: NDArray[np.uint8], box: Box, track: int) -> None:
    x0, y0, x1, y1 = box
    x, y = (x0 + x1) // 2, (y0 + y1) // 2
    shirt = ((118, 92, 70), (84, 112, 88))[track % 2]
    cv2.ellipse(image, (x, HEIGHT + 20), (110, 115), 0, 180, 360, shirt, -1, cv2.LINE_AA)
    cv2.rectangle(image, (x - 22, y + 40), (x + 22, y + 100), (134, 160, 194), -1)
    cv2.ellipse(image, (x, y), (FACE[0] // 2, FACE[1] // 2), 0, 0, 360, SKIN, -1, cv2.LINE_AA)
    hair = ((58, 52, 48), (70, 96, 140))[track % 2]
    cv2.ellipse(image, (x, y - 26), (58, 52), 0, 180, 360, hair, -1, cv2.LINE_AA)
    for side in (-1, 1):
        eye = (x + 22 * side, y - 4)
        cv2.ellipse(image, eye, (11, 7), 0, 0, 360, (245, 245, 245), -1, cv2.LINE_AA)
        cv2.circle(image, eye, 5, OUTLINE, -1, cv2.LINE_AA)
    cv2.line(image, (x, y + 6), (x - 6, y + 24), (120, 146, 182), 3, cv2.LINE_AA)
    cv2.ellipse(image, (x, y + 40), (22, 9), 0, 10, 170, (92, 96, 170), 4, cv2.LINE_AA)
