"""Judging a few clips, in this process: starting a cluster would take longer than the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genconvit.data.catalog import find_clips
from genconvit.data.detectors import with_detector_digest
from genconvit.errors import ClipError, UserError
from genconvit.evaluate.aggregate import unreachable
from genconvit.evaluate.evidence.figure import write_evidence
from genconvit.evaluate.pages import clock
from genconvit.evaluate.terminal import verdict_panel
from genconvit.evaluate.verdict_page import JudgedClip, write_verdict_page
from genconvit.explain import ClipEvidence, evidence_for
from genconvit.predict import load_detector
from genconvit.storage import is_url
from genconvit.verdict import Verdict
from ray_jobs.options import Given
from ray_jobs.output import Output

PAGE = "verdict.html"


def predict(
    model: str,
    inputs: list[str],
    given: Given,
    out: Path | None,
    device: str,
    output: Output,
    *,
    explain: bool = False,
) -> None:
    """Judges clips and images; prints each verdict as it comes, and writes an HTML page.

    Args:
        model: The detector's folder or URL.
        inputs: Files and folders.
        given: `sampling` and `decision` overrule those of the detector.
        out: Folder for the page; none is written without it.
        device: `auto`, `cpu` or `cuda`.
        output: Where to tell of it.
        explain: Explain the crops that decided most: numbers here, pictures in `out`.

    Raises:
        UserError: The detector cannot be loaded, or not one of the inputs can be judged.
    """
    detector = load_detector(model, device)
    with_detector_digest(detector.info.preprocess)  # what it lacks is told once
    settings = given.overruling(detector.info, "sampling", "decision")
    sampling, decision = settings.sampling, settings.decision
    for line in unreachable(decision):
        output.warn(line)
    if not inputs:
        raise UserError("give at least one clip, image or folder to judge.")
    clips: list[str] = []
    failures: list[str] = []
    for name in inputs:
        if is_url(name):
            raise UserError(f"{name}: clips behind a URL are judged on the cluster; give --table.")
        try:
            clips += [str(clip.path) for clip in find_clips(Path(name))]
        except UserError as error:
            failures.append(str(error))
            output.emit({"clip": name, "error": str(error)})
    judged: list[JudgedClip] = []
    with output.bar("judging", total=len(clips)) as bar:
        for clip in clips:
            try:
                verdict, crops = detector.judge_with_crops(
                    clip, sampling=sampling, decision=decision
                )
            except ClipError as error:
                failures.append(str(error))
                output.emit({"clip": clip, "error": str(error)})
            else:
                output.say(verdict_panel(verdict, decision))
                told = verdict.model_dump(mode="json")
                evidence = None
                if explain:
                    evidence = evidence_for(detector, verdict, crops, decision=decision)
                    told["evidence"] = _told(evidence, verdict, out, output)
                judged.append(JudgedClip(verdict, crops, evidence))
                output.emit(told)
            bar.advance()
    if not judged:
        more = f" (and {len(failures) - 1} more failed)" if len(failures) > 1 else ""
        raise UserError(failures[0] + more)
    for failure in failures:
        output.warn(failure)
    if out is not None:
        write_verdict_page(out / PAGE, judged, detector.info.summary(), decision)
        output.say(f"Page: {out / PAGE}")


def _told(
    evidence: ClipEvidence, verdict: Verdict, out: Path | None, output: Output
) -> list[dict[str, Any]]:
    """The evidence in numbers, and the names of its pictures where there is a folder for them."""
    pictures = write_evidence(out, verdict.clip, evidence) if out is not None else []
    found = []
    for place, (point, crop) in enumerate(zip(evidence.points, evidence.crops, strict=True)):
        where = {"track": point.track, "frame_index": point.frame_index, "time_s": point.time_s}
        picture = {"picture": pictures[place]} if pictures else {}
        found.append({**where, **crop.findings.model_dump(mode="json"), **picture})
        said = f"{crop.findings.check.sentence} {crop.findings.agreement.sentence}"
        output.say(f"  track {point.track}, {clock(point.time_s)}: {said}")
    return found


if __name__ == "__main__":
    import sys

    from ray_jobs.cli import main

    main(["predict", *sys.argv[1:]])
