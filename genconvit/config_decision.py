"""Settings of the verdict."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, model_validator

from genconvit.config_data import Section

Aggregation = Literal["mean", "median", "top_k", "max", "confident", "original"]

FITTED = ("threshold", "undecided_margin", "undecided_band", "isotonic")
"""What belongs to one aggregation, and is nothing for another."""


class DecisionSettings(Section):
    """From the scores of a clip's crops to a verdict."""

    aggregation: Aggregation = Field(
        "mean",
        description="P(fake) of a clip, of that of its crops. mean, median. top_k: mean of the "
        "highest. max: of the faces of a frame the highest, and their mean over frames. "
        "confident: mean of those above 0.8 or below 0.2 where they are many enough, else of all. "
        "original: as published, with 15 frames: mean "
        "sigmoids, the larger wins, no face is FAKE; the threshold is 0.5 then, without a band.",
    )
    top_k: int = Field(10, ge=1, le=100_000, description="Crops that aggregation=top_k looks at.")
    threshold: float = Field(0.5, gt=0.0, lt=1.0, description="P(fake) above it is FAKE.")
    undecided_margin: float = Field(
        0.05, ge=0.0, lt=0.5, description="Nearer to the threshold is UNDECIDED."
    )
    undecided_band: tuple[float, float] | None = Field(
        None,
        description="P(fake) from one to the other is UNDECIDED, instead of the margin. genconvit "
        "calibrate finds it.",
    )
    isotonic: tuple[tuple[float, float], ...] | None = Field(
        None,
        description="Pairs of a clip's score and its P(fake), both rising; in between on straight "
        "lines. genconvit calibrate finds them.",
    )

    @model_validator(mode="before")
    @classmethod
    def _original_has_no_band(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("aggregation") == "original":
            fixed = {"threshold": 0.5, "undecided_margin": 0.0}
            return {**values, **fixed, "undecided_band": None, "isotonic": None}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> DecisionSettings:
        if self.undecided_band is not None:
            low, high = self.undecided_band
            if not 0 <= low <= self.threshold <= high <= 1:
                raise ValueError(
                    f"undecided_band must go from below the threshold {self.threshold:g} to above "
                    "it, within 0 to 1"
                )
        if self.isotonic is not None:
            pairs = list(pairwise(self.isotonic))
            rises = all(a[0] < b[0] and a[1] <= b[1] for a, b in pairs)
            if not self.isotonic or not rises:
                raise ValueError("isotonic must be pairs of rising scores and rising P(fake)")
            if not all(0 <= value <= 1 for pair in self.isotonic for value in pair):
                raise ValueError("isotonic must hold scores and P(fake) from 0 to 1")
        return self

    def with_aggregation(self, aggregation: Aggregation | None) -> DecisionSettings:
        """The same, or for another aggregation, for which nothing is fitted."""
        if aggregation is None or aggregation == self.aggregation:
            return self
        return DecisionSettings(aggregation=aggregation, top_k=self.top_k)

    @property
    def band(self) -> tuple[float, float]:
        """What is UNDECIDED: P(fake) from the first to the second."""
        if self.undecided_band is not None:
            return self.undecided_band
        low, high = (self.threshold + side * self.undecided_margin for side in (-1, 1))
        return max(0.0, low), min(1.0, high)
