"""Evaluation on Ray: CPU tasks decode and crop, a few scorers judge, on one machine or many."""

from __future__ import annotations

import pickle
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import ray.data

from genconvit.checkpoint import (
    CARD,
    DetectorInfo,
    Evaluated,
    load_network,
    save_description,
)
from genconvit.config import CLASSES, DecisionSettings, SamplingSettings
from genconvit.data.catalog import Clip, attach_labels, find_clips
from genconvit.data.clip_table import ClipRecord
from genconvit.data.detectors import with_detector_digest
from genconvit.data.plan import CHUNK_ROWS, chunks, whole
from genconvit.data.shards import (
    SPLITS,
    FrameDataset,
    open_dataset,
    refuse_other_crops,
)
from genconvit.errors import UserError
from genconvit.evaluate.evaluated import CropScore, EvaluatedClip, decide_crops
from genconvit.evaluate.evaluation import EvaluationReport
from genconvit.evaluate.evaluation_tables import NAMES
from genconvit.evaluate.evaluation_text import summary
from genconvit.evaluate.localisation.localise import DENSE
from genconvit.evaluate.report import write_evaluation
from genconvit.evaluate.score_metrics import FIGURES
from genconvit.predict import CROPS_A_PASS, load_detector
from genconvit.storage import absolute, is_url
from ray_jobs.cluster import connected
from ray_jobs.evaluate_scores import command_of, show, stated_fit
from ray_jobs.evidence import explainer
from ray_jobs.extract_tasks import Task
from ray_jobs.faces import faces_of_clips, faces_of_shards
from ray_jobs.judge_clips import CROPS_A_GPU_PASS, Judged, Scoring, judge_clips
from ray_jobs.localisation import measure_localisation, pairs_of
from ray_jobs.options import Given
from ray_jobs.output import Output, new_out_folder
from ray_jobs.stream import load_rows

