"""What an evaluation knows of a clip: its verdict, its crops' scores, and where it is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from genconvit.config import DecisionSettings
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import crop_probability, decide, larger_of
from genconvit.verdict import TimelinePoint, Verdict

_MEAN, _ORIGINAL = DecisionSettings(), DecisionSettings(aggregation="original")


@dataclass(frozen=True, slots=True)
class CropScore:
    """A crop and what the network says of it, for every aggregation."""

    frame_index: int
    time_s: float
    track: int
    box: tuple[int, int, int, int]
    p_fake: float
    """Softmax of the mean logits, by the detector's temperature."""
    sigmoids: tuple[float, float] | None
    """Sigmoids of the fake and the real logit, the mean where two networks judge: what the
    aggregation `original` needs."""

    @classmethod
    def of(
        cls,
        frame_index: int,
        time_s: float,
        track: int,
        box: tuple[int, int, int, int],
        logits_RK: NDArray[np.float64],
        temperature: float,
    ) -> CropScore:
        """A crop by its place in the clip and the logits (R, 2) of the networks that judge it."""
        p_fake, _ = crop_probability(logits_RK, _MEAN, temperature)
        _, sigmoids = crop_probability(logits_RK, _ORIGINAL)
        return cls(frame_index, round(time_s, 3), track, box, p_fake, sigmoids)

    def point(self, decision: DecisionSettings) -> TimelinePoint:
        """The crop as the aggregation wants it."""
        place = {name: getattr(self, name) for name in ("frame_index", "time_s", "track", "box")}
        if decision.aggregation != "original":
            return TimelinePoint(**place, probability_fake=self.p_fake)
        assert self.sigmoids is not None
        p_fake = larger_of(*self.sigmoids)
        return TimelinePoint(**place, probability_fake=p_fake, sigmoids=self.sigmoids)


@dataclass(frozen=True)
class EvaluatedClip:
    """One clip of an evaluation: either a verdict or the reason why there is none."""

    name: str
    """Its path relative to the dataset, which no other clip has."""
    label: str | None
    verdict: Verdict | None
    failure: str | None
    group: str = ""
    method: str = ""
    source: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What else the list of clips says of it."""
    crops: Sequence[CropScore] = ()
    """Scores of its crops, where they are known."""
    features: Sequence[float] | None = None
    """What was measured of its crops (`genconvit.data.audit.measure`), where they were at hand."""

    def __post_init__(self) -> None:
        if (self.verdict is None) == (self.failure is None):
            raise ValueError(f"clip {self.name} needs either a verdict or a failure")

    @property
    def correct(self) -> bool | None:
        """None where there is no label, no verdict or the verdict is UNDECIDED."""
        if self.label is None or self.verdict is None or self.verdict.verdict == "UNDECIDED":
            return None
        return self.verdict.verdict.lower() == self.label


def decide_crops(
    clip: str, crops: Sequence[CropScore], frames_sampled: int, decision: DecisionSettings
) -> Verdict:
    """Judges a clip whose crops are scored.

    Raises:
        UserError: The aggregation is `original`, and the sigmoids are not known.
    """
    if decision.aggregation == "original" and any(crop.sigmoids is None for crop in crops):
        raise UserError(
            f"{clip}: the aggregation original needs sigmoid_fake and sigmoid_real of each crop; "
            "choose another --aggregation."
        )
    return decide(clip, [crop.point(decision) for crop in crops], frames_sampled, decision)
