"""All aggregations side by side, on the clips of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import judge_points
from genconvit.evaluate.clip_score import AGGREGATIONS
from genconvit.evaluate.estimate import Estimate
from genconvit.evaluate.evaluated import EvaluatedClip
from genconvit.evaluate.resampling import measured_scores

CHOOSE = (
    "Choose an aggregation on validation clips: the best of several on the clips that it is "
    "reported on looks better than it is."
)


class AggregationResult(BaseModel):
    """One aggregation of the same crops."""

    model_config = ConfigDict(frozen=True)

    name: str
    in_use: bool = Field(description="The one behind the verdicts, with all that was fitted to it.")
    threshold: float = Field(description="That of the settings where it is in use, else 0.5.")
    auc: Estimate
    average_precision: Estimate
    eer: Estimate
    accuracy: Estimate
    log_loss: Estimate


COMPARED = ("auc", "average_precision", "eer", "accuracy", "log_loss")


def compare_aggregations(
    rows: Sequence[EvaluatedClip], decision: DecisionSettings
) -> list[AggregationResult]:
    """What every aggregation makes of the same clips.

    Args:
        rows: Clips; those without a label, a verdict or crops are left out.
        decision: Its aggregation is taken as it is. To the others belongs none of what was fitted,
            threshold and isotonic map: they have a threshold of 0.5.

    Returns:
        One entry an aggregation, `original` only where the sigmoids of all crops are known; none
        without clips.
    """
    clips = [row for row in rows if row.label and row.verdict and row.crops]
    if not clips:
        return []
    names = list(AGGREGATIONS)
    if all(crop.sigmoids is not None for clip in clips for crop in clip.crops):
        names.append("original")
    return [_result(clips, _settings(name, decision), decision) for name in names]


def _settings(name: str, decision: DecisionSettings) -> DecisionSettings:
    if name == decision.aggregation:
        return decision
    return DecisionSettings.model_validate({"aggregation": name, "top_k": decision.top_k})


def _result(
    clips: Sequence[EvaluatedClip], settings: DecisionSettings, in_use: DecisionSettings
) -> AggregationResult:
    scores = measured_scores(
        [clip.label == "fake" for clip in clips],
        [
            judge_points([crop.point(settings) for crop in clip.crops], settings)[0]
            for clip in clips
        ],
        [clip.group for clip in clips],
        settings.threshold,
    )
    return AggregationResult(
        name=settings.aggregation,
        in_use=settings is in_use,
        threshold=settings.threshold,
        **{name: scores.estimate(name) for name in COMPARED},
    )
