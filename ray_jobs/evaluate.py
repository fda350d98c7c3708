"""Evaluation on Ray: CPU tasks decode and crop, a few scorers judge, on one machine or many."""

from __future__ import annotations

import pickle
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import ray.data
from rich.table import Table

from genconvit.checkpoint import DetectorInfo, load_network
from genconvit.config import CLASSES, DecisionSettings, PreprocessSettings, SamplingSettings
from genconvit.data.catalog import Clip, attach_labels, find_clips
from genconvit.data.clip_table import ClipRecord
from genconvit.data.crops import extract_crops
from genconvit.data.detectors import with_detector_digest
from genconvit.data.plan import CHUNK_ROWS, chunks, load_chunk, whole
from genconvit.data.shards import (
    SPLITS,
    FrameDataset,
    open_dataset,
    refuse_other_crops,
)
from genconvit.errors import ClipError, UserError
from genconvit.evaluate.aggregate import decide
from genconvit.evaluate.report import EvaluatedClip, EvaluationReport, write_evaluation
from genconvit.evaluate.terminal import metrics_table
from genconvit.predict import load_detector
from genconvit.storage import absolute
from genconvit.verdict import TimelinePoint, Verdict
from ray_jobs.cluster import connected
from ray_jobs.extract_tasks import local_copy
from ray_jobs.options import Given
from ray_jobs.output import Output, new_out_folder

SHARD_COLUMNS = ("label", "video_id", "frame_index", "time_s", "track", "box")


