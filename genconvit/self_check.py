"""Whether a detector computes anything sensible, before it is trusted with clips."""

from __future__ import annotations

import numpy as np

from genconvit.errors import UserError
from genconvit.predict import Detector

CROPS = 8
SPREAD = 1e-7
"""Logits of networks that look at their input differ by more between any two crops."""


def check_detector(detector: Detector) -> None:
    """Puts crops through a detector that are the same everywhere.

    They are patterns, not faces: a folder of a program is no place for a person's picture.

    Raises:
        UserError: Its logits are no numbers, are the same for every crop, or differ from one time
            to the next.
    """
    crops = check_crops(detector.info.model.image_size)
    first, second = detector.logits(crops, CROPS), detector.logits(crops, CROPS)
    name = detector.info.id
    if not np.isfinite(first).all():
        raise UserError(f"{name} computes logits that are no numbers; take another checkpoint.")
    if np.ptp(first, axis=0).max() < SPREAD:
        raise UserError(f"{name} says the same of every crop; take another checkpoint.")
    if not np.allclose(first, second, rtol=1e-3, atol=1e-3):
        raise UserError(f"{name} judges one crop differently from time to time; it is broken.")


def check_crops(size: int) -> np.ndarray:
    """Blobs and grain in many colours: uint8 RGB (8, size, size, 3), equal for equal sizes."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:size, 0:size] / size
    crops = []
    for _ in range(CROPS):
        middle, width = rng.uniform(0.3, 0.7, 2), rng.uniform(0.1, 0.4)
        blob = np.exp(-((x - middle[0]) ** 2 + (y - middle[1]) ** 2) / (2 * width**2))
        colour, ground = rng.uniform(0, 255, (2, 3))
        image = blob[..., None] * colour + (1 - blob[..., None]) * ground
        crops.append(image + rng.normal(0, rng.uniform(0, 20), image.shape))
    return np.clip(np.stack(crops), 0, 255).astype(np.uint8)