SHARD_COLUMNS = ("label", "video_id", "frame_index", "time_s", "track", "box")


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

    Raises:
        UserError: Neither or both of `video_dir` and `data` are given, the shards were made for
            another detector, or every clip failed.
    """
    if (video_dir is None) == (data is None):
        raise UserError("give either --video-dir with clips or --data with shards.")
    if data is not None and ground_truth is not None:
        raise UserError("--ground-truth goes with --video-dir; shards have their labels.")
    if localisation and video_dir is None:
        raise UserError("--localisation splices clips; give --video-dir with them, and no --data.")
    if split is not None and data is None:
        raise UserError("--split is of the shards of --data; leave it out with --video-dir.")
    if data is not None and any(one.name.startswith("sampling.") for one in given.assignments):
        raise UserError(f"{data} has its crops already; leave settings of sampling out.")
    if card and is_url(model):
        raise UserError(f"{model}: --card writes into the detector; give it as a local folder.")
    split = split or "val"
    _, info = load_network(model)  # a bad detector is told here, not by a worker
    settings = given.settings(base=info.settings())
    sampling, decision = settings.sampling, settings.decision
    if card and decision != info.decision:
        raise UserError("--card is of the detector's own decision; leave settings of it out.")
    dataset = open_dataset(data) if data is not None else None
    out = out or new_out_folder("evaluate")
    source = {"--video-dir": video_dir, "--ground-truth": ground_truth, "--data": data}
    words = [str(word) for pair in source.items() if pair[1] for word in pair]
    words += ["--split", split] if data is not None else []
    words += ["--explain"] * explain + ["--localisation"] * localisation
    words += ["--card"] * card
    command = command_of(["--model", model, *words], given)
    with connected(output) as ray_logs:
        judge = Judging(model, info, sampling, decision, batch_size, output)
        if dataset is not None:
            output.say(f"Judging the {split} split of {data}. Ray's logs: {ray_logs}")
            rows = judge.shards(dataset, split)
            faces = faces_of_shards(dataset, split)
        else:
            assert video_dir is not None
            clips = find_clips(video_dir)
            clips = attach_labels(clips, ground_truth) if ground_truth else clips
            pairs = pairs_of(clips) if localisation else []
            output.say(f"Judging {len(clips)} clips. Ray's logs: {ray_logs}")
            rows = judge.clips(clips)
            faces = faces_of_clips(clips, info.preprocess, sampling)
        if not any(row.verdict for row in rows):
            raise UserError(
                f"none of the {len(rows)} clips could be judged; the first: {rows[0].failure}"
            )
        notes, where = [], None
        if dataset is not None:
            notes = _notes(info, data, dataset, split)
        calibrated_here = dataset is not None and _calibrated_on(info, dataset, split)
        if localisation:
            dense = Judging(model, info, DENSE, decision, batch_size, output)
            try:
                where = measure_localisation(pairs, dense.clips, out, settings.seed)
            except UserError as error:  # the verdicts are worth something without it
                notes.append(f"Localisation was not measured: {error}")
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
        )
    show(report, out, output)
    if card and report.clip_scores is not None:
        save_description(Path(model), info.model_copy(update={"evaluation": _evaluated(report)}))
        output.say(f"Model card: {Path(model) / CARD}")
    return report


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


class Judging:
    """What every clip of an evaluation is judged with.

    Args:
        model: The detector's folder or URL.
        info: Its description.
        sampling: Which frames of a clip.
        decision: From scores to a verdict.
        batch_size: Crops a pass through the network.
        output: Where to show how far it is.
    """

    def __init__(
        self,
        model: str,
        info: DetectorInfo,
        sampling: SamplingSettings,
        decision: DecisionSettings,
        batch_size: int | None,
        output: Output,
    ) -> None:
        self.model, self.batch_size = model, batch_size
        self.info = info
        self.sampling = sampling
        self.decision = decision
        self.output = output
        gpus = int(ray.cluster_resources().get("GPU", 0))
        # A scorer on the CPU mostly waits for crops: it takes no CPU from those who make them.
        self.scorer: dict[str, Any] = {
            "fn_constructor_kwargs": {
                "model": absolute(model),
                "device": "cuda" if gpus else "cpu",
                "batch_size": batch_size or (CROPS_A_GPU_PASS if gpus else CROPS_A_PASS),
            },
            "batch_size": 1,
            "num_cpus": 0,
            "num_gpus": 1 if gpus else 0,
            "concurrency": max(1, gpus),
        }

    def clips(self, clips: list[Clip]) -> list[EvaluatedClip]:
        """Judges clips, each in one row."""
        scoring = Scoring(
            self.model,
            with_detector_digest(self.info.preprocess),
            self.sampling,
            self.decision,
            batch_size=self.batch_size,
        )
        rows: dict[str, EvaluatedClip] = {}
        with self.output.bar("judging", total=len(clips)) as bar:
            for some in judge_clips([Task(clip) for clip in clips], scoring):
                rows |= {judged.task.clip.name: _row(judged) for judged in some}
                bar.advance(count=len(some))
        return [rows[clip.name] for clip in clips]

    def shards(self, dataset: FrameDataset, split: str) -> list[EvaluatedClip]:
        """Judges the clips of a split by their crops."""
        if split not in SPLITS:
            raise UserError(f"--split {split}: the splits are {', '.join(SPLITS)}.")
        refuse_other_crops(dataset, self.info.preprocess)
        planned = chunks(whole(dataset.row_groups(split)))
        items = [{"chunk": pickle.dumps(chunk)} for chunk in planned]
        size = self.info.model.image_size
        scored = (
            ray.data.from_items(items, override_num_blocks=len(items))
            .map_batches(
                load_rows, batch_size=1, fn_kwargs={"image_size": size, "columns": SHARD_COLUMNS}
            )
            .map_batches(_CropScorer, **{**self.scorer, "batch_size": CHUNK_ROWS})
        )
        crops: dict[str, list[CropScore]] = defaultdict(list)
        labels: dict[str, str] = {}
        for row in self._shown(scored, sum(len(chunk) for chunk in planned)):
            labels[row["video_id"]] = CLASSES[int(row["label"])]
            crops[row["video_id"]].append(pickle.loads(row["crop"]))
        records = {record.name: record for record in dataset.clips() if record.split == split}
        rows = []
        for name in sorted(crops):
            record = records.get(name) or ClipRecord(name)
            scores = sorted(crops[name], key=lambda crop: (crop.frame_index, crop.track))
            verdict = decide_crops(
                name, scores, len({crop.frame_index for crop in scores}), self.decision
            )
            about = (record.group, record.method, record.source)
            rows.append(EvaluatedClip(name, labels[name], verdict, None, *about, crops=scores))
        rows += [self._without_crops(each) for each in records.values() if each.failure_kind]
        return rows

    def _without_crops(self, record: ClipRecord) -> EvaluatedClip:
        """A clip that is not in the shards: undecided without a face, else failed."""
        name, frames = record.name, record.frames_sampled
        verdict = decide_crops(name, [], frames, self.decision) if frames else None
        failure = None if frames else record.failure
        about = (record.group, record.method, record.source)
        return EvaluatedClip(name, record.label, verdict, failure, *about)

    def _shown(self, dataset: Any, total: int) -> Iterator[dict[str, Any]]:
        with self.output.bar("judging", total=total) as bar:
            for row in dataset.iter_rows():
                bar.advance()
                yield row


def _row(judged: Judged) -> EvaluatedClip:
    clip = judged.task.clip
    columns = {**clip.columns, "split": clip.split} if clip.split else clip.columns
    about = (clip.group, clip.method, clip.source, columns)
    failure = judged.failure or None
    return EvaluatedClip(clip.name, clip.label, judged.verdict, failure, *about, judged.crops)


class _CropScorer:
    """Runs in a Ray actor: decoded crops to scores."""

    def __init__(self, model: str, device: str, batch_size: int) -> None:
        self.detector = load_detector(model, device, fast=True)
        self.batch_size = batch_size

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A score for each crop."""
        columns = (batch["frame_index"], batch["time_s"], batch["track"], batch["box"].tolist())
        places = [
            (int(frame), float(time_s), int(track), (x0, y0, x1, y1))
            for frame, time_s, track, (x0, y0, x1, y1) in zip(*columns, strict=True)
        ]
        logits_BRK = self.detector.logits(batch["image"], self.batch_size)
        crops = [
            pickle.dumps(CropScore.of(*place, rows_RK, self.detector.temperature))
            for place, rows_RK in zip(places, logits_BRK, strict=True)
        ]
        return {"video_id": batch["video_id"], "label": batch["label"], "crop": crops}


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
