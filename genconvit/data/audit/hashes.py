"""Perceptual hashes of face crops: bits that survive another compression, size or brightness.

The hash is pHash (C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions",
2010): which of the low frequencies of the cosine transform of a small grey image are above their
median. The coarse hash takes 8x8 of them and serves to find candidates; the fine one takes 16x16
and decides. Faces that fill a crop are so alike in 8x8 that different people differ by as little as
8 bits of 64, but never by less than 70 of 256 in what was measured (docs/audit.md).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

THUMB = 64
"""Side of the grey image that is hashed."""
COARSE_BYTES, FINE_BYTES = 8, 32
FLAT = 4.0
"""Standard deviation, of 255, below which a crop has nothing to hash: black or one colour."""

_ONES = np.array([bin(value).count("1") for value in range(256)], np.uint8)


def thumbnail(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The small grey image that is hashed, (64, 64)."""
    grey_HW = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY)
    small_HW: NDArray[np.uint8] = cv2.resize(grey_HW, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    return small_HW


def perceptual_hashes(
    thumbs_NHW: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Hashes of thumbnails.

    Args:
        thumbs_NHW: From `thumbnail`.

    Returns:
        The coarse hashes, (N, 8), and the fine ones, (N, 32); 8 bits a byte.
    """
    # The first row and column hold brightness and light from a side, which filters change.
    waves = dctn(thumbs_NHW.astype(np.float32), axes=(1, 2))[:, 1:17, 1:17]
    return _above_median(waves[:, :8, :8]), _above_median(waves)


def distances(a_NB: NDArray[np.uint8], b_NB: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Bits in which hashes differ, pair by pair."""
    return _ONES[a_NB ^ b_NB].sum(axis=-1, dtype=np.int64)


def _above_median(waves_NHW: NDArray[np.float32]) -> NDArray[np.uint8]:
    flat = waves_NHW.reshape(len(waves_NHW), -1)
    return np.packbits(flat > np.median(flat, axis=1, keepdims=True), axis=1)
