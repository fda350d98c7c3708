"""What an evaluation finds: the content of evaluation_report.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import calibrated, unreachable
from genconvit.evaluate.aggregations import CHOOSE, AggregationResult, compare_aggregations
from genconvit.evaluate.calibration.conformal import CoverageCheck, coverage_check
from genconvit.evaluate.clip_failure import ClipFailure
from genconvit.evaluate.estimate import Estimate
from genconvit.evaluate.evaluated import EvaluatedClip
from genconvit.evaluate.evaluated_data import EvaluatedData
from genconvit.evaluate.localisation.localise import LocalisationScores
from genconvit.evaluate.metrics import VERDICTS, ClipMetrics, clip_metrics
from genconvit.evaluate.resampling import DRAWS, measured_share
from genconvit.evaluate.robustness.section import RobustnessSection
from genconvit.evaluate.score_metrics import ScoreMetrics, score_metrics
from genconvit.evaluate.shortcuts import ScoreProbes, score_probes
from genconvit.evaluate.subgroups import Subgroups, clip_figures, subgroups
from genconvit.verdict import Verdict


class EvaluationReport(BaseModel):
    """The content of evaluation_report.json."""

    model_config = ConfigDict(frozen=True)

    detector: dict[str, Any] = Field(
        description="What judged; its data_digest is that of the shards it was trained on."
    )
    evaluated_data: EvaluatedData | None = Field(None, description="What was judged.")
    decision: DecisionSettings
    command: str
    clips: int
    judged: int
    verdicts: dict[str, int]
    metrics: ClipMetrics | None = Field(description="Of verdicts; None without labels.")
    clip_scores: ScoreMetrics | None = Field(
        description="Of the scores of clips, with intervals; None without labels."
    )
    crop_scores: ScoreMetrics | None = Field(
        description="Of the scores of single crops; None without labels or where they are unknown."
    )
    coverage: Estimate = Field(description="Share of the labelled clips that are FAKE or REAL.")
    decided_error: Estimate = Field(description="Share of these that are wrong.")
    stated_error: CoverageCheck | None = Field(
        description="Whether the error rate that a calibrated detector states holds on these "
        "clips; None without one, without labels, or where something else than its own decision "
        "judged."
    )
    subgroups: Subgroups | None = Field(description="None without labels.")
    aggregations: list[AggregationResult] = Field(description=CHOOSE)
    score_probes: ScoreProbes | None = Field(
        None, description="What scores follow within the classes; None without labels."
    )
    evidence: list[dict[str, Any]] = Field(
        default_factory=list,
        description="Of the worst clips, where they were explained: the crop, and the findings of "
        "genconvit.explain with the check of its map.",
    )
    localisation: LocalisationScores | None = Field(
        None, description="How well it finds the forged parts of spliced clips, where asked for."
    )
    robustness: RobustnessSection | None = Field(
        None, description="Of distorted clips, where asked for; robustness.json has all levels."
    )
    draws: int = Field(DRAWS, description="Draws of groups of clips behind the 95 % intervals.")
    failures: list[ClipFailure]
    notes: list[str]


def evaluation_of(
    rows: Sequence[EvaluatedClip],
    detector_info: dict[str, Any],
    decision: DecisionSettings,
    command: str,
    notes: Sequence[str] = (),
    fit: Mapping[str, Any] | None = None,
) -> EvaluationReport:
    """All figures of an evaluation.

    Args:
        rows: One a clip, judged or failed. No two have the same name.
        detector_info: Id, fingerprint and settings of the detector, where one is known: values
            that fit into JSON.
        decision: Threshold and margin behind the verdicts.
        command: The command that repeats this evaluation.
        notes: Sentences that a reader must know, such as a leak between training and test.
        fit: The `fit` of the detector's calibration, where its own decision judged.

    Raises:
        UserError: A label is neither fake nor real.
        ValueError: Two clips have the same name.
    """
    if len({row.name for row in rows}) < len(rows):
        raise ValueError("two clips have the same name")
    measured = [row for row in rows if row.verdict and row.label]
    labels, verdicts = labelled(rows)
    judged: Counter[str] = Counter(row.verdict.verdict for row in rows if row.verdict)
    stated = None
    if fit is not None and labels:
        stated = coverage_check(labels, verdicts, fit["error_rate"], fit["groups"])
    return EvaluationReport(
        detector=detector_info,
        decision=decision,
        command=command,
        clips=len(rows),
        judged=judged.total(),
        verdicts={word: judged[word] for word in VERDICTS},
        metrics=clip_metrics(labels, verdicts) if labels else None,
        clip_scores=clip_figures(measured, decision.threshold) if labels else None,
        crop_scores=_crop_figures(measured, decision),
        **_decided(measured),
        stated_error=stated,
        subgroups=subgroups(measured, decision.threshold) if labels else None,
        aggregations=compare_aggregations(measured, decision),
        score_probes=_score_probes(measured) if labels else None,
        failures=[ClipFailure(clip=row.name, reason=row.failure) for row in rows if row.failure],
        notes=[*notes, *_notes(rows, decision)],
    )


def labelled(rows: Sequence[EvaluatedClip]) -> tuple[list[str], list[Verdict]]:
    """Labels and verdicts of the clips that have both."""
    pairs = [(row.label, row.verdict) for row in rows if row.verdict and row.label]
    return [label for label, _ in pairs], [verdict for _, verdict in pairs]


def _crop_figures(
    measured: Sequence[EvaluatedClip], decision: DecisionSettings
) -> ScoreMetrics | None:
    crops = [
        (row.label == "fake", calibrated(crop.p_fake, decision))
        for row in measured
        for crop in row.crops
    ]
    if not crops:
        return None
    is_fake, p_fake = zip(*crops, strict=True)
    return score_metrics(is_fake, p_fake, decision.threshold)


def _score_probes(measured: Sequence[EvaluatedClip]) -> ScoreProbes:
    scores = [row.verdict.probability_fake if row.verdict else None for row in measured]
    return score_probes(
        [row.label == "fake" for row in measured],
        [np.nan if score is None else score for score in scores],
        [row.group for row in measured],
        [row.source for row in measured],
        [row.features for row in measured],
    )


def _decided(measured: Sequence[EvaluatedClip]) -> dict[str, Estimate]:
    words = [row.verdict.verdict if row.verdict else "UNDECIDED" for row in measured]
    decided = np.array([word != "UNDECIDED" for word in words], dtype=bool)
    wrong = np.array([row.correct is False for row in measured], dtype=bool)
    groups = [row.group for row in measured]
    return {
        "coverage": measured_share(decided, np.ones(len(measured), dtype=bool), groups),
        "decided_error": measured_share(wrong, decided, groups),
    }


def _notes(rows: Sequence[EvaluatedClip], decision: DecisionSettings) -> list[str]:
    failed = sum(row.failure is not None for row in rows)
    unlabelled = sum(row.label is None for row in rows)
    notes = unreachable(decision)
    if failed:
        notes.append(f"{failed} of {len(rows)} clips could not be judged and are in no figure.")
    if unlabelled:
        notes.append(f"{unlabelled} of {len(rows)} clips have no label and are in no figure.")
    if decision.aggregation == "original":
        notes.append(
            "The aggregation original calls the larger of two sigmoids, and its P(fake) may lie "
            "below 0.5 all the same: figures at the threshold do not follow the verdicts."
        )
    return notes
