"""Variants of a detector on the same clips: each is trained or loaded, judged and timed."""

from __future__ import annotations

import platform
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from genconvit.checkpoint import read_info
from genconvit.config import LossSettings
from genconvit.data.catalog import Clip, attach_labels, find_clips
from genconvit.data.crops import ClipCrops, extract_crops
from genconvit.data.shards import FrameDataset, open_dataset, read_clips
from genconvit.errors import UserError
from genconvit.evaluate import comparison_results
from genconvit.evaluate.comparison import comparison_tables, write_comparison
from genconvit.evaluate.comparison_results import ComparisonReport, VariantRun
from genconvit.evaluate.plots import training_curves
from genconvit.evaluate.report import EvaluatedClip
from genconvit.footprint import footprint
from genconvit.predict import Detector, load_detector
from genconvit.speed import Speed, measure_speeds
from genconvit.storage import absolute
from genconvit.train.run_folder import RunFolder, epoch_line, read_results
from ray_jobs.cluster import Budget, Event, Resources, connected, new_mailbox, watch
from ray_jobs.evaluate import Judging
from ray_jobs.extract import dataset_for
from ray_jobs.failures import user_error_in
from ray_jobs.options import Given
from ray_jobs.output import Output, new_out_folder
from ray_jobs.train import finished, trainer_for
from ray_jobs.tune import DRIVER_CPUS, sweep_budget
from ray_jobs.variants import Run, Variant, parse_variant, plan_runs

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

    Raises:
        UserError: A variant, the data or the cluster do not allow it, or every variant failed.
    """
    asked = [parse_variant(text) for text in variants]
    _check(asked, seeds, data, video_dir, ground_truth)
    out = (out or new_out_folder("compare")).resolve()
    if out.exists() and not (out / "variants").is_dir() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{out} holds something else; choose another --out for the comparison.")
    with connected(output) as ray_logs:
        output.say(f"Comparing {len(asked)} variants in {out}\nRay's logs: {ray_logs}")
        dataset = open_dataset(dataset_for(data, given.settings(), output)) if data else None
        plans = [plan_runs(variant, given, seeds, dataset, out) for variant in asked]
        clips = _labelled_clips(video_dir, ground_truth)
        if clips is None and dataset is not None:
            split = split or _split_of(dataset)
            _refuse_other_crops(plans, dataset)
        failed = _train(plans, dataset, given, output)
        judged = {
            run.detector: _judge(run, given, output, clips, dataset, split)
            for plan in plans
            for run in plan
            if run.variant not in failed
        }
        if not judged:
            reason = next(iter(failed.values()))
            raise UserError(f"no variant could be trained; the first: {reason}")
        speeds, device = _time(plans, judged, output, clips, dataset, split)
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
        notes=_notes(plans, seeds, None if video_dir else split),
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


def _refuse_other_crops(plans: Sequence[Sequence[Run]], dataset: FrameDataset) -> None:
    for run in (run for plan in plans for run in plan if run.folder is None):
        preprocess = read_info(run.detector).preprocess
        if preprocess != dataset.preprocess:
            raise UserError(
                f"{run.variant} needs crops of preprocessing {preprocess.fingerprint()}, and "
                f"{dataset.path} has {dataset.preprocess.fingerprint()}; judge clips with "
                "--video-dir, or extract with its settings."
            )


def _train(
    plans: Sequence[Sequence[Run]], dataset: FrameDataset | None, given: Given, output: Output
) -> dict[str, str]:
    """Trains what is not trained yet, as many runs at once as fit; returns failures by variant."""
    todo = [
        run.folder
        for plan in plans
        for run in plan
        if run.folder and not finished(run.folder.path, run.folder.settings)
    ]
    if not todo or dataset is None:
        return {}
    names = {str(run.folder.path): run for plan in plans for run in plan if run.folder}
    budget, at_once = sweep_budget(given.settings(), Resources.of_cluster(), len(todo))
    output.say(
        f"Training {len(todo)} runs, {at_once} at once, on {budget.workers} "
        f"{'GPU' if budget.use_gpu else 'CPU'} worker{'s'[: budget.workers != 1]} each."
    )
    mailbox, failed = new_mailbox(), {}
    epochs = sum(folder.settings.train.epochs for folder in todo)
    with output.bar("training", total=epochs) as bar:

        def handle(event: Event) -> None:
            if event["event"] == "epoch":
                run = names[event["run"]]
                bar.advance(f"{run.variant} seed {run.seed}")
                output.say(f"{run.variant} seed {run.seed}  {epoch_line(event, parts=False)}")
                output.emit({**event, "variant": run.variant, "seed": run.seed})

        failures = watch(mailbox, lambda: _fit_all(todo, dataset, budget, at_once, mailbox), handle)
    for folder in todo:
        run = names[str(folder.path)]
        if folder.path in failures:
            failed[run.variant] = f"seed {run.seed}: {failures[folder.path]}"
            output.warn(f"{run.variant}: {failed[run.variant]}")
        else:
            training_curves(folder.path, read_results(folder.path)["history"])
    return failed


def _fit_all(
    todo: Sequence[RunFolder], dataset: FrameDataset, budget: Budget, at_once: int, mailbox: object
) -> dict[Path, str]:
    """Fits every run in a process of its own; returns the reasons of those that failed."""
    fit = ray.remote(num_cpus=DRIVER_CPUS, max_retries=0)(_fit)
    waiting, running = list(todo), dict[Any, RunFolder]()
    failures: dict[Path, str] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            folder = waiting.pop(0)
            folder.start()
            running[fit.remote(folder, dataset, budget, mailbox)] = folder
        for done in ray.wait(list(running))[0]:
            folder = running.pop(done)
            try:
                ray.get(done)
            except Exception as error:  # the other variants go on
                reason = str(user_error_in(error) or error).strip().splitlines()[-1]
                failures[folder.path] = reason
    return failures


def _fit(folder: RunFolder, dataset: FrameDataset, budget: Budget, mailbox: object) -> None:
    """Runs in a Ray task, which only waits; the workers compute."""
    trainer_for(folder, dataset, budget, mailbox).fit()


def _judge(
    run: Run,
    given: Given,
    output: Output,
    clips: list[Clip] | None,
    dataset: FrameDataset | None,
    split: str | None,
) -> list[EvaluatedClip]:
    settings, info = given.settings(), read_info(run.detector)
    sampling = settings.sampling if settings.sampling.model_fields_set else info.sampling
    judging = Judging(run.detector, info, sampling, settings.decision, 32, output)
    if clips is not None:
        return judging.clips(clips)
    assert dataset is not None
    assert split is not None
    return judging.shards(dataset.path, split)


def _time(
    plans: Sequence[Sequence[Run]],
    judged: dict[str, list[EvaluatedClip]],
    output: Output,
    clips: list[Clip] | None,
    dataset: FrameDataset | None,
    split: str | None,
) -> tuple[dict[str, Speed], str]:
    """Speeds by variant, all measured in one process, and what they were measured on."""
    runs = [plan[0] for plan in plans if plan[0].detector in judged]
    rows = judged[runs[0].detector]
    seen = {row.name for row in rows if row.verdict and row.verdict.timeline}
    if not seen:
        return {}, "not timed: no clip has a face"
    named = [clip for clip in clips or [] if clip.name in seen][:TIMED_CLIPS]
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_measure)
    models = [absolute(run.detector) for run in runs]
    with output.bar("timing"):
        speeds, device = ray.get(task.remote(models, named, dataset, split))
    return {run.variant: speed for run, speed in zip(runs, speeds, strict=True)}, device


def _measure(
    models: list[str], clips: list[Clip], dataset: FrameDataset | None, split: str | None
) -> tuple[list[Speed], str]:
    """Runs in a Ray task, on a GPU where there is one."""
    detectors = [load_detector(model) for model in models]
    if clips:
        crops = [_crops_for(detector, clips) for detector in detectors]
    else:
        assert dataset is not None
        assert split is not None
        crops = [list(read_clips(dataset, split, TIMED_CLIPS).values())] * len(detectors)
    on_gpu = detectors[0].device.type == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else f"one core of {platform.machine()}"
    return measure_speeds(detectors, crops), f"{device}, torch {torch.__version__}"


def _crops_for(detector: Detector, clips: Sequence[Clip]) -> list[ClipCrops]:
    info = detector.info
    return [extract_crops(clip.path, info.preprocess, info.sampling) for clip in clips]


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


def _notes(plans: Sequence[Sequence[Run]], seeds: Sequence[int], split: str | None) -> list[str]:
    trained = any(run.folder for plan in plans for run in plan)
    notes = []
    if trained and len(seeds) == 1:
        notes.append(
            "Each variant was trained once: another seed may change the order. The intervals are "
            "over clips alone; --seeds 0,1,2 trains three times."
        )
    if trained and split == "val":
        notes.append("The best epochs were chosen by these clips, so all figures flatter.")
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
