"""What can be measured of a crop without looking at the face: it should not tell fake from real."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft2

from genconvit.data.video import evenly_spaced

Columns = Mapping[str, Sequence[Any]]
"""Columns of a shard, by name."""
SAMPLED = 4
"""Crops of a clip whose pixels are looked at, evenly spaced."""
RINGS = 8
MIDDLE = 128
"""Side of the square that is measured: four times as fast as a whole crop of 224 px."""
METADATA = (
    *("face size", "face height / width", "face centre x", "face centre y", "face score"),
    *("JPEG bytes", "frames a second", "last frame"),
)
SPECTRUM = (
    *(f"spectrum {100 * ring // RINGS} to {100 * (ring + 1) // RINGS} %" for ring in range(RINGS)),
    *("sharpness", "8 px blocks"),
)


def sampled_rows(rows: Sequence[int], values: Columns) -> list[int]:
    """`SAMPLED` rows of a clip, or all where there are fewer, of all its tracks and times.

    Args:
        rows: Those of the clip, at least one.
        values: `track` and `frame_index` of all rows.
    """
    ordered = sorted(rows, key=lambda row: (values["track"][row], values["frame_index"][row]))
    return [ordered[at] for at in evenly_spaced(len(ordered), min(SAMPLED, len(ordered)))]


def clip_features(
    rows: Sequence[int],
    values: Columns,
    jpeg_bytes_N: NDArray[np.int64],
    spectra: Mapping[int, NDArray[np.float64]],
) -> NDArray[np.float64]:
    """What a clip has of all `feature_names`.

    Args:
        rows: Those of the clip, at least one.
        values: `box`, `face_score`, `frame_index` and `time_s` of all rows.
        jpeg_bytes_N: Size of the crop of each of all N rows.
        spectra: Of `spectrum_features`, for the sampled rows that could be decoded.

    Returns:
        NaN for `SPECTRUM` where none could be.
    """
    own = [spectra[row] for row in rows if row in spectra]
    metadata = metadata_features(
        np.array([values["box"][row] for row in rows], np.int64),
        np.array([values["face_score"][row] for row in rows], np.float64),
        jpeg_bytes_N[list(rows)],
        np.array([values["frame_index"][row] for row in rows], np.int64),
        np.array([values["time_s"][row] for row in rows], np.float64),
    )
    spectrum = np.mean(own, axis=0) if own else np.full(len(SPECTRUM), np.nan)
    return np.concatenate([metadata, spectrum])


def metadata_features(
    box_N4: NDArray[np.int64],
    score_N: NDArray[np.float64],
    jpeg_bytes_N: NDArray[np.int64],
    frame_N: NDArray[np.int64],
    time_N: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The values of `METADATA` for the crops of one clip, averaged over them.

    Args:
        box_N4: Face boxes in pixels of the frame.
        score_N: Confidence of the face detector.
        jpeg_bytes_N: Size of each stored crop.
        frame_N: Index of the frame.
        time_N: Its time, seconds.
    """
    width_N, height_N = (box_N4[:, 2:] - box_N4[:, :2]).T
    centre_N2 = (box_N4[:, 2:] + box_N4[:, :2]) / 2
    last = int(np.argmax(frame_N))
    rate = frame_N[last] / time_N[last] if time_N[last] > 0 else 0.0
    means = [
        np.maximum(width_N, height_N).mean(),
        (height_N / np.maximum(width_N, 1)).mean(),
        *centre_N2.mean(axis=0),
        score_N.mean(),
        jpeg_bytes_N.mean(),
    ]
    return np.array([*means, rate, frame_N[last]])


def spectrum_features(image_HWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The values of `SPECTRUM` for the middle of a crop.

    The rings are the mean log power of equal parts of the frequencies up to the finest (azimuthal
    average; R. Durall et al., "Watch your Up-Convolution", CVPR 2020), less their mean, so that
    contrast does not count. Sharpness is the log variance of the Laplacian (J. L. Pech-Pacheco et
    al., ICPR 2000). Blocks are steps across every eighth pixel, relative to other steps
    (Z. Wang et al., "Blind measurement of blocking artifacts in images", ICIP 2000).
    """
    height, width = (min(side, MIDDLE) for side in image_HWC.shape[:2])
    # From a multiple of 8 on, so that the JPEG's blocks stay where they are.
    top, left = ((side - MIDDLE) // 16 * 8 if side > MIDDLE else 0 for side in image_HWC.shape[:2])
    middle_HWC = np.ascontiguousarray(image_HWC[top : top + height, left : left + width])
    grey_HW = cv2.cvtColor(middle_HWC, cv2.COLOR_RGB2GRAY).astype(np.float32)
    window_HW, ring_HW, counts = _rings(height, width)
    wave_HW = rfft2((grey_HW - grey_HW.mean()) * window_HW)
    log_HW = np.log10(wave_HW.real**2 + wave_HW.imag**2 + 1.0)
    rings = np.bincount(ring_HW.ravel(), log_HW.ravel(), RINGS + 1)[:RINGS] / counts
    sharpness = np.log10(cv2.Laplacian(grey_HW, cv2.CV_32F).var() + 1.0)
    steps = np.abs(np.diff(grey_HW, axis=1)).mean(axis=0)
    at_edge = np.arange(1, len(steps) + 1) % 8 == 0
    blocks = steps[at_edge].mean() / (steps[~at_edge].mean() + 1e-6) if at_edge.any() else 1.0
    return np.array([*(rings - rings.mean()), sharpness, blocks])


@functools.cache
def _rings(
    height: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """A Hann window, the ring of each frequency of `rfft2`, and the frequencies in each ring."""
    window_HW = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    fine_HW = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    ring_HW = np.minimum((fine_HW / 0.5 * RINGS).astype(np.int64), RINGS)  # the corners come last
    counts = np.bincount(ring_HW.ravel(), minlength=RINGS + 1)[:RINGS]
    return window_HW, ring_HW, np.maximum(counts, 1)


def feature_names() -> Sequence[str]:
    """All of them, in the order in which a clip has them."""
    return (*METADATA, *SPECTRUM)