def evaluate(
    model: str,
    given: Given,
    output: Output,
    *,
    video_dir: Path | None = None,
    ground_truth: Path | None = None,
    data: Path | None = None,
    split: str = "val",
    out: Path | None = None,
    batch_size: int = 32,
) -> EvaluationReport:
    """Judges many clips and writes metrics, figures and a page.

    Args:
        model: The detector's folder or URL.
        given: `sampling` and `decision` overrule those of the detector.
        output: Where to tell of it.
        video_dir: Folder or CSV of clips.
        ground_truth: CSV `video_name,label`, where the folder does not tell the labels.
        data: Shards, instead of clips.
        split: Split of `data`.
        out: Folder for the results; by default a new one below `runs/`.
        batch_size: Crops a pass through the network.

    Raises:
        UserError: Neither or both of `video_dir` and `data` are given, the shards were made for
            another detector, or every clip failed.
    """
    if (video_dir is None) == (data is None):
        raise UserError("give either --video-dir with clips or --data with shards.")
    if data is not None and ground_truth is not None:
        raise UserError("--ground-truth goes with --video-dir; shards have their labels.")
    _, info = load_network(model)  # a bad detector is told here, not by a worker
    settings = given.settings(base=info.settings())
    sampling, decision = settings.sampling, settings.decision
    out = out or new_out_folder("evaluate")
    with connected(output) as ray_logs:
        judge = Judging(model, info, sampling, decision, batch_size, output)
        if data is not None:
            output.say(f"Judging the {split} split of {data}. Ray's logs: {ray_logs}")
            rows = judge.shards(data, split)
        else:
            assert video_dir is not None
            clips = find_clips(video_dir)
            clips = attach_labels(clips, ground_truth) if ground_truth else clips
            output.say(f"Judging {len(clips)} clips. Ray's logs: {ray_logs}")
            rows = judge.clips(clips)
    if not any(row.verdict for row in rows):
        raise UserError(
            f"none of the {len(rows)} clips could be judged; the first: {rows[0].failure}"
        )
    source = {"--video-dir": video_dir, "--ground-truth": ground_truth, "--data": data}
    words = [str(word) for pair in source.items() if pair[1] for word in pair]
    words += ["--split", split] if data is not None else []
    overrides = [f"{item.name}={item.value}" for item in given.assignments]
    command = shlex.join(["genconvit", "evaluate", "--model", model, *words, *overrides])
    report = write_evaluation(
        out, rows, info.summary(), decision, command, _notes(info, video_dir, data, split)
    )
    _show(report, rows, out, output)
    return report


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
        batch_size: int,
        output: Output,
    ) -> None:
        self.info = info
        self.sampling = sampling
        self.decision = decision
        self.output = output
        gpus = int(ray.cluster_resources().get("GPU", 0))
        # A scorer on the CPU mostly waits for crops: it takes no CPU from those who make them.
        self.scorer: dict[str, Any] = {
            "fn_constructor_kwargs": {"model": absolute(model), "batch_size": batch_size},
            "batch_size": 1,
            "num_cpus": 0,
            "num_gpus": 1 if gpus else 0,
            "concurrency": max(1, gpus),
        }

    def clips(self, clips: list[Clip]) -> list[EvaluatedClip]:
        """Judges clips, each in one row."""
        labels = {clip.name: clip.label for clip in clips}
        items = [{"name": clip.name, "path": absolute(clip.path)} for clip in clips]
        judged = (
            ray.data.from_items(items, override_num_blocks=len(items))
            .map_batches(
                _crop_clip,
                batch_size=1,
                fn_kwargs={
                    "preprocess": with_detector_digest(self.info.preprocess),
                    "sampling": self.sampling,
                },
            )
            .map_batches(
                _ClipScorer,
                **{**self.scorer, "fn_kwargs": {"decision": self.decision}},
            )
        )
        rows = {
            row["name"]: EvaluatedClip(
                name=row["name"],
                label=labels[row["name"]],
                verdict=Verdict.model_validate_json(row["verdict"]) if row["verdict"] else None,
                failure=row["failure"] or None,
            )
            for row in self._shown(judged, len(items))
        }
        return [rows[clip.name] for clip in clips]

    def shards(self, data: str | Path, split: str) -> list[EvaluatedClip]:
        """Judges the clips of a split by their crops."""
        if split not in SPLITS:
            raise UserError(f"--split {split}: the splits are {', '.join(SPLITS)}.")
        dataset = open_dataset(data)
        refuse_other_crops(dataset, self.info.preprocess)
        planned = chunks(whole(dataset.row_groups(split)))
        items = [{"chunk": pickle.dumps(chunk)} for chunk in planned]
        size = self.info.model.image_size
        scored = (
            ray.data.from_items(items, override_num_blocks=len(items))
            .map_batches(_load_crops, batch_size=1, fn_kwargs={"image_size": size})
            .map_batches(
                _CropScorer,
                **{**self.scorer, "batch_size": CHUNK_ROWS},
                fn_kwargs={"decision": self.decision},
            )
        )
        points: dict[str, list[TimelinePoint]] = defaultdict(list)
        labels: dict[str, str] = {}
        for row in self._shown(scored, sum(len(chunk) for chunk in planned)):
            labels[row["video_id"]] = CLASSES[int(row["label"])]
            points[row["video_id"]].append(TimelinePoint.model_validate_json(row["point"]))
        rows = []
        for name in sorted(points):
            timeline = sorted(points[name], key=lambda point: (point.frame_index, point.track))
            frames = len({point.frame_index for point in timeline})
            verdict = decide(name, timeline, frames, self.decision)
            rows.append(EvaluatedClip(name, labels[name], verdict, None))
        rows += [
            self._without_crops(record)
            for record in dataset.clips()
            if record.split == split and record.failure_kind
        ]
        return rows

    def _without_crops(self, record: ClipRecord) -> EvaluatedClip:
        """A clip that is not in the shards: undecided without a face, else failed."""
        name, frames = record.name, record.frames_sampled
        if frames:
            return EvaluatedClip(name, record.label, decide(name, [], frames, self.decision), None)
        return EvaluatedClip(name, record.label, None, record.failure)

    def _shown(self, dataset: Any, total: int) -> Iterator[dict[str, Any]]:
        with self.output.bar("judging", total=total) as bar:
            for row in dataset.iter_rows():
                bar.advance()
                yield row


