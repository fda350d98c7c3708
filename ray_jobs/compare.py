"""Variants of a detector on the same clips: each is trained or loaded, judged and timed."""

from __future__ import annotations

import platform
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import ray
import torch

from genconvit.checkpoint import read_info
from genconvit.config import LossSettings, SamplingSettings
from genconvit.data.catalog import Clip, attach_labels, find_clips
from genconvit.data.crops import extract_crops
from genconvit.data.shards import (
    SPLITS,
    FrameDataset,
    read_clips,
    refuse_other_crops,
)
from genconvit.data.training_data import TrainingData, refuse_leaks
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import unreachable
from genconvit.evaluate.comparison import results as comparison_results
from genconvit.evaluate.comparison.report import comparison_tables, write_comparison
from genconvit.evaluate.comparison.results import ComparisonReport, VariantRun
from genconvit.evaluate.evaluated import EvaluatedClip
from genconvit.footprint import footprint
from genconvit.overrides import Assignment, resolve_settings
from genconvit.predict import CROPS_A_PASS, load_detector
from genconvit.speed import Speed, measure_speeds
from genconvit.storage import absolute
from genconvit.wording import plural
from ray_jobs.cluster import connected
from ray_jobs.evaluate import knows_split
from ray_jobs.extract import dataset_for
from ray_jobs.failures import reason_of
from ray_jobs.judging import Judging
from ray_jobs.options import Given
from ray_jobs.output import Output, new_out_folder
from ray_jobs.train_many import train_runs
from ray_jobs.variants import Run, Variant, check_variant, parse_variant, plan_runs

TIMED_CLIPS = 4
"""Clips on which speed is measured."""


def compare(
    variants: Sequence[str],
    given: Given,
    output: Output,
    *,
    data: Path | None = None,
    video_dir: Path | None = None,
    ground_truth: Path | None = None,
    seeds: Sequence[int] = (0,),
    split: str | None = None,
    out: Path | None = None,
    allow_leakage: bool = False,
) -> ComparisonReport:
    """Trains or loads variants, judges the same clips with each, and writes one comparison.

    Args:
        variants: `ARCH[,setting=value...]`, such as `v2,attention=false`: trained on `data`; or a
            detector's folder or URL: loaded.
        given: Settings that all variants have in common; its `decision` judges all of them.
        output: Where to tell of it.
        data: Shards, or a folder or CSV of clips, which is extracted first.
        video_dir: Folder or CSV of clips to judge, instead of a split of `data`; each detector
            then crops them as it was trained.
        ground_truth: CSV `video_name,label` for `video_dir`.
        seeds: A variant is trained once with each.
        split: Split of `data` to judge; by default `test`, or `val` where there is none.
        out: Folder for everything; by default a new one below `runs/`. What is trained there
            already is not trained again.
        allow_leakage: Train even where validation clips are known from training.

    Raises:
        UserError: A variant, the data or the cluster do not allow it, or every variant failed.
    """
    asked = [parse_variant(text) for text in variants]
    _check(asked, seeds, data, video_dir, ground_truth, split, given)
    for variant in asked:
        check_variant(variant, given, data)
    out = (out or new_out_folder("compare")).resolve()
    _refuse_taken(out)
    for line in unreachable(given.settings().decision):
        output.warn(line)
    with connected(output) as ray_logs:
        output.say(f"Comparing {len(asked)} variants in {out}\nRay's logs: {ray_logs}")
        # How verdicts are made must not say which frames are extracted to train on.
        training = Given(given.config, _without(given, "decision."))
        dataset = dataset_for(data, training.settings(), output) if data else None
        crops = TrainingData.of(dataset) if dataset else None
        plans = [plan_runs(variant, given, seeds, crops, out) for variant in asked]
        if crops is not None and any(run.folder for plan in plans for run in plan):
            refuse_leaks(crops, allow_leakage)
        if training.settings().stream.cache:
            output.warn("compare keeps no decoded crops; stream.cache is for train and tune.")
        clips = _labelled_clips(video_dir, ground_truth)
        if clips is None and dataset is not None:
            split = split or _split_of(dataset)
            dataset.row_groups(split)  # one that is empty is told here, not hours later
            for run in (run for plan in plans for run in plan if run.folder is None):
                refuse_other_crops(dataset, read_info(run.detector).preprocess)
        failed = train_runs(plans, crops, given, output)
        judged = _judge_all(plans, failed, given, output, clips, dataset, split)
        if not judged:
            reason = next(iter(failed.values()))
            raise UserError(f"no variant could be compared; the first: {reason}")
        speeds, device = _time(plans, judged, given, output, clips, dataset, split)
    results = [
        _result(variant, plan, judged, speeds, failed.get(variant.name))
        for variant, plan in zip(asked, plans, strict=True)
    ]
    report = write_comparison(
        out,
        results,
        decision=given.settings().decision,
        command=_command(variants, given, data, video_dir, ground_truth, seeds, split),
        about=f"the clips in {video_dir}" if video_dir else f"the {split} split of {data}",
        device=device,
        notes=_notes(plans, judged, seeds, None if video_dir else dataset, split),
    )
    output.say(comparison_tables(report))
    output.say(f"Page: {out / 'comparison.html'}\nTable: {out / 'comparison.md'}")
    output.emit({"event": "compared", "out": str(out), **report.model_dump(mode="json")})
    return report


