"""Models x datasets x methods on Ray: every model on every dataset, in one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from genconvit.data.shards import SPLITS, is_dataset
from genconvit.errors import UserError
from genconvit.evaluate.matrix.report import matrix_table, write_matrix
from genconvit.evaluate.matrix.results import JudgedDataset, MatrixReport, Problem
from genconvit.evaluate.names import short_names
from genconvit.storage import absolute
from genconvit.wording import plural
from ray_jobs.cluster import connected
from ray_jobs.evaluate_scores import command_of
from ray_jobs.many_models import open_models, refuse_twice
from ray_jobs.matrix_data import Dataset, judge, look_at
from ray_jobs.options import Given
from ray_jobs.output import Output, new_out_folder


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

    A dataset that cannot be judged does not keep the others from it.

    Raises:
        UserError: A model cannot be opened, one or a dataset is given twice, or nothing is judged.
    """
    if not data or video_dir is not None:
        raise UserError("--matrix needs --data with shards or clips, and no --video-dir.")
    if split is not None and split not in SPLITS:
        raise UserError(f"--split {split}: the splits are {', '.join(SPLITS)}.")
    places = [absolute(each) for each in data]
    refuse_twice("--data", places)
    if ground_truth is not None and (len(places) > 1 or is_dataset(places[0])):
        raise UserError("--ground-truth goes with a single --data of clips.")
    opened = open_models(models, given, output)
    datasets = [
        look_at(name, place, split, str(ground_truth) if ground_truth else None, opened)
        for name, place in zip(short_names(places), places, strict=True)
    ]
    if all(len(dataset.problems) == len(opened) for dataset in datasets):
        raise _nothing_judged(datasets)
    if all(dataset.shards for dataset in datasets) and given.names("sampling"):
        raise UserError("shards have their crops already; leave settings of sampling out.")
    for dataset in datasets:  # before hours are spent on the others
        _warn(dataset.name, dataset.problems, len(opened), output)
    out = out or new_out_folder("matrix")
    judged = []
    with connected(output) as ray_logs:
        output.say(
            f"{plural(len(opened), 'model')} on {plural(len(datasets), 'dataset')}. "
            f"Ray's logs: {ray_logs}"
        )
        for dataset in datasets:
            found = judge(dataset, opened, batch_size, output)
            known = dataset.problems
            new = {name: why for name, why in found.problems.items() if name not in known}
            _warn(dataset.name, new, len(opened), output)
            judged.append(found)
    if not any(found.clips for found in judged):
        raise _nothing_judged(judged)
    report = write_matrix(
        out,
        judged,
        {model.name: model.info.summary() for model in opened},
        command=command_of(_words(models, data, ground_truth, split), given),
        notes=_notes(datasets),
    )
    output.say(matrix_table(report))
    whole = sum(not found.problems for found in judged)
    if whole < len(judged):
        output.say(f"{whole} of {plural(len(judged), 'dataset')} judged by every model.")
    output.say(f"Page: {out / 'matrix.html'}")
    output.emit({"event": "matrix", "out": str(out), **report.model_dump(mode="json")})
    return report


def _warn(name: str, problems: Mapping[str, Problem], every: int, output: Output) -> None:
    reasons = {problem.reason for problem in problems.values()}
    if len(problems) == every and len(reasons) == 1:
        output.warn(f"{name} is not judged: {reasons.pop()}")
        return
    for model, problem in problems.items():
        output.warn(f"{name} is not judged by {model}: {problem.reason}")


def _nothing_judged(datasets: Sequence[Dataset] | Sequence[JudgedDataset]) -> UserError:
    why = next(problem.reason for each in datasets for problem in each.problems.values())
    if len(datasets) == 1:
        return UserError(why)
    return UserError(f"none of the {len(datasets)} datasets can be judged; the first: {why}")


def _notes(datasets: Sequence[Dataset]) -> list[str]:
    unknown = [each.name for each in datasets if each.clips and each.shards is None]
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
