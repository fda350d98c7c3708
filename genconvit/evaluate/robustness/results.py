"""How a detector's figures change when its clips are distorted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from genconvit.config import DecisionSettings
from genconvit.evaluate.clip_failure import ClipFailure
from genconvit.evaluate.estimate import Estimate
from genconvit.evaluate.evaluated_data import EvaluatedData
from genconvit.evaluate.metrics import binary_scores, clip_scores
from genconvit.evaluate.resampling import drawn_counts, interval, resampled_scores
from genconvit.evaluate.robustness.distortions import CLEAN, DISTORTIONS, Condition, Distortion
from genconvit.verdict import Verdict

BROKEN = 0.9
"""A detector breaks where its AUC is below this share of that on the clips as they are."""


@dataclass(frozen=True)
class JudgedClip:
    """What one model said of a clip, as it is and distorted."""

    name: str
    label: str
    group: str
    """Clips of one are drawn together; empty is a group of its own."""
    verdicts: dict[Condition, Verdict]
    """With `CLEAN` among the conditions."""
    failures: dict[Condition, str] = field(default_factory=dict)
    """Why there is no verdict, such as H.264 of a still image."""

    @property
    def clean(self) -> Verdict:
        """On the clip as it is."""
        return self.verdicts[CLEAN]


@dataclass(frozen=True)
class JudgedModel:
    """A model, and the clips that it judged."""

    name: str
    """Short, and no other model's."""
    detector: dict[str, Any]
    decision: DecisionSettings
    clips: Sequence[JudgedClip]


class Change(BaseModel):
    """What a distortion changes, against the same clips as they are."""

    model_config = ConfigDict(frozen=True)

    auc: Estimate
    drift_fake: float | None = Field(description="Mean change of P(fake) of fake clips.")
    drift_real: float | None = Field(description="Mean change of P(fake) of real clips.")
    changed: float = Field(description="Share of clips with another verdict.")
    clips_without_face: float = Field(description="Share of clips without a face in any frame.")
    frames_without_face: float = Field(description="Share of sampled frames without a face.")


class SeedChange(Change):
    """One draw of a distortion."""

    seed: int


class Level(Change):
    """A distortion at one level: means over its seeds."""

    level: float
    auc_difference: Estimate
    seeds: list[SeedChange]


class Curve(BaseModel):
    """A distortion at all of its levels, from mild to strong."""

    model_config = ConfigDict(frozen=True)

    distortion: str
    clips: int = Field(description="Clips judged at every level: those that the figures are over.")
    failed: int = Field(description="Clips judged as they are, but not at every level.")
    failure: str | None = Field(description="Why, of the first of them.")
    clean_auc: Estimate = Field(description="Of the same clips as they are.")
    levels: list[Level]

    def breaks_at(self) -> Level | None:
        """The mildest level from which on the AUC stays below `BROKEN` of the clean one.

        None where there is none, or no AUC to begin with. Where so many faces are lost that there
        is no AUC any more, it breaks too.
        """
        found = None
        for level in reversed(self.levels):
            if not self.is_below(level):
                break
            found = level
        return found

    def is_below(self, level: Level) -> bool:
        """Whether the AUC is below `BROKEN` of that of the same clips as they are."""
        clean, auc = self.clean_auc.value, level.auc.value
        return clean is not None and (auc is None or auc < BROKEN * clean)


class ModelCurves(BaseModel):
    """One model in robustness.json."""

    model_config = ConfigDict(frozen=True)

    name: str
    detector: dict[str, Any]
    decision: DecisionSettings
    clips: int
    auc: Estimate = Field(description="On the clips as they are.")
    clips_without_face: float = Field(description="Of the clips as they are.")
    frames_without_face: float
    curves: list[Curve]


class RobustnessReport(BaseModel):
    """The content of robustness.json."""

    model_config = ConfigDict(frozen=True)

    command: str
    about: str = Field(description="Which clips these are.")
    evaluated_data: EvaluatedData | None = Field(None, description="The same, with a digest.")
    clips: int
    fake: int
    real: int
    draws: int = Field(description="Sets of clips behind the 95 % intervals.")
    models: list[ModelCurves]
    not_measured: dict[str, str] = Field(description="Distortions that were left out, and why.")
    failures: list[ClipFailure] = Field(description="Clips that could not be judged at all.")
    notes: list[str]

    @property
    def distortions(self) -> list[Distortion]:
        """Those that were measured."""
        return [each for each in DISTORTIONS if each.name not in self.not_measured]


def measure(model: JudgedModel, distortions: Sequence[Distortion]) -> ModelCurves:
    """The curves of a model.

    Args:
        model: Its verdicts under every condition of `distortions`, on at least one clip.
        distortions: What was measured.
    """
    labels = [clip.label for clip in model.clips]
    clean = [clip.clean for clip in model.clips]
    groups = _groups(model.clips)
    return ModelCurves(
        name=model.name,
        detector=model.detector,
        decision=model.decision,
        clips=len(clean),
        auc=_Aucs(labels, groups, [clean]).mean([0]),
        clips_without_face=_clips_without_face(clean),
        frames_without_face=_frames_without_face(clean),
        curves=[_curve(model.clips, each) for each in distortions],
    )


