"""Whether a heat map means something: its marked places are taken away, and brought back.

Deletion and insertion of Petsiuk et al., https://arxiv.org/abs/1806.07421, against a blurred crop.
The areas under both curves say little by themselves: a network may give way wherever a crop is
changed. So the map is compared with itself at random places, which has the same shapes and sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean, stdev
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

STEPS = 8
"""Parts in which the crop is taken away or brought back; the area then errs by about 0.01."""
RANDOM_MAPS = 10
SPREADS = 2.0
"""A map passes when it is better than random by more than this many standard deviations. Of ten
random maps an eleventh exceeds that one time in twenty (Student's t with 9 degrees of freedom)."""
LEAST_GAIN = 0.01
"""A smaller gain means nothing to a reader, however sure it is."""
BLUR = 1 / 8
"""Standard deviation of the blur that takes a place away, as a share of the crop's side."""


class MapCheck(BaseModel):
    """How much more the marked places matter than random ones."""

    model_config = ConfigDict(frozen=True)

    passes: bool
    gain: float = Field(
        description="Insertion minus deletion area, above the mean of that of random maps."
    )
    spread: float = Field(description="Standard deviation of that among random maps.")
    insertion: float = Field(description="Area while places come back, most marked first; 0 to 1.")
    deletion: float = Field(description="Area while they are taken away; 0 to 1, lower is better.")
    random_insertion: float
    random_deletion: float
    random_maps: int
    whole: float = Field(description="P of the class on the crop.")
    blurred: float = Field(description="P of the class where all of the crop is blurred.")
    sentence: str


def check_map(
    probability: Callable[[NDArray[np.uint8]], NDArray[np.float64]],
    crop_HWC: NDArray[np.uint8],
    map_HW: NDArray[np.floating],
    speaks_for: Literal["FAKE", "REAL"],
    *,
    random_maps: int = RANDOM_MAPS,
    seed: int = 0,
) -> MapCheck:
    """Checks a map of what speaks for a class.

    Args:
        probability: From RGB crops (B, S, S, 3) to P (B) of the class.
        crop_HWC: RGB (S, S, 3).
        map_HW: (S, S); the higher, the more a place speaks for the class. Only its order counts.
        speaks_for: The class.
        random_maps: Moved copies of the map that it is compared with, at least 2.
        seed: Of their places.
    """
    blurred_HWC = blurred(crop_HWC)
    p_whole, p_blurred = probability(np.stack([crop_HWC, blurred_HWC]))
    rng = np.random.default_rng(seed)
    maps = [map_HW, *(_moved(map_HW, rng) for _ in range(random_maps))]
    areas = []
    for each_HW in maps:
        masks_KHW1 = _masks(each_HW)
        deleted = np.where(masks_KHW1, blurred_HWC, crop_HWC)
        inserted = np.where(masks_KHW1, crop_HWC, blurred_HWC)
        inner_K = probability(np.concatenate([deleted, inserted]))
        down_K, up_K = inner_K[: STEPS - 1], inner_K[STEPS - 1 :]
        areas.append((_area(p_blurred, up_K, p_whole), _area(p_whole, down_K, p_blurred)))
    (insertion, deletion), others = areas[0], areas[1:]
    chance = [up - down for up, down in others]
    gain, spread = insertion - deletion - fmean(chance), stdev(chance)
    passes = gain > max(SPREADS * spread, LEAST_GAIN)
    return MapCheck(
        passes=passes,
        gain=gain,
        spread=spread,
        insertion=insertion,
        deletion=deletion,
        random_insertion=fmean(up for up, _ in others),
        random_deletion=fmean(down for _, down in others),
        random_maps=random_maps,
        whole=float(p_whole),
        blurred=float(p_blurred),
        sentence=_sentence(passes, gain, spread, map_HW, float(p_whole - p_blurred), speaks_for),
    )


def blurred(crop_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The crop without what a place of it could show."""
    return cv2.GaussianBlur(crop_HWC, (0, 0), BLUR * crop_HWC.shape[0])


def _moved(map_HW: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.floating]:
    """The map turned, mirrored and shifted at random; what leaves at one side enters at the other.

    Its values and the size of its patches stay, which noise would not keep.
    """
    turned_HW = np.rot90(map_HW, int(rng.integers(4)))
    if rng.random() < 0.5:
        turned_HW = turned_HW[:, ::-1]
    down, right = (int(rng.integers(side)) for side in turned_HW.shape)
    return np.roll(turned_HW, (down, right), axis=(0, 1))


def _masks(map_HW: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Where the most marked 1/K, 2/K, ... of the pixels are: (K - 1, H, W, 1), K = STEPS."""
    rank_N = np.empty(map_HW.size)
    rank_N[np.argsort(-map_HW.ravel(), kind="stable")] = np.arange(map_HW.size) / map_HW.size
    shares_K = np.arange(1, STEPS) / STEPS
    masks: NDArray[np.bool_] = rank_N.reshape(*map_HW.shape, 1) < shares_K[:, None, None, None]
    return masks


def _area(first: float, inner_K: NDArray[np.float64], last: float) -> float:
    return float(np.trapezoid(np.r_[first, inner_K, last], dx=1 / STEPS))


def _sentence(
    passes: bool,
    gain: float,
    spread: float,
    map_HW: NDArray[np.floating],
    change: float,
    speaks_for: str,
) -> str:
    numbers = f"gain {gain:+.2f}, spread {spread:.2f} among random maps"
    if passes:
        return f"The marked places matter more than random ones ({numbers})."
    if float(map_HW.max()) <= max(0.0, float(map_HW.min())):
        return f"No place stands out as speaking for {speaks_for}: do not rely on the map."
    if abs(change) < 5 * LEAST_GAIN:
        return (
            f"Blurring the whole crop hardly changes P({speaks_for.lower()}), so that this check "
            "cannot tell what matters: do not rely on the map."
        )
    return f"The marked places do not matter more than random ones ({numbers}): do not rely on it."