def _check(
    asked: Sequence[Variant],
    seeds: Sequence[int],
    data: Path | None,
    video_dir: Path | None,
    ground_truth: Path | None,
    split: str | None,
    given: Given,
) -> None:
    if not asked:
        raise UserError("give --variants, such as --variants original v2 v2,attention=false.")
    for things, what in (([v.slug for v in asked], "variant"), (list(seeds), "seed")):
        twice = [thing for thing, count in Counter(things).items() if count > 1]
        if twice:
            raise UserError(f"{what} {twice[0]} is given twice; leave one out.")
    if data is None and video_dir is None:
        raise UserError("give --data with shards or clips, or --video-dir with clips to judge.")
    if ground_truth is not None and video_dir is None:
        raise UserError("--ground-truth goes with --video-dir; --data has its labels.")
    if data is not None and not data.exists():
        raise UserError(f"{data} does not exist; check --data.")
    if split is not None and video_dir is not None:
        raise UserError("--split is of --data, and the clips of --video-dir are judged; drop one.")
    if split is not None and split not in SPLITS:
        raise UserError(f"--split {split}: the splits are {', '.join(SPLITS)}.")
    for name, instead in (("seed", "--seeds"), ("model.arch", "--variants")):
        if any(item.name == name for item in given.assignments):
            raise UserError(f"{name} differs between what is compared; give it as {instead}.")


def _refuse_taken(out: Path) -> None:
    ours = (out / "variants").is_dir() or (out / "comparison.json").is_file()
    if out.exists() and not ours and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{out} holds something else; choose another --out for the comparison.")


def _without(given: Given, *sections: str) -> list[Assignment]:
    return [item for item in given.assignments if not item.name.startswith(sections)]


def _labelled_clips(video_dir: Path | None, ground_truth: Path | None) -> list[Clip] | None:
    if video_dir is None:
        return None
    clips = find_clips(video_dir)
    clips = attach_labels(clips, ground_truth) if ground_truth else clips
    if not any(clip.label for clip in clips):
        raise UserError(f"{video_dir}: no clip has a label; give --ground-truth.")
    return clips


def _split_of(dataset: FrameDataset) -> str:
    test = dataset.counts.get("test", {})
    return "test" if test.get("fake") and test.get("real") else "val"


def _judge_all(
    plans: Sequence[Sequence[Run]],
    failed: dict[str, str],
    given: Given,
    output: Output,
    clips: list[Clip] | None,
    dataset: FrameDataset | None,
    split: str | None,
) -> dict[str, list[EvaluatedClip]]:
    """Verdicts by detector; a variant that cannot judge is added to `failed`."""
    judged: dict[str, list[EvaluatedClip]] = {}
    decision = given.settings().decision
    for run in (run for plan in plans for run in plan):
        if run.variant in failed:
            continue
        info, sampling = read_info(run.detector), _sampling_of(run, given)
        judging = Judging(run.detector, info, sampling, decision, CROPS_A_PASS, output)
        try:
            if clips is not None:
                judged[run.detector] = judging.clips(clips)
            elif dataset is not None and split is not None:
                judged[run.detector] = judging.shards(dataset, split)
        except Exception as error:  # the other variants go on
            failed[run.variant] = reason_of(error)
            output.warn(f"{run.variant}: {failed[run.variant]}")
    for run in (run for plan in plans for run in plan if run.variant in failed):
        judged.pop(run.detector, None)  # of a variant all seeds count, or none
    return judged


def _sampling_of(run: Run, given: Given) -> SamplingSettings:
    """The detector's, with what the command line changes of it."""
    own = [i for i in given.assignments if i.name.startswith(("sampling.", "decision."))]
    return resolve_settings(assignments=own, base=read_info(run.detector).settings()).sampling


