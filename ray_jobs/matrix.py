"""Models x datasets x methods on Ray: every model on every dataset, in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genconvit.config import CLASSES
from genconvit.data.catalog import attach_labels, find_clips
from genconvit.data.clip import Clip
from genconvit.data.clip_table import ClipRecord
from genconvit.data.shards import SPLITS, FrameDataset, is_dataset, open_dataset
from genconvit.errors import UserError
from genconvit.evaluate.evaluation import ClipFailure
from genconvit.evaluate.matrix.report import matrix_table, write_matrix
from genconvit.evaluate.matrix.results import JudgedDataset, MatrixClip, MatrixReport
from genconvit.evaluate.names import short_names
from genconvit.storage import absolute
from genconvit.wording import plural
from ray_jobs.cluster import connected
from ray_jobs.evaluate import Judging, knows_split
from ray_jobs.evaluate_scores import command_of
from ray_jobs.many_models import Model, judge_all, open_models, refuse_twice
from ray_jobs.options import Given
from ray_jobs.output import Output, new_out_folder

_Known = Clip | ClipRecord


@dataclass(frozen=True)
class _Dataset:
    """A dataset that was looked at: shards, or clips."""

    name: str
    location: str
    split: str | None
    clips: dict[str, _Known]
    """Labelled, by name; of shards those of the split."""
    shards: FrameDataset | None


def matrix(
    models: Sequence[str],
    given: Given,
    output: Output,
    *,
    data: Sequence[str],
    video_dir: Path | None = None,
    ground_truth: Path | None = None,
    split: str | None = None,
    out: Path | None = None,
    batch_size: int | None = None,
) -> MatrixReport:
    """Judges every dataset with every model, and writes a heat map and a page.

    Args:
        models: Detectors' folders or URLs.
        given: `sampling` and `decision` overrule those of every detector.
        output: Where to tell of it.
        data: Shards, or folders or CSVs of clips.
        video_dir: Nothing: clips are given as `data`, like shards.
        ground_truth: CSV `video_name,label` for clips without labels, where `data` is one of clips.
        split: Split to judge; by default test, where there is none val. Clips without any split are
            judged all.
        out: Folder for the results; by default a new one below `runs/`.
        batch_size: Crops a pass through a network; by default a usual number.

    Raises:
        UserError: The models and datasets do not fit, one is given twice, or nothing is judged.
    """
    if not data or video_dir is not None:
        raise UserError("--matrix needs --data with shards or clips, and no --video-dir.")
    if split is not None and split not in SPLITS:
        raise UserError(f"--split {split}: the splits are {', '.join(SPLITS)}.")
    places = [absolute(each) for each in data]
    refuse_twice("--data", places)
    if ground_truth is not None and (len(places) > 1 or is_dataset(places[0])):
        raise UserError("--ground-truth goes with a single --data of clips.")
    opened = open_models(models, given)
    datasets = [
        _look_at(name, place, split, ground_truth)
        for name, place in zip(short_names(places), places, strict=True)
    ]
    for dataset in datasets:
        _refuse_other_crops(dataset, opened)
    out = out or new_out_folder("matrix")
    with connected(output) as ray_logs:
        output.say(
            f"{plural(len(opened), 'model')} on {plural(len(datasets), 'dataset')}. "
            f"Ray's logs: {ray_logs}"
        )
        judged = [_judged(dataset, opened, batch_size, output) for dataset in datasets]
    report = write_matrix(
        out,
        judged,
        {model.name: model.info.summary() for model in opened},
        command=command_of(_words(models, data, ground_truth, split), given),
        notes=_notes(datasets),
    )
    output.say(matrix_table(report))
    output.say(f"Page: {out / 'matrix.html'}")
    output.emit({"event": "matrix", "out": str(out), **report.model_dump(mode="json")})
    return report


def _look_at(name: str, place: str, split: str | None, ground_truth: Path | None) -> _Dataset:
    shards = open_dataset(place) if is_dataset(place) else None
    clips: Sequence[_Known]
    if shards is not None:
        clips = shards.clips()
    else:
        clips = find_clips(place)
        clips = attach_labels(clips, ground_truth) if ground_truth else clips
    clips = [clip for clip in clips if clip.label]
    if not clips:
        raise UserError(f"{place}: no clip has a label; put clips below real/ and fake/.")
    chosen = None
    if any(clip.split for clip in clips):
        chosen = split or _usual_split(clips)
    if chosen is not None:
        clips = [clip for clip in clips if clip.split == chosen]
        if not clips:
            raise UserError(f"{place} has no clip in its {chosen} split; choose another --split.")
    return _Dataset(name, place, chosen, {clip.name: clip for clip in clips}, shards)


def _usual_split(clips: Sequence[_Known]) -> str:
    labels = {clip.label for clip in clips if clip.split == "test"}
    return "test" if labels == set(CLASSES) else "val"


def _refuse_other_crops(dataset: _Dataset, models: Sequence[Model]) -> None:
    for model in models:
        needed = model.info.preprocess.fingerprint()
        made = needed if dataset.shards is None else dataset.shards.preprocess.fingerprint()
        if made != needed:
            raise UserError(
                f"{dataset.location} was extracted with preprocessing {made}, and the model "
                f"{model.name} needs {needed}; extract it with that model's settings, or give the "
                "clips themselves."
            )


def _judged(
    dataset: _Dataset, models: Sequence[Model], batch_size: int | None, output: Output
) -> JudgedDataset:
    """The verdicts on the clips that every model judged, and why others are missing."""
    found = {}
    failures: dict[str, str] = {}
    if dataset.shards is None:
        asked = [clip for clip in dataset.clips.values() if isinstance(clip, Clip)]
        judged = judge_all(models, asked, [], batch_size, output)
        failures = judged.failures
        for name, verdicts in judged.by_model.items():
            found[name] = {clip.name: clip.clean for clip in verdicts}
    else:
        assert dataset.split is not None
        for model in models:
            how = (model.path, model.info, model.sampling, model.decision, batch_size, output)
            rows = Judging(*how).shards(dataset.shards, dataset.split)
            failures |= {row.name: row.failure for row in rows if row.failure}
            found[model.name] = {row.name: row.verdict for row in rows if row.verdict}
    names = [name for name in dataset.clips if all(name in each for each in found.values())]
    if not names:
        why = next(iter(failures.values()), "no clip has a label")
        raise UserError(f"{dataset.location}: no clip could be judged; the first: {why}")
    clips = [dataset.clips[name] for name in names]
    return JudgedDataset(
        name=dataset.name,
        location=dataset.location,
        split=dataset.split,
        digest=dataset.shards.digest if dataset.shards else None,
        clips=[
            MatrixClip(
                str(clip.label),
                clip.method,
                clip.group,
                {model: verdicts[clip.name] for model, verdicts in found.items()},
            )
            for clip in clips
        ],
        flatters=_flattered(dataset, models),
        failures=[ClipFailure(clip=name, reason=why) for name, why in failures.items()],
    )


def _flattered(dataset: _Dataset, models: Sequence[Model]) -> dict[str, str]:
    if dataset.shards is None or dataset.split is None:
        return {}
    what = "trained on" if dataset.split == "train" else "chosen by"
    return {
        model.name: f"{what} the {dataset.split} split of"
        for model in models
        if knows_split(model.info, dataset.shards, dataset.split)
    }


def _notes(datasets: Sequence[_Dataset]) -> list[str]:
    unknown = [dataset.name for dataset in datasets if dataset.shards is None]
    if not unknown:
        return []
    names = ", ".join(unknown)
    return [f"Clips, unlike shards, do not tell whether a model was trained on them: {names}."]


def _words(
    models: Sequence[str], data: Sequence[str], ground_truth: Path | None, split: str | None
) -> list[str]:
    words = ["--matrix", *(word for model in models for word in ("--model", model))]
    words += [word for each in data for word in ("--data", each)]
    words += ["--split", split] if split else []
    return [*words, "--ground-truth", str(ground_truth)] if ground_truth else words


if __name__ == "__main__":
    import sys

    from ray_jobs.cli import main

    main(["evaluate", "--matrix", *sys.argv[1:]])
