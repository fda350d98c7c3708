"""The variants of a comparison: what goes in, and what comparison.json holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from genconvit.config import DecisionSettings
from genconvit.evaluate.bootstrap import Estimates
from genconvit.evaluate.evaluated import EvaluatedClip


@dataclass(frozen=True)
class VariantRun:
    """One detector of a variant and how it judged the clips."""

    seed: int | None
    """None for a detector that was loaded."""
    detector: str
    rows: Sequence[EvaluatedClip]


@dataclass(frozen=True)
class Variant:
    """One variant: its runs and costs, or the reason why there are none."""

    name: str
    """As the user wrote it, such as "v2,attention=false"."""
    slug: str
    """For names of files, such as "v2-attention-false"."""
    runs: Sequence[VariantRun]
    parameters: int
    flops: float
    """Floating-point operations of one image's verdict; a multiply-add counts as 2."""
    images_per_s: float
    ms_per_clip: float
    settings: dict[str, Any]
    """What differs from other variants."""
    failure: str | None

    def __post_init__(self) -> None:
        if bool(self.runs) == (self.failure is not None):
            raise ValueError(f"variant {self.name} needs either runs or a failure")


class VariantResult(BaseModel):
    """One variant in comparison.json."""

    model_config = ConfigDict(frozen=True)

    name: str
    slug: str
    settings: dict[str, Any] = Field(description="What differs from other variants.")
    detectors: list[str]
    seeds: list[int | None] = Field(description="One a detector; null where it was loaded.")
    metrics: Estimates = Field(description="Means over seeds.")
    differences: Estimates = Field(description="To the first variant that did not fail.")
    confusion: dict[str, dict[str, int]] = Field(
        description="Clips by label, then verdict; a sum over seeds."
    )
    parameters: int
    flops: float = Field(description="Of one image's verdict; a multiply-add counts as 2.")
    images_per_s: float
    ms_per_clip: float
    failure: str | None

    def costs(self) -> dict[str, float]:
        """The costs in the units that are shown."""
        return {
            "parameters (M)": self.parameters / 1e6,
            "GFLOPs": self.flops / 1e9,
            "img/s": self.images_per_s,
            "ms a clip": self.ms_per_clip,
        }


class ComparisonReport(BaseModel):
    """The content of comparison.json."""

    model_config = ConfigDict(frozen=True)

    command: str
    about: str = Field(description="Which clips these are.")
    clips: int = Field(
        description="Clips that every variant judged. All figures are over these; AUC and EER over "
        "those with a score."
    )
    fake: int
    real: int
    seeds: list[int]
    draws: int = Field(description="Draws of groups of clips behind the 95 % intervals.")
    decision: DecisionSettings
    device: str = Field(description="Where the costs were measured.")
    variants: list[VariantResult]
    notes: list[str]

    @property
    def judged(self) -> list[VariantResult]:
        """The variants that did not fail; the others are compared with the first of them."""
        return [variant for variant in self.variants if variant.failure is None]