def _time(
    plans: Sequence[Sequence[Run]],
    judged: dict[str, list[EvaluatedClip]],
    given: Given,
    output: Output,
    clips: list[Clip] | None,
    dataset: FrameDataset | None,
    split: str | None,
) -> tuple[dict[str, Speed], str]:
    """Speeds by variant, all measured in one process, and what they were measured on."""
    runs = [plan[0] for plan in plans if plan[0].detector in judged]
    seen = _with_face(judged[runs[0].detector])
    for run in runs[1:]:
        seen &= _with_face(judged[run.detector])
    if not seen:
        return {}, "nothing: no clip has a face for every variant"
    named = [clip for clip in clips or [] if clip.name in seen][:TIMED_CLIPS]
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_measure)
    models = [(absolute(run.detector), _sampling_of(run, given)) for run in runs]
    with output.bar("timing"):
        speeds, device = ray.get(task.remote(models, named, dataset, split))
    return {run.variant: speed for run, speed in zip(runs, speeds, strict=True)}, device


def _with_face(rows: Sequence[EvaluatedClip]) -> set[str]:
    return {row.name for row in rows if row.verdict and row.verdict.timeline}


def _measure(
    models: list[tuple[str, SamplingSettings]],
    clips: list[Clip],
    dataset: FrameDataset | None,
    split: str | None,
) -> tuple[list[Speed], str]:
    """Runs in a Ray task, on a GPU where there is one."""
    detectors = [load_detector(model) for model, _ in models]
    if clips:
        crops = [
            [extract_crops(clip.path, detector.info.preprocess, sampling) for clip in clips]
            for detector, (_, sampling) in zip(detectors, models, strict=True)
        ]
    else:
        assert dataset is not None
        assert split is not None
        crops = [list(read_clips(dataset, split, TIMED_CLIPS).values())] * len(detectors)
    on_gpu = detectors[0].device.type == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else f"one core of {platform.machine()}"
    return measure_speeds(detectors, crops), f"{device}, torch {torch.__version__}"


def _result(
    variant: Variant,
    plan: Sequence[Run],
    judged: dict[str, list[EvaluatedClip]],
    speeds: dict[str, Speed],
    failure: str | None,
) -> comparison_results.Variant:
    if failure is not None:
        return comparison_results.Variant(
            variant.name, variant.slug, [], 0, 0.0, 0.0, 0.0, {}, failure
        )
    info = read_info(plan[0].detector)
    size = footprint(info.model, LossSettings(), 1)
    speed = speeds.get(variant.name, Speed(0.0, 0.0))
    return comparison_results.Variant(
        name=variant.name,
        slug=variant.slug,
        runs=[VariantRun(run.seed, run.detector, judged[run.detector]) for run in plan],
        parameters=size.parameters,
        flops=size.verdict_flops,
        images_per_s=speed.images_per_s,
        ms_per_clip=speed.ms_per_clip,
        settings={"arch": info.model.arch, "preset": info.model.preset, "net": info.model.net}
        | {item.name: item.value for item in variant.assignments[1:]},
        failure=None,
    )


def _notes(
    plans: Sequence[Sequence[Run]],
    judged: dict[str, list[EvaluatedClip]],
    seeds: Sequence[int],
    dataset: FrameDataset | None,
    split: str | None,
) -> list[str]:
    notes = []
    if any(run.folder for plan in plans for run in plan) and len(seeds) == 1:
        notes.append(
            "Each variant was trained once: another seed may change the order. The intervals are "
            "over clips alone; --seeds 0,1,2 trains three times."
        )
    if dataset is not None and split is not None:
        for how in ("trained on", "chosen by"):
            knowing = [
                plan[0].variant
                for plan in plans
                if plan[0].detector in judged
                and knows_split(read_info(plan[0].detector), dataset, split) == how
            ]
            if knowing:
                notes.append(
                    f"These were {how} the {split} split, which flatters: {'; '.join(knowing)}."
                )
    runs_with_face = Counter(name for rows in judged.values() for name in _with_face(rows))
    partly = sum(count < len(judged) for count in runs_with_face.values())
    if partly:
        notes.append(
            f"{plural(partly, 'clip')} had a face for some variants alone; AUC and EER of each are "
            "over the clips with a score of its own."
        )
    return notes


def _command(
    variants: Sequence[str],
    given: Given,
    data: Path | None,
    video_dir: Path | None,
    ground_truth: Path | None,
    seeds: Sequence[int],
    split: str | None,
) -> str:
    options = {
        "--data": data,
        "--video-dir": video_dir,
        "--ground-truth": ground_truth,
        "--seeds": ",".join(map(str, seeds)),
        "--split": None if video_dir else split,
        "--config": given.config,
    }
    words = [str(word) for pair in options.items() if pair[1] is not None for word in pair]
    overrides = [f"{item.name}={item.value}" for item in given.assignments]
    return shlex.join(["genconvit", "compare", *words, "--variants", *variants, *overrides])


if __name__ == "__main__":
    import sys

    from ray_jobs.cli import main

    main(["compare", *sys.argv[1:]])