def _curve(clips: Sequence[JudgedClip], distortion: Distortion) -> Curve:
    levels = [
        [Condition(distortion.name, level, seed) for seed in range(distortion.seeds)]
        for level in distortion.levels
    ]
    every = [condition for conditions in levels for condition in conditions]
    whole = [clip for clip in clips if all(each in clip.verdicts for each in every)]
    failures = [clip.failures[each] for clip in clips for each in every if each in clip.failures]
    labels, groups = [clip.label for clip in whole], _groups(whole)
    clean = [clip.clean for clip in whole]
    runs = {each: [clip.verdicts[each] for clip in whole] for each in every}
    auc = _Aucs(labels, groups, [clean, *runs.values()])
    rows = dict(zip(every, range(1, len(every) + 1), strict=True))
    return Curve(
        distortion=distortion.name,
        clips=len(whole),
        failed=len(clips) - len(whole),
        failure=failures[0] if failures else None,
        clean_auc=auc.mean([0]),
        levels=[
            _level(
                level,
                auc.mean([rows[each] for each in conditions]),
                auc.change([rows[each] for each in conditions]),
                [
                    SeedChange(
                        seed=each.seed,
                        auc=auc.mean([rows[each]]),
                        **_changes(labels, clean, runs[each]),
                    )
                    for each in conditions
                ],
            )
            for level, conditions in zip(distortion.levels, levels, strict=True)
        ],
    )


class _Aucs:
    """The AUC of verdicts on the same clips (R runs), as they are and in the same draws of them."""

    def __init__(
        self, labels: Sequence[str], groups: Sequence[str], runs: Sequence[Sequence[Verdict]]
    ) -> None:
        self._value_R = [binary_scores(*clip_scores(labels, run))["auc"] for run in runs]
        scored = [np.array([v.probability_fake is not None for v in run], bool) for run in runs]
        scores = [clip_scores(labels, run) for run in runs]
        drawn = [
            [
                resampled_scores(*score, counts_DN[:, with_face])[0]
                for score, with_face in zip(scores, scored, strict=True)
            ]
            for counts_DN in (drawn_counts(groups) if labels else ())
        ]
        self._drawn_RD = np.concatenate(drawn, axis=1) if drawn else np.empty((len(runs), 0))

    def mean(self, rows: Sequence[int]) -> Estimate:
        """The mean of some runs; None where one of them has none."""
        return self._estimate(rows, 0.0, 0.0)

    def change(self, rows: Sequence[int]) -> Estimate:
        """The mean of some runs, minus that of the first run."""
        first = self._value_R[0]
        return Estimate() if first is None else self._estimate(rows, first, self._drawn_RD[0])

    def _estimate(
        self, rows: Sequence[int], first: float, first_D: float | NDArray[np.float64]
    ) -> Estimate:
        values = [value for row in rows if (value := self._value_R[row]) is not None]
        if len(values) < len(rows):
            return Estimate()
        low, high = interval(self._drawn_RD[rows].mean(axis=0) - first_D) or (None, None)
        return Estimate(value=fmean(values) - first, low=low, high=high)


def _level(level: float, auc: Estimate, difference: Estimate, seeds: list[SeedChange]) -> Level:
    return Level(
        level=level,
        auc=auc,
        auc_difference=difference,
        drift_fake=_mean([seed.drift_fake for seed in seeds]),
        drift_real=_mean([seed.drift_real for seed in seeds]),
        changed=fmean(seed.changed for seed in seeds),
        clips_without_face=fmean(seed.clips_without_face for seed in seeds),
        frames_without_face=fmean(seed.frames_without_face for seed in seeds),
        seeds=seeds,
    )


def _changes(
    labels: Sequence[str], clean: Sequence[Verdict], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    drifts: dict[str, list[float]] = {"fake": [], "real": []}
    for label, before, after in zip(labels, clean, verdicts, strict=True):
        if before.probability_fake is not None and after.probability_fake is not None:
            drifts[label].append(after.probability_fake - before.probability_fake)
    words = zip(clean, verdicts, strict=True)
    return {
        "drift_fake": fmean(drifts["fake"]) if drifts["fake"] else None,
        "drift_real": fmean(drifts["real"]) if drifts["real"] else None,
        "changed": _share([before.verdict != after.verdict for before, after in words]),
        "clips_without_face": _clips_without_face(verdicts),
        "frames_without_face": _frames_without_face(verdicts),
    }


def _groups(clips: Sequence[JudgedClip]) -> list[str]:
    return [clip.group for clip in clips]


def _clips_without_face(verdicts: Sequence[Verdict]) -> float:
    return _share([verdict.frames_with_face == 0 for verdict in verdicts])


def _frames_without_face(verdicts: Sequence[Verdict]) -> float:
    sampled = sum(verdict.frames_sampled for verdict in verdicts)
    seen = sum(verdict.frames_with_face for verdict in verdicts)
    return 1 - seen / sampled if sampled else 0.0


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