def _crop_clip(
    batch: dict[str, Any], preprocess: PreprocessSettings, sampling: SamplingSettings
) -> dict[str, Any]:
    """Runs in a Ray task: the crops of one clip, or why there are none."""
    found, failure = None, ""
    try:
        with local_copy(batch["path"][0]) as path:
            found = extract_crops(path, preprocess, sampling)
    except ClipError as error:
        failure = str(error)
    except Exception as error:  # one clip that breaks a library must not end the others
        failure = f"{type(error).__name__}: {error}"
    return {"name": batch["name"], "crops": [pickle.dumps(found)], "failure": [failure]}


class _ClipScorer:
    """Runs in a Ray actor: crops to verdicts."""

    def __init__(self, model: str, batch_size: int) -> None:
        self.detector = load_detector(model)
        self.batch_size = batch_size

    def __call__(self, batch: dict[str, Any], decision: DecisionSettings) -> dict[str, Any]:
        """One clip a batch."""
        verdict = ""
        found = pickle.loads(batch["crops"][0])
        if found is not None:
            judged, _ = self.detector.judge_crops(
                batch["name"][0], found, decision, batch_size=self.batch_size
            )
            verdict = judged.model_dump_json()
        return {"name": batch["name"], "verdict": [verdict], "failure": batch["failure"]}


def _load_crops(batch: dict[str, Any], image_size: int) -> dict[str, Any]:
    """Runs in a Ray task: reads and decodes one chunk."""
    return load_chunk(pickle.loads(batch["chunk"][0]), image_size, SHARD_COLUMNS)


class _CropScorer:
    """Runs in a Ray actor: decoded crops to scores."""

    def __init__(self, model: str, batch_size: int) -> None:
        self.detector = load_detector(model)
        self.batch_size = batch_size

    def __call__(self, batch: dict[str, Any], decision: DecisionSettings) -> dict[str, Any]:
        """A point of a timeline for each crop."""
        logits_BRK = self.detector.logits(batch["image"], self.batch_size)
        columns = (batch["frame_index"], batch["time_s"], batch["track"], batch["box"].tolist())
        points = [
            self.detector.point(
                int(frame), float(time_s), int(track), (x0, y0, x1, y1), rows_RK, decision
            ).model_dump_json()
            for frame, time_s, track, (x0, y0, x1, y1), rows_RK in zip(
                *columns, logits_BRK, strict=True
            )
        ]
        return {"video_id": batch["video_id"], "label": batch["label"], "point": points}


def _notes(info: DetectorInfo, video_dir: Path | None, data: Path | None, split: str) -> list[str]:
    if data is None:
        return []
    notes = [
        f"Judged by the crops in {data}, split {split}: frames without a face are not counted."
    ]
    if knows_split(info, open_dataset(data), split):
        what = "was trained on this split" if split == "train" else "was chosen by this split"
        notes.append(f"This detector {what}, so these figures flatter it.")
    return notes


def knows_split(info: DetectorInfo, dataset: FrameDataset, split: str) -> bool:
    """Whether a detector was trained on, or chosen by, the clips of a split."""
    return split != "test" and info.data_digest == dataset.digest


def _show(report: EvaluationReport, rows: list[EvaluatedClip], out: Path, output: Output) -> None:
    if report.metrics is not None:
        output.say(metrics_table(report.metrics))
        if report.frame_auc is not None:
            output.say(f"frame-level AUC {report.frame_auc:.4f}")
    else:
        table = Table("verdict", "clips", title="No labels: verdicts only")
        for word, count in report.verdicts.items():
            table.add_row(word, str(count))
        output.say(table)
    for note in report.notes:
        output.say(f"note: {note}")
    for failure in report.failures[:20]:
        output.warn(f"{failure.clip}: {failure.reason}")
    output.say(f"Report: {out / 'report.html'}")
    output.emit({"event": "evaluated", "out": str(out), **report.model_dump(mode="json")})


if __name__ == "__main__":
    from ray_jobs.cli import main

    main(["evaluate", *sys.argv[1:]])
