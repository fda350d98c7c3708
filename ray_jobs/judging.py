"""Clips, or crops in shards, to the rows of an evaluation."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import ray.data

from genconvit.checkpoint import DetectorInfo
from genconvit.config import CLASSES, DecisionSettings, SamplingSettings
from genconvit.data.catalog import Clip
from genconvit.data.clip_table import ClipRecord
from genconvit.data.detectors import with_detector_digest
from genconvit.data.plan import CHUNK_ROWS, chunks, whole
from genconvit.data.shards import SPLITS, FrameDataset, refuse_other_crops
from genconvit.errors import UserError
from genconvit.evaluate.evaluated import CropScore, EvaluatedClip, decide_crops
from genconvit.predict import load_detector
from genconvit.storage import absolute
from ray_jobs.crop_clips import CropsOf, crops_of_clip
from ray_jobs.extract_tasks import Task
from ray_jobs.judge_clips import Judged, Scoring, judge_clips
from ray_jobs.output import Output
from ray_jobs.scorers import Scorers
from ray_jobs.stream import load_rows

SHARD_COLUMNS = ("label", "video_id", "frame_index", "time_s", "track", "box")


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

    def clips(self, clips: list[Clip], crops_of: CropsOf = crops_of_clip) -> list[EvaluatedClip]:
        """Judges clips, each in one row; with `measured_crops` also what was measured of it."""
        scoring = Scoring(
            self.model,
            with_detector_digest(self.info.preprocess),
            self.sampling,
            self.decision,
            batch_size=self.batch_size,
        )
        rows: dict[str, EvaluatedClip] = {}
        with self.output.bar("judging", total=len(clips)) as bar:
            for some in judge_clips([Task(clip) for clip in clips], scoring, crops_of):
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
        scorers = Scorers.on_cluster(crops_a_pass=self.batch_size)
        scored = (
            ray.data.from_items(items, override_num_blocks=len(items))
            .map_batches(
                load_rows, batch_size=1, fn_kwargs={"image_size": size, "columns": SHARD_COLUMNS}
            )
            .map_batches(
                _CropScorer,
                fn_constructor_kwargs={
                    "model": absolute(self.model),
                    "device": scorers.device,
                    "batch_size": scorers.crops_a_pass,
                },
                batch_size=CHUNK_ROWS,
                **scorers.resources,
            )
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
    scored = (judged.crops, judged.features)
    return EvaluatedClip(clip.name, clip.label, judged.verdict, failure, *about, *scored)


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
