"""How well the intervals of verdicts meet the forged parts of spliced clips.

A detector that has never seen a clip change may still be right about whole clips; only clips that
are forged in part show whether it knows where.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from genconvit.config import SamplingSettings
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import frame_step
from genconvit.evaluate.estimate import Estimate
from genconvit.evaluate.localisation.intervals import union, why_not_searched
from genconvit.evaluate.localisation.splice import SplicedClip
from genconvit.evaluate.resampling import DRAWS, drawn_counts, estimated, ratio, resampled_scores
from genconvit.verdict import Verdict

Spans = Sequence[tuple[float, float]]
HIT = 0.5
"""IoU from which an interval counts as found, as in the temporal localisation of actions
(https://arxiv.org/abs/1604.04494)."""
DENSE = SamplingSettings(frame_interval=5)
"""Six frames a second of the usual 30: edges are then known to a tenth of a second."""


class SplicedResult(BaseModel):
    """One spliced clip: where it is forged and where it looks so."""

    model_config = ConfigDict(frozen=True)

    clip: str
    duration_s: float
    forged: list[tuple[float, float]]
    found: list[tuple[float, float]] = Field(description="Intervals of all its tracks, joined.")
    iou: float
    iou_of_all: float = Field(description="What marking the whole clip would get.")


class LocalisationScores(BaseModel):
    """Figures over spliced clips, with 95 % bootstrap intervals over groups of clips."""

    model_config = ConfigDict(frozen=True)

    clips: int
    frames: int = Field(description="Sampled frames with a face.")
    frame_auc: Estimate = Field(description="Forged frames against the others of all clips.")
    iou: Estimate = Field(description="Mean over clips of found and forged time's IoU.")
    iou_pooled: Estimate = Field(description="Sum of the intersections over that of the unions.")
    detection_rate: Estimate = Field(
        description="Forged parts that some interval meets with an IoU of at least 0.5."
    )
    iou_of_all: float = Field(description="Mean IoU of marking every clip from end to end.")
    not_searched: int = Field(description="Clips whose frames lay too far apart for intervals.")
    failures: list[str] = []
    results: list[SplicedResult]

    def sentence(self) -> str:
        """The finding in plain words."""
        return (
            f"On {self.clips} clips spliced of real and forged parts, single frames are told apart "
            f"with an AUC of {self.frame_auc.text()}; the marked intervals meet the forged parts "
            f"with a mean IoU of {self.iou.text()} (marking everything: {self.iou_of_all:.3f}), "
            f"and {self.detection_rate.text()} of the parts are found with an IoU of {HIT:g}."
        )


def iou(first: Spans, second: Spans) -> float:
    """Intersection over union of two stretches of time; 1 where both are empty."""
    shared, whole = _overlap(first, second)
    return shared / whole if whole else 1.0


def localisation_scores(
    truths: Sequence[SplicedClip],
    verdicts: Sequence[Verdict],
    failures: Sequence[str] = (),
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> LocalisationScores:
    """Compares verdicts with the truth.

    Args:
        truths: The spliced clips.
        verdicts: One a clip, in the same order.
        failures: Of other clips, to be told.
        draws: Draws of the bootstrap.
        seed: Of the draws.

    Raises:
        UserError: There is no clip.
    """
    if not truths:
        why = f" ({failures[0]})" if failures else ""
        raise UserError(f"no spliced clip to measure localisation on{why}.")
    results = [_result(*pair) for pair in zip(truths, verdicts, strict=True)]
    frames = [_frames(*pair) for pair in zip(truths, verdicts, strict=True)]
    forged_F, p_fake_F = (np.concatenate(column) for column in zip(*frames, strict=True))
    frames_N = [len(p_fakes) for _, p_fakes in frames]
    sums_NK = np.array([_sums(result) for result in results])

    def figures(counts_DN: NDArray[np.int64]) -> NDArray[np.float64]:
        """Those of each draw (4, D)."""
        auc_D, _ = resampled_scores(forged_F, p_fake_F, np.repeat(counts_DN, frames_N, axis=1))
        clips, iou_sum, shared, whole, hits, parts = (counts_DN @ sums_NK).T
        return np.stack([auc_D, ratio(iou_sum, clips), ratio(shared, whole), ratio(hits, parts)])

    found_4 = figures(np.ones((1, len(results)), np.int64))[:, 0]
    groups = [truth.group for truth in truths]
    drawn_4D = np.hstack([figures(counts_DN) for counts_DN in drawn_counts(groups, draws, seed)])
    values = [None if np.isnan(value) else float(value) for value in found_4]
    auc, iou_mean, pooled, rate = map(estimated, values, drawn_4D)
    return LocalisationScores(
        clips=len(results),
        frames=len(p_fake_F),
        frame_auc=auc,
        iou=iou_mean,
        iou_pooled=pooled,
        detection_rate=rate,
        iou_of_all=float(np.mean([result.iou_of_all for result in results])),
        not_searched=sum(
            bool(why_not_searched(frame_step(verdict.timeline))) for verdict in verdicts
        ),
        failures=list(failures),
        results=results,
    )


def _result(truth: SplicedClip, verdict: Verdict) -> SplicedResult:
    found = union([(interval.start_s, interval.end_s) for interval in verdict.intervals])
    return SplicedResult(
        clip=verdict.clip,
        duration_s=truth.duration_s,
        forged=list(truth.forged),
        found=found,
        iou=iou(found, truth.forged),
        iou_of_all=iou([(0.0, truth.duration_s)], truth.forged),
    )


def _sums(result: SplicedResult) -> tuple[float, ...]:
    """What a clip adds: 1, IoU, seconds shared and covered, parts found, parts."""
    hits = sum(any(iou([own], [part]) >= HIT for own in result.found) for part in result.forged)
    return 1, result.iou, *_overlap(result.found, result.forged), hits, len(result.forged)


def _frames(truth: SplicedClip, verdict: Verdict) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Of each frame with a face: whether it is forged, and P(fake) of its most suspicious face."""
    highest: dict[float, float] = {}
    for point in verdict.timeline:
        highest[point.time_s] = max(point.probability_fake, highest.get(point.time_s, 0.0))
    forged = [any(start <= time_s < end for start, end in truth.forged) for time_s in highest]
    return np.array(forged, bool), np.array(list(highest.values()), float)


def _overlap(first: Spans, second: Spans) -> tuple[float, float]:
    """Seconds that two stretches of time share, and that either covers."""
    first, second = union(first), union(second)
    shared = sum(max(0.0, min(b, d) - max(a, c)) for a, b in first for c, d in second)
    return shared, sum(end - start for start, end in (*first, *second)) - shared
