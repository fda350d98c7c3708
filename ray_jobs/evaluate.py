"""Evaluation on Ray: CPU tasks decode and crop, a few scorers judge, on one machine or many."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import ray

from genconvit.checkpoint import (
    CARD,
    DetectorInfo,
    Evaluated,
    load_network,
    save_description,
)
from genconvit.data.catalog import attach_labels, find_clips
from genconvit.data.shards import FrameDataset, open_dataset
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import unreachable
from genconvit.evaluate.evaluation import EvaluationReport
from genconvit.evaluate.evaluation_tables import NAMES
from genconvit.evaluate.evaluation_text import summary
from genconvit.evaluate.localisation.localise import DENSE
from genconvit.evaluate.names import short_names
from genconvit.evaluate.report import write_evaluation
from genconvit.evaluate.robustness.section import section_of
from genconvit.evaluate.score_metrics import FIGURES
from genconvit.storage import absolute, is_url
from ray_jobs.clip_features import split_features
from ray_jobs.cluster import connected
from ray_jobs.crop_clips import measured_crops
from ray_jobs.evaluate_scores import command_of, show, stated_fit
from ray_jobs.evaluated_data import data_of_clips, data_of_shards
from ray_jobs.evidence import explainer
from ray_jobs.faces import faces_of_clips, faces_of_shards
from ray_jobs.failures import reason_of
from ray_jobs.judging import Judging
from ray_jobs.localisation import measure_localisation, pairs_of
from ray_jobs.many_models import Model
from ray_jobs.options import Given
from ray_jobs.output import Output, new_out_folder
from ray_jobs.robustness import NEEDS_CLIPS, choose, judge_distorted


def evaluate(
    model: str,
    given: Given,
    output: Output,
    *,
    video_dir: Path | None = None,
    ground_truth: Path | None = None,
    data: str | Path | None = None,
    split: str | None = None,
    out: Path | None = None,
    batch_size: int | None = None,
    explain: bool = False,
    localisation: bool = False,
    card: bool = False,
    robustness: int | None = None,
) -> EvaluationReport:
    """Judges many clips and writes metrics, figures and a page.

    Args:
        model: The detector's folder or URL.
        given: `sampling` and `decision` overrule those of the detector.
        output: Where to tell of it.
        video_dir: Folder or CSV of clips.
        ground_truth: CSV `video_name,label`, where the folder does not tell the labels.
        data: Shards, instead of clips.
        split: Split of `data`; by default val.
        out: Folder for the results; by default a new one below `runs/`.
        batch_size: Crops a pass through the network; by default a usual number for the device.
        explain: The page explains a crop of each of the worst clips.
        localisation: Also judge clips spliced of fake and real ones, to see whether it finds the
            forged parts.
        card: Put the figures into the detector's description and model card.
        robustness: Also judge at most so many of the clips distorted.

    Raises:
        UserError: Neither or both of `video_dir` and `data` are given, the shards were made for
            another detector, or every clip failed.
    """
    _refuse(model, given, video_dir, ground_truth, data, split, localisation, card, robustness)
    split = split or "val"
    _, info = load_network(model)  # a bad detector is told here, not by a worker
    settings = given.overruling(info, "sampling", "decision", "seed")
    sampling, decision = settings.sampling, settings.decision
    if card and decision != info.decision:
        raise UserError("--card is of the detector's own decision; leave settings of it out.")
    for line in unreachable(decision):
        output.warn(line)
    dataset = open_dataset(data) if data is not None else None
    chosen = None
    out = out or new_out_folder("evaluate")
    source = {"--video-dir": video_dir, "--ground-truth": ground_truth, "--data": data}
    words = [str(word) for pair in source.items() if pair[1] for word in pair]
    words += ["--split", split] if data is not None else []
    words += ["--explain"] * explain + ["--localisation"] * localisation
    words += ["--card"] * card
    words += ["--robustness", "--clips", str(robustness)] if robustness is not None else []
    command = command_of(["--model", model, *words], given)
    with connected(output) as ray_logs:
        judge = Judging(model, info, sampling, decision, batch_size, output)
        if dataset is not None:
            output.say(f"Judging the {split} split of {data}. Ray's logs: {ray_logs}")
            rows = judge.shards(dataset, split)
            faces = faces_of_shards(dataset, split)
            evaluated = data_of_shards(dataset, split)
        else:
            assert video_dir is not None
            clips = find_clips(video_dir)
            clips = attach_labels(clips, ground_truth) if ground_truth else clips
            pairs = pairs_of(clips) if localisation else []
            chosen = choose(clips, robustness, video_dir) if robustness is not None else None
            output.say(f"Judging {len(clips)} clips. Ray's logs: {ray_logs}")
            rows = judge.clips(clips, measured_crops)
            faces = faces_of_clips(clips, info.preprocess, sampling)
            evaluated = data_of_clips(video_dir, clips)
        if not any(row.verdict for row in rows):
            raise UserError(
                f"none of the {len(rows)} clips could be judged; the first: {rows[0].failure}"
            )
        notes, where, curves = [], None, None
        if dataset is not None:
            notes = _notes(info, data, dataset, split)
            try:
                measured = split_features(dataset, split)
                rows = [replace(row, features=measured.get(row.name)) for row in rows]
            except ray.exceptions.RayError as error:  # the verdicts are worth something without
                notes.append(f"The crops were not measured: {reason_of(error)}")
        calibrated_here = dataset is not None and _calibrated_on(info, dataset, split)
        if localisation:
            dense = Judging(model, info, DENSE, decision, batch_size, output)
            try:
                where = measure_localisation(pairs, dense.clips, out, settings.seed)
            except UserError as error:  # the verdicts are worth something without it
                notes.append(f"Localisation was not measured: {error}")
        if chosen is not None:
            place = absolute(model)
            how = Model(short_names([place])[0], place, info, sampling, decision)
            try:
                found = judge_distorted(
                    [how],
                    chosen,
                    out,
                    output,
                    command=command,
                    batch_size=batch_size,
                    in_evaluation=True,
                )
                curves = section_of(found)
            except (UserError, ray.exceptions.RayError) as error:
                notes.append(f"Robustness was not measured: {reason_of(error)}")
        report = write_evaluation(
            out,
            rows,
            info.summary(),
            decision,
            command,
            notes,
            fit=None if calibrated_here else stated_fit(info, decision),
            faces=faces,
            explain=explainer(model, decision, output) if explain else None,
            localisation=where,
            robustness=curves,
            evaluated_data=evaluated,
        )
    show(report, out, output)
    if card and report.clip_scores is not None:
        save_description(Path(model), info.model_copy(update={"evaluation": _evaluated(report)}))
        output.say(f"Model card: {Path(model) / CARD}")
    return report


def _refuse(
    model: str,
    given: Given,
    video_dir: Path | None,
    ground_truth: Path | None,
    data: str | Path | None,
    split: str | None,
    localisation: bool,
    card: bool,
    robustness: int | None,
) -> None:
    """What is told before anything is read."""
    if robustness is not None and (video_dir is None or data is not None):
        raise UserError(NEEDS_CLIPS)
    if (video_dir is None) == (data is None):
        raise UserError("give either --video-dir with clips or --data with shards.")
    if data is not None and ground_truth is not None:
        raise UserError("--ground-truth goes with --video-dir; shards have their labels.")
    if localisation and video_dir is None:
        raise UserError("--localisation splices clips; give --video-dir with them, and no --data.")
    if split is not None and data is None:
        raise UserError("--split is of the shards of --data; leave it out with --video-dir.")
    if data is not None and given.names("sampling"):
        raise UserError(f"{data} has its crops already; leave settings of sampling out.")
    if card and is_url(model):
        raise UserError(f"{model}: --card writes into the detector; give it as a local folder.")


def _evaluated(report: EvaluationReport) -> Evaluated:
    scores = report.clip_scores
    assert scores is not None
    return Evaluated(
        command=report.command,
        fake=scores.fake,
        real=scores.real,
        sentences=summary(report),
        figures={NAMES.get(name, name): scores.estimate(name).text() for name in FIGURES},
    )


def _notes(
    info: DetectorInfo, data: str | Path | None, dataset: FrameDataset, split: str
) -> list[str]:
    notes = [
        f"Judged by the crops in {data}, split {split}: frames without a face are not counted."
    ]
    knows = knows_split(info, dataset, split)
    if knows:
        notes.append(f"This detector was {knows} this split, so these figures flatter it.")
    if _calibrated_on(info, dataset, split):
        notes.append(
            "This detector was calibrated on this split: its error rate is kept there by "
            "construction, and P(fake) is as right as it can be."
        )
    return notes


def _calibrated_on(info: DetectorInfo, dataset: FrameDataset, split: str) -> bool:
    fit = info.calibration.fit if info.calibration else None
    return fit is not None and split == fit.split and dataset.digest == fit.data_digest


def knows_split(info: DetectorInfo, dataset: FrameDataset, split: str) -> str:
    """How a detector knows the clips of a split: "trained on", "chosen by", or not, then empty."""
    if split == "test" or info.data_digest != dataset.digest:
        return ""
    trained = split == "train" or info.training.get("train_on_val")
    return "trained on" if trained else "chosen by"


if __name__ == "__main__":
    from ray_jobs.cli import main

    main(["evaluate", *sys.argv[1:]])
