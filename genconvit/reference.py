"""What a detector saw in validation: what comes in later is compared with it (docs/monitoring.md).

Scores here are the network's own: P(fake) of a crop without temperature, and their mean over a
clip's crops. So a reference stays right when the detector is calibrated, or judges by another
aggregation. Every clip counts 1, however many crops it has: crops of a clip are alike, and a long
clip must not outvote the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

BINS = 20
EVEN_SHARE = 0.01
"""Of the even distribution, mixed into both sides of the index: no bin of either is empty."""

Statistics = dict[str, NDArray[np.float64]]
"""Values (N) by name, of N crops."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Scale(_Part):
    """Twenty bins from `low` to `high`; what lies outside counts in the first or the last one."""

    low: float
    high: float
    logarithmic: bool = Field(False, description="Each bin is as many times as wide as the last.")

    @model_validator(mode="after")
    def _rises(self) -> Scale:
        if not self.low < self.high or (self.logarithmic and self.low <= 0):
            raise ValueError("a scale goes from low to high, and a logarithmic one from above 0")
        return self

    @cached_property
    def edges(self) -> NDArray[np.float64]:
        """The borders of the bins (BINS + 1), rising."""
        spaced = np.geomspace if self.logarithmic else np.linspace
        return np.asarray(spaced(self.low, self.high, BINS + 1))

    def count(self, values: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.float64]:
        """Counts values (N), with weights (N) or each as 1, by bin (BINS)."""
        bins = np.searchsorted(self.edges[1:-1], np.asarray(values), side="right")
        return np.bincount(bins, weights, minlength=BINS).astype(np.float64)


SCALES = {
    "clip_score": Scale(low=0, high=1),
    "crop_score": Scale(low=0, high=1),
    "brightness": Scale(low=0, high=255),
    "contrast": Scale(low=0, high=100),
    "sharpness": Scale(low=2, high=10),
    "face_size": Scale(low=16, high=2048, logarithmic=True),
}
"""How the values of each statistic are counted."""


class Histogram(_Part):
    """The validation clips of each class by bin."""

    scale: Scale
    fake: tuple[float, ...] = Field(min_length=BINS, max_length=BINS)
    real: tuple[float, ...] = Field(min_length=BINS, max_length=BINS)

    @classmethod
    def of(
        cls, name: str, values_N: ArrayLike, is_fake_N: ArrayLike, clips_N: ArrayLike
    ) -> Histogram:
        """Counts values so that each clip weighs 1.

        Args:
            name: Of `SCALES`.
            values_N: The values.
            is_fake_N: The class of each.
            clips_N: The name of the clip that each is of.
        """
        scale, values, is_fake = SCALES[name], np.asarray(values_N), np.asarray(is_fake_N, bool)
        _, clip, crops = np.unique(
            np.asarray(clips_N, dtype=str), return_inverse=True, return_counts=True
        )
        weights = 1 / crops[clip]
        fake, real = (
            tuple(scale.count(values[chosen], weights[chosen]).round(4).tolist())
            for chosen in (is_fake, ~is_fake)
        )
        return cls(scale=scale, fake=fake, real=real)

    @property
    def clips(self) -> float:
        """How many clips it rests on."""
        return sum(self.fake) + sum(self.real)

    def expected(self, prevalence: float | None = None) -> NDArray[np.float64]:
        """Clips by bin (BINS) that are to be expected.

        Args:
            prevalence: The share of fake clips where the detector is used; by default that of the
                validation clips. Of no effect where these are of one class.
        """
        fake, real = np.asarray(self.fake), np.asarray(self.real)
        if prevalence is None or not fake.sum() or not real.sum():
            return fake + real
        shares = prevalence * fake / fake.sum() + (1 - prevalence) * real / real.sum()
        return self.clips * shares


class Reference(_Part):
    """Scores and crops of the validation split of a detector's training run."""

    crops: int = Field(description="Crops that all but `clip_score` rests on.")
    clip_score: Histogram = Field(description="Mean P(fake) of a clip's crops.")
    crop_score: Histogram = Field(description="P(fake) of a crop.")
    brightness: Histogram = Field(description="Mean luma, 0 to 255.")
    contrast: Histogram = Field(description="Standard deviation of the luma.")
    sharpness: Histogram = Field(description="Logarithm of 1 + the variance of its Laplacian.")
    face_size: Histogram | None = Field(
        None, description="Shorter side of the face's box in its frame, pixels."
    )

    def histograms(self) -> dict[str, Histogram]:
        """Those that there are, by the names of `SCALES`."""
        found = {name: getattr(self, name) for name in SCALES}
        return {name: histogram for name, histogram in found.items() if histogram is not None}


