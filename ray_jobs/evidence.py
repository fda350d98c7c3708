"""Why a detector scored a crop so, for the pages of an evaluation."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import ray

from genconvit.config import DecisionSettings
from genconvit.evaluate.cases import Evidence, Explain
from genconvit.evaluate.evidence.figure import error_scale, evidence_figure
from genconvit.evaluate.pages import clock
from genconvit.explain import evidence_for
from genconvit.predict import load_detector
from genconvit.storage import absolute
from genconvit.verdict import Verdict
from ray_jobs.output import Output


def explainer(model: str, decision: DecisionSettings, output: Output) -> Explain:
    """Explains the crop of each clip that decided most, in Ray tasks.

    Args:
        model: The detector's folder or URL.
        decision: Behind the verdicts.
        output: Where to show how far it is.
    """
    gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
    device = "cuda" if gpus else "cpu"

    def explain(clips: Sequence[tuple[Verdict, Sequence[bytes]]]) -> list[list[Evidence]]:
        task = ray.remote(num_cpus=1, num_gpus=gpus)(_explain)
        found = [task.remote(absolute(model), device, *clip, decision) for clip in clips]
        with output.bar("explaining", total=len(found)) as bar:
            for each in found:
                ray.wait([each])
                bar.advance()
        return [_whole(each) for each in found]

    return explain


def _whole(found: Any) -> list[Evidence]:
    try:
        return ray.get(found)
    except ray.exceptions.RayError:
        return []  # for want of memory, perhaps: the figures are worth something without it


def _explain(
    model: str, device: str, verdict: Verdict, crops: Sequence[bytes], decision: DecisionSettings
) -> list[Evidence]:
    found = evidence_for(load_detector(model, device), verdict, crops, decision=decision, count=1)
    scale = error_scale(found.crops)
    explained = []
    for point, crop in zip(found.points, found.crops, strict=True):
        png = io.BytesIO()
        title = f"track {point.track}, {clock(point.time_s)}"
        evidence_figure(crop, title, scale).savefig(png)
        findings = {"clip": verdict.clip, "frame_index": point.frame_index, "track": point.track}
        explained.append(Evidence(png.getvalue(), findings | crop.findings.model_dump(mode="json")))
    return explained
