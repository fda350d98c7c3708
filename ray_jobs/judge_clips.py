"""Clips to verdicts on Ray: CPU tasks decode and crop, scorers judge."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from genconvit.config import DecisionSettings, PreprocessSettings, SamplingSettings
from genconvit.data.ahead import ahead
from genconvit.data.audit.measure import Features
from genconvit.data.crops import Crop, decode_crop
from genconvit.evaluate.evaluated import CropScore, decide_crops
from genconvit.predict import Detector, load_detector
from genconvit.storage import absolute
from genconvit.verdict import Verdict
from ray_jobs.crop_clips import (
    Cropped,
    CropsOf,
    Deaths,
    MeasuredCrops,
    crop_part,
    crops_of_clip,
    one_row,
)
from ray_jobs.extract_plan import into_parts
from ray_jobs.extract_tasks import Task
from ray_jobs.scorers import Scorers

PARTS_A_DATASET = 4096
"""Ray holds a few objects for each part until the last one is done."""


@dataclass(frozen=True)
class Scoring:
    """What clips are judged with.

    Attributes:
        model: The detector's folder or URL.
        preprocess: Its own, as `with_detector_digest` gives it.
        sampling: Which frames of a clip.
        decision: From scores to a verdict.
        device: `auto`, `cpu` or `cuda`.
        batch_size: Crops a pass through the network; None is a usual number for the device.
    """

    model: str
    preprocess: PreprocessSettings
    sampling: SamplingSettings
    decision: DecisionSettings
    device: str = "auto"
    batch_size: int | None = None


@dataclass(frozen=True)
class Judged:
    """A clip and what came of it.

    Attributes:
        task: The clip.
        verdict: None where it could not be decoded.
        crops: Its crops' scores, ordered by frame, then track.
        failure_kind: Why, in a word or two; else empty.
        failure: The same as a sentence.
        seconds: What decoding, cropping and scoring took.
        features: Of its crops, where `measured_crops` gave them.
    """

    task: Task
    verdict: Verdict | None
    crops: Sequence[CropScore]
    failure_kind: str
    failure: str
    seconds: float
    features: Features | None


def judge_clips(
    tasks: Sequence[Task], scoring: Scoring, crops_of: CropsOf = crops_of_clip
) -> Iterator[list[Judged]]:
    """Judges clips on the cluster that is connected.

    Args:
        tasks: The clips. Neighbours are judged together, a few at once.
        scoring: With what.
        crops_of: Gives the crops of a clip.

    Yields:
        A few clips, neighbours in their order, as soon as they are judged.

    Raises:
        UserError: `scoring.device` is none, or is CUDA and the cluster has none.
    """
    scorers = Scorers.on_cluster(scoring.device, scoring.batch_size)
    scorer: dict[str, Any] = {
        "fn_constructor_kwargs": {
            "model": absolute(scoring.model),
            "device": scorers.device,
            "batch_size": scorers.crops_a_pass,
        },
        "fn_kwargs": {"decision": scoring.decision},
        "batch_size": 1,
        "batch_format": "pyarrow",
        **scorers.resources,
    }
    deaths = ray.remote(num_cpus=0)(Deaths).remote()
    # Whoever asks for every nth frame may get any number of crops of a clip.
    many = scoring.sampling.frame_interval is not None
    cpus = int(ray.cluster_resources().get("CPU", 1))
    parts = [[task] for task in tasks] if many else list(into_parts(tasks, cpus))
    # Set first: a dataset keeps the context that it was made in.
    ray.data.DataContext.get_current().execution_options.preserve_order = False
    for start in range(0, len(parts), PARTS_A_DATASET):
        some = parts[start : start + PARTS_A_DATASET]
        items = [{"tasks": pickle.dumps(part)} for part in some]
        rows = (
            ray.data.from_items(items, override_num_blocks=len(items))
            .map_batches(
                crop_part,
                batch_size=1,
                fn_kwargs={
                    "preprocess": scoring.preprocess,
                    "sampling": scoring.sampling,
                    "deaths": deaths,
                    "crops_of": crops_of,
                },
            )
            .map_batches(_Scorer, **scorer)
        )
        for row in rows.iter_rows():
            yield pickle.loads(row["judged"])


class _Scorer:
    """Runs in a Ray actor: crops to verdicts."""

    def __init__(self, model: str, device: str, batch_size: int) -> None:
        self.detector = load_detector(model, device, fast=True)
        self.device, self.batch_size = device, batch_size

    def __call__(self, batch: pa.Table, decision: DecisionSettings) -> pa.Table:
        """One part a batch."""
        cropped: list[Cropped] = pickle.loads(batch["cropped"][0].as_buffer())
        # On the CPU a pass of one clip is as fast, and gives a clip the same digits in any company.
        together = [cropped] if self.device == "cuda" else [[one] for one in cropped]
        return one_row(
            "judged", [clip for some in together for clip in self._judge(some, decision)]
        )

    def _judge(self, cropped: Sequence[Cropped], decision: DecisionSettings) -> list[Judged]:
        started = time.perf_counter()
        found = [clip.found.crops if clip.found else [] for clip in cropped]
        scored = score_crops(self.detector, found, self.batch_size)
        seconds = (time.perf_counter() - started) / max(1, sum(map(len, scored)))
        judged = []
        for clip, crops in zip(cropped, scored, strict=True):
            verdict = None
            if clip.found is not None:
                frames = clip.found.frames_sampled
                verdict = decide_crops(clip.task.clip.name, crops, frames, decision)
            spent = clip.seconds + seconds * len(crops)
            failure = (clip.failure_kind, clip.failure)
            features = clip.found.features if isinstance(clip.found, MeasuredCrops) else None
            judged.append(Judged(clip.task, verdict, crops, *failure, spent, features))
        return judged


def score_crops(
    detector: Detector, clips: Sequence[Sequence[Crop]], batch_size: int
) -> list[list[CropScore]]:
    """Scores the crops of clips, those of several clips in one pass where they fit.

    Crops are decoded while the network is at work on others.

    Args:
        detector: On its device.
        clips: The crops of each clip.
        batch_size: Crops a pass.

    Returns:
        The scores of each clip, ordered by frame, then track.
    """
    size = detector.info.model.image_size
    crops = [
        (place, crop)
        for place, found in enumerate(clips)
        for crop in sorted(found, key=lambda crop: (crop.frame_index, crop.track))
    ]
    passes = (
        (some, np.stack([decode_crop(crop.jpeg, size) for _, crop in some]))
        for start in range(0, len(crops), batch_size)
        for some in [crops[start : start + batch_size]]
    )
    scored: list[list[CropScore]] = [[] for _ in clips]
    for some, images_BHWC in ahead(passes, 1):
        logits_BRK = detector.logits(images_BHWC, batch_size)
        for (place, crop), rows_RK in zip(some, logits_BRK, strict=True):
            where = (crop.frame_index, crop.time_s, crop.track, crop.box)
            scored[place].append(CropScore.of(*where, rows_RK, detector.temperature))
    return scored