def crop_statistics(crops_BHWC: NDArray[np.uint8]) -> Statistics:
    """What crops look like, in three numbers each; about 0.1 ms for a crop of 224 pixels.

    Args:
        crops_BHWC: RGB crops of one size: numbers of other sizes do not compare.

    Returns:
        `brightness`, `contrast` and `sharpness`, each (B,), as `Reference` has them.
    """
    rows_BK = np.empty((len(crops_BHWC), 3))
    for row, crop_HWC in zip(rows_BK, crops_BHWC, strict=True):
        luma_HW = cv2.cvtColor(crop_HWC, cv2.COLOR_RGB2GRAY)
        mean, deviation = cv2.meanStdDev(luma_HW)
        _, detail = cv2.meanStdDev(cv2.Laplacian(luma_HW, cv2.CV_16S))
        row[:] = mean[0, 0], deviation[0, 0], np.log1p(detail[0, 0] ** 2)
    return dict(zip(("brightness", "contrast", "sharpness"), rows_BK.T, strict=True))


def face_sizes(boxes_B4: ArrayLike) -> NDArray[np.float64]:
    """The shorter side of each box x0, y0, x1, y1: (B,), pixels."""
    boxes = np.asarray(boxes_B4, dtype=np.float64).reshape(-1, 4)
    return np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


def spread(count: int, most: int) -> NDArray[np.int64]:
    """At most so many places of `count`, evenly spread."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).astype(np.int64))


def population_stability_index(expected: ArrayLike, seen: ArrayLike) -> float:
    """How far two distributions over the same bins are apart; 0 where they are equal.

    The sum over bins of (q - p) ln(q / p) for the shares p that are expected and q that are seen,
    also known as Jeffreys' divergence (https://doi.org/10.1098/rspa.1946.0056). One hundredth of
    either is spread evenly over the bins, so that the index is finite and a bin that is empty on
    both sides adds nothing.

    Two samples of n and m from one distribution give about (bins - 1) (1/n + 1/m) on average
    (https://scholarworks.wmich.edu/dissertations/3208): small samples always look a little apart.

    Args:
        expected: Counts by bin, not all zero.
        seen: The same of what came in.
    """
    p, q = (_shares(np.asarray(counts, dtype=np.float64)) for counts in (expected, seen))
    return float(np.sum((q - p) * np.log(q / p)))


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return (1 - EVEN_SHARE) * counts / counts.sum() + EVEN_SHARE / len(counts)


class CropSample:
    """A worker's part of the crops that a reference rests on.

    They lie evenly in the split, whose size need not be known: whenever there are too many, every
    second one is dropped. The crops of a split are the same in every epoch, so that they are
    looked at in the first pass only.

    Args:
        most: Crops to keep.
    """

    def __init__(self, most: int) -> None:
        self._most, self._every, self._passed = most, 1, 0
        self._rows: dict[str, NDArray[Any]] = {}
        self._whole = False

    def add(self, batch: Mapping[str, Any]) -> None:
        """Takes a batch of the pass: `image`, `label`, `video_id` and, where known, `box`."""
        if self._whole:
            return
        count = len(batch["label"])
        chosen = np.arange(-self._passed % self._every, count, self._every)
        rows: dict[str, NDArray[Any]] = {
            "place": self._passed + chosen,
            "clip": np.asarray(batch["video_id"], dtype=object)[chosen],
            "is_fake": np.asarray(batch["label"])[chosen] == 0,
            **crop_statistics(np.asarray(batch["image"])[chosen]),
        }
        if "box" in batch:
            rows["face_size"] = face_sizes(np.asarray(batch["box"])[chosen])
        self._passed += count
        if self._rows:
            rows = {name: np.concatenate([self._rows[name], rows[name]]) for name in rows}
        while len(rows["place"]) > self._most:
            self._every *= 2
            kept = rows["place"] % self._every == 0
            rows = {name: column[kept] for name, column in rows.items()}
        self._rows = rows

    def scored(self, p_fake_N: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """Ends a pass: the rows of the sample with their scores; nothing where no crop was seen.

        Args:
            p_fake_N: Of all crops of the pass, in their order.
        """
        self._whole = True
        return {**self._rows, "crop_score": p_fake_N[self._rows["place"]]} if self._rows else {}


def build_reference(
    clips: tuple[ArrayLike, ArrayLike, ArrayLike], samples: list[dict[str, NDArray[Any]]]
) -> Reference:
    """The reference of a validation split.

    Args:
        clips: Name, score, and whether it is fake, of all C clips: three arrays (C,).
        samples: The workers' rows, of `CropSample.scored`.
    """
    held = [rows for rows in samples if rows]
    rows = {name: np.concatenate([part[name] for part in held]) for name in held[0]}
    names, scores, is_fake = clips
    found = {
        name: Histogram.of(name, rows[name], rows["is_fake"], rows["clip"])
        for name in SCALES
        if name in rows
    }
    found["clip_score"] = Histogram.of("clip_score", scores, is_fake, names)
    return Reference(crops=len(rows["place"]), **found)
