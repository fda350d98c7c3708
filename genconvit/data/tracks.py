"""Which faces of a clip are one person: tracks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from genconvit.data.faces import Face

CUT_SCORE = 0.16
"""From this `cut_score` on, two frames belong to different shots. Cuts measured 0.20 and more, one
face moving through the frame at most 0.14; violently shaken close-ups exceed it, which splits a
track in two but mixes nobody."""
MAX_SHIFT = 1.0
"""A face moves at most so many of its sides between two sightings."""
MAX_GROWTH = 2.0
"""A face grows or shrinks at most by this factor between two sightings."""
MAX_FRAMES_UNSEEN = 2
MAX_SECONDS_UNSEEN = 0.5
"""A track goes on when its face was seen so many sampled frames or seconds ago: faces are missed
when they turn away."""
UNSEEN_PENALTY = 0.25
"""Taken from the match with a track for each frame since it was seen: in a crowd, a face that has
just been seen is the likelier one."""


@dataclass
class _Track:
    number: int
    box: tuple[float, float, float, float]
    frame: int
    time_s: float


class Tracker:
    """Links the faces of successive sampled frames of one clip."""

    def __init__(self) -> None:
        self._open: list[_Track] = []
        self._count = 0
        self._frame = -1
        self._thumbnail: NDArray[np.uint8] | None = None

    def update(self, image_HWC: NDArray[np.uint8], time_s: float, faces: list[Face]) -> list[int]:
        """Take the next frame.

        Args:
            image_HWC: The frame, RGB.
            time_s: Its time, seconds.
            faces: Its faces.

        Returns:
            The track of each face, numbered from 0 in order of appearance. No two faces of a frame
            share one, and none spans a cut.
        """
        self._frame += 1
        thumbnail = cv2.resize(image_HWC, (64, 64), interpolation=cv2.INTER_AREA)
        if self._thumbnail is not None and cut_score(self._thumbnail, thumbnail) >= CUT_SCORE:
            self._open = []
        self._thumbnail = thumbnail
        self._open = [
            track
            for track in self._open
            if self._frame - track.frame <= MAX_FRAMES_UNSEEN
            or time_s - track.time_s <= MAX_SECONDS_UNSEEN
        ]
        linked = self._link(faces)
        for position, face in enumerate(faces):
            track = linked.get(position)
            if track is None:
                track = _Track(self._count, face.box, self._frame, time_s)
                self._count += 1
                self._open.append(track)
                linked[position] = track
            track.box, track.frame, track.time_s = face.box, self._frame, time_s
        return [linked[position].number for position in range(len(faces))]

    def _link(self, faces: list[Face]) -> dict[int, _Track]:
        """Pair faces with open tracks, best match first."""
        pairs = [
            (score - UNSEEN_PENALTY * (self._frame - track.frame), position, track)
            for position, face in enumerate(faces)
            for track in self._open
            if (score := link_score(track.box, face.box)) is not None
        ]
        pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2].number))
        linked: dict[int, _Track] = {}
        taken: set[int] = set()
        for _, position, track in pairs:
            if position not in linked and track.number not in taken:
                linked[position] = track
                taken.add(track.number)
        return linked


def link_score(
    a: tuple[float, float, float, float], b: tuple[float, float, float, float]
) -> float | None:
    """How well two boxes x0, y0, x1, y1 fit as one face, -1 to 1; None when they cannot be one.

    It is the IoU minus the shift, the distance of the centres in mean sides. A side is the square
    root of an area.
    """
    side_a, side_b = (math.sqrt((x1 - x0) * (y1 - y0)) for x0, y0, x1, y1 in (a, b))
    # Sums first: so rounding is the same both ways, also where the shift is just the largest.
    across, down = (a[0] + a[2]) - (b[0] + b[2]), (a[1] + a[3]) - (b[1] + b[3])
    shift = math.hypot(across, down) / (side_a + side_b)
    growth = max(side_a, side_b) / min(side_a, side_b)
    if shift > MAX_SHIFT or growth > MAX_GROWTH:
        return None
    overlap = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(
        0.0, min(a[3], b[3]) - max(a[1], b[1])
    )
    return overlap / (side_a**2 + side_b**2 - overlap) - shift


def cut_score(a_HWC: NDArray[np.uint8], b_HWC: NDArray[np.uint8]) -> float:
    """How much two 64 x 64 RGB frames look like different shots, 0 to 2.

    The product of how far their colours differ (Hellinger distance of the histograms) and how
    little their layout correlates. Either alone also changes inside a shot: the layout when the
    camera pans, the colours when light changes.
    """
    histogram_a, histogram_b = (
        cv2.calcHist([image], [0, 1, 2], None, [8, 8, 8], [0, 256, 0, 256, 0, 256])
        for image in (a_HWC, b_HWC)
    )
    colour = cv2.compareHist(histogram_a, histogram_b, cv2.HISTCMP_BHATTACHARYYA)
    layouts = [
        cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (16, 16), interpolation=cv2.INTER_AREA)
        for image in (a_HWC, b_HWC)
    ]
    a, b = (layout.astype(float).ravel() - layout.mean() for layout in layouts)
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    correlation = float(a @ b) / norm if norm > 0 else 0.0
    return float(colour) * (1.0 - correlation)
