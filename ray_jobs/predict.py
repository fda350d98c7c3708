"""Judging a few clips, in this process: starting a cluster would take longer than the answer."""

from __future__ import annotations

from pathlib import Path

from genconvit.data.catalog import find_clips
from genconvit.data.detectors import with_detector_digest
from genconvit.errors import ClipError, UserError
from genconvit.evaluate.terminal import verdict_panel
from genconvit.evaluate.verdict_page import JudgedClip, write_verdict_page
from genconvit.predict import load_detector
from ray_jobs.options import Given
from ray_jobs.output import Output

PAGE = "verdict.html"


def predict(
    model: str, inputs: list[str], given: Given, out: Path | None, device: str, output: Output
) -> None:
    """Judges clips and images; prints each verdict as it comes, and writes an HTML page.

    Args:
        model: The detector's folder or URL.
        inputs: Files and folders.
        given: `sampling` and `decision` overrule those of the detector.
        out: Folder for the page; none is written without it.
        device: `auto`, `cpu` or `cuda`.
        output: Where to tell of it.

    Raises:
        UserError: The detector cannot be loaded, or not one of the inputs can be judged.
    """
    detector = load_detector(model, device)
    with_detector_digest(detector.info.preprocess)  # what it lacks is told once
    settings = given.settings(base=detector.info.settings())
    sampling, decision = settings.sampling, settings.decision
    if not inputs:
        raise UserError("give at least one clip, image or folder to judge.")
    clips: list[str] = []
    failures: list[str] = []
    for name in inputs:
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
                judged.append(JudgedClip(verdict, crops))
                output.say(verdict_panel(verdict, decision))
                output.emit(verdict.model_dump(mode="json"))
            bar.advance()
    if not judged:
        more = f" (and {len(failures) - 1} more failed)" if len(failures) > 1 else ""
        raise UserError(failures[0] + more)
    for failure in failures:
        output.warn(failure)
    if out is not None:
        write_verdict_page(out / PAGE, judged, detector.info.summary(), decision)
        output.say(f"Page: {out / PAGE}")


if __name__ == "__main__":
    import sys

    from ray_jobs.cli import main

    main(["predict", *sys.argv[1:]])
