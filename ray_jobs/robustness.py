"""Robustness on Ray: the same clips as they are and distorted, judged by one or several models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray

from genconvit.data.catalog import attach_labels, find_clips
from genconvit.data.clip import Clip
from genconvit.data.pick import balanced_clips
from genconvit.errors import UserError
from genconvit.evaluate.clip_failure import ClipFailure
from genconvit.evaluate.robustness.distortions import conditions
from genconvit.evaluate.robustness.h264 import missing_h264
from genconvit.evaluate.robustness.report import robustness_tables, write_robustness
from genconvit.evaluate.robustness.results import JudgedModel, RobustnessReport
from genconvit.wording import plural
from ray_jobs.cluster import connected
from ray_jobs.evaluate_scores import command_of
from ray_jobs.evaluated_data import data_of_clips
from ray_jobs.many_models import Model, judge_all, open_models
from ray_jobs.options import Given
from ray_jobs.output import Output, new_out_folder

NEEDS_CLIPS = (
    "--robustness distorts clips before their faces are found; give --video-dir with clips, and no "
    "--data."
)


def robustness(
    models: Sequence[str],
    given: Given,
    output: Output,
    *,
    video_dir: Path | None,
    data: Sequence[str] = (),
    ground_truth: Path | None = None,
    clips: int,
    out: Path | None = None,
    batch_size: int | None = None,
) -> RobustnessReport:
    """Distorts clips in levels, judges them with every model, and writes curves and a page.

    Args:
        models: Detectors' folders or URLs.
        given: `sampling` and `decision` overrule those of every detector.
        output: Where to tell of it.
        video_dir: Folder or CSV of clips.
        data: Nothing: crops cannot be distorted any more.
        ground_truth: CSV `video_name,label`, where the folder does not tell the labels.
        clips: At most so many are judged, as many fake as real; the same ones every time.
        out: Folder for the results; by default a new one below `runs/`.
        batch_size: Crops a pass through a network; by default a usual number.

    Raises:
        UserError: The models or clips do not allow it, or every clip failed.
    """
    if video_dir is None or data:
        raise UserError(NEEDS_CLIPS)
    opened = open_models(models, given, output)
    every = find_clips(video_dir)
    every = attach_labels(every, ground_truth) if ground_truth else every
    chosen = choose(every, clips, video_dir)
    out = out or new_out_folder("robustness")
    with connected(output) as ray_logs:
        output.say(f"Ray's logs: {ray_logs}")
        return judge_distorted(
            opened,
            chosen,
            out,
            output,
            command=command_of(_words(models, video_dir, ground_truth, clips), given),
            batch_size=batch_size,
        )


@dataclass(frozen=True)
class Chosen:
    """The clips that are distorted."""

    clips: Sequence[Clip]
    every: int
    """Of so many."""
    location: Path


def choose(every: Sequence[Clip], most: int, location: Path) -> Chosen:
    """Chooses labelled clips, as many fake as real; the same ones every time.

    Args:
        every: All clips.
        most: At most so many.
        location: Where they are from, for messages.

    Raises:
        UserError: None has a label.
    """
    chosen = balanced_clips(every, most)
    if not chosen:
        raise UserError(f"{location}: no clip has a label; give --ground-truth.")
    return Chosen(chosen, len(every), location)


def judge_distorted(
    models: Sequence[Model],
    chosen: Chosen,
    out: Path,
    output: Output,
    *,
    command: str,
    batch_size: int | None = None,
    in_evaluation: bool = False,
) -> RobustnessReport:
    """Judges clips as they are and distorted on the cluster that is connected, and writes it all.

    Args:
        models: Opened.
        chosen: The clips.
        out: Folder for the results.
        output: Where to tell of it.
        command: What repeats it.
        batch_size: Crops a pass through a network; by default a usual number.
        in_evaluation: The report of an evaluation comes to lie in the same folder.

    Raises:
        UserError: Every clip failed.
    """
    count = len(chosen.clips)
    missing = ray.get(ray.remote(_missing_encoder).remote())
    if missing:
        output.warn(f"H.264 is not measured: {missing}.")
    wanted = conditions(with_h264=not missing)
    output.say(
        f"Judging {plural(count, 'clip')} under {len(wanted)} conditions with "
        f"{plural(len(models), 'model')}."
    )
    judged = judge_all(models, chosen.clips, wanted, batch_size, output)
    if len(judged.failures) == count:
        first = next(iter(judged.failures.values()))
        raise UserError(f"none of the {count} clips could be judged; the first: {first}")
    report = write_robustness(
        out,
        [
            JudgedModel(
                model.name, model.info.summary(), model.decision, judged.by_model[model.name]
            )
            for model in models
        ],
        command=command,
        about=f"{plural(count - len(judged.failures), 'clip')} of {chosen.location}",
        not_measured={"h264": missing} if missing else {},
        failures=[ClipFailure(clip=name, reason=why) for name, why in judged.failures.items()],
        notes=_notes(chosen.every, count, len(judged.failures)),
        evaluated_data=data_of_clips(chosen.location, chosen.clips),
        in_evaluation=in_evaluation,
    )
    output.say(robustness_tables(report))
    for failure in report.failures[:20]:
        output.warn(f"{failure.clip}: {failure.reason}")
    output.say(f"Page: {out / 'robustness.html'}")
    output.emit({"event": "robustness", "out": str(out), **report.model_dump(mode="json")})
    return report


def _missing_encoder() -> str:
    """Where clips are cropped, which may be another machine than this."""
    return missing_h264()


def _notes(every: int, chosen: int, failed: int) -> list[str]:
    notes = []
    if chosen < every:
        notes.append(f"{chosen} of {every} clips were chosen, by label, method and chance.")
    if failed:
        notes.append(f"{failed} of {chosen} clips could not be judged and are in no figure.")
    return notes


def _words(
    models: Sequence[str], video_dir: Path, ground_truth: Path | None, clips: int
) -> list[str]:
    words = ["--robustness", *(word for model in models for word in ("--model", model))]
    words += ["--video-dir", str(video_dir), "--clips", str(clips)]
    return [*words, "--ground-truth", str(ground_truth)] if ground_truth else words


if __name__ == "__main__":
    import sys

    from ray_jobs.cli import main

    main(["evaluate", "--robustness", *sys.argv[1:]])
