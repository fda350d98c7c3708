"""Several detectors on the same clips: crops are made once for all that need the same ones."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from genconvit.checkpoint import DetectorInfo, load_network
from genconvit.config import DecisionSettings, SamplingSettings
from genconvit.data.clip import Clip
from genconvit.data.crops import ClipCrops, decode_crop
from genconvit.data.detectors import with_detector_digest
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import decide, unreachable
from genconvit.evaluate.names import short_names
from genconvit.evaluate.robustness.distorted_crops import distorted_crops
from genconvit.evaluate.robustness.distortions import Condition
from genconvit.evaluate.robustness.results import JudgedClip
from genconvit.predict import Detector, load_detector, timeline_point
from genconvit.storage import absolute
from genconvit.verdict import Verdict
from ray_jobs.crop_clips import Cropped, Deaths, crop_part, one_row
from ray_jobs.extract_tasks import Task
from ray_jobs.options import Given
from ray_jobs.output import Output
from ray_jobs.scorers import Scorers


@dataclass(frozen=True)
class Model:
    """A detector, and how it is asked to judge."""

    name: str
    """Short, and no other model's."""
    path: str
    info: DetectorInfo
    sampling: SamplingSettings
    decision: DecisionSettings


@dataclass
class Judged:
    """What came of judging clips."""

    by_model: dict[str, list[JudgedClip]]
    """By the model's name, clips that all models judged, in their order."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why other clips could not be judged, by their names."""


def open_models(paths: Sequence[str], given: Given, output: Output) -> list[Model]:
    """Reads detectors, each with its own settings where the command line gives no others.

    Raises:
        UserError: There is none, one is given twice, or one is damaged.
    """
    if not paths:
        raise UserError("give --model with a detector's folder, such as RUN/best.")
    places = [absolute(path) for path in paths]
    refuse_twice("--model", places)
    models = []
    for name, path in zip(short_names(places), places, strict=True):
        _, info = load_network(path)  # a bad detector is told here, not by a worker
        settings = given.overruling(info, "sampling", "decision")
        for line in unreachable(settings.decision):
            output.warn(f"{name}: {line}")
        models.append(Model(name, path, info, settings.sampling, settings.decision))
    return models


def refuse_twice(option: str, values: Sequence[str]) -> None:
    """Refuses a model or a dataset that is named twice.

    Raises:
        UserError: One is.
    """
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise UserError(f"{option} {twice[0]} is given twice; leave one out.")


def judge_all(
    models: Sequence[Model],
    clips: Sequence[Clip],
    wanted: Sequence[Condition],
    batch_size: int | None,
    output: Output,
) -> Judged:
    """Judges labelled clips under each condition with each model.

    Args:
        models: Those whose preprocessing and sampling agree share the crops.
        clips: All with a label.
        wanted: Conditions; the clip as it is comes with them.
        batch_size: Crops a pass through a network.
        output: Where to show how far it is.
    """
    alike: dict[str, list[Model]] = {}
    for model in models:
        key = model.info.preprocess.fingerprint() + model.sampling.model_dump_json()
        alike.setdefault(key, []).append(model)
    found: dict[str, dict[str, tuple[dict[Condition, Verdict], dict[Condition, str]]]] = {}
    failures: dict[str, str] = {}
    with output.bar("judging", total=len(clips) * len(alike)) as bar:
        for group in alike.values():
            for row in _judge(group, clips, wanted, batch_size).iter_rows():
                bar.advance()
                name, judged_by, failure = pickle.loads(row["judged"])
                if failure:
                    failures[name] = failure
                else:
                    found.setdefault(name, {}).update(judged_by)
    judged = [clip for clip in clips if clip.name not in failures]
    return Judged(
        {
            model.name: [
                JudgedClip(clip.name, str(clip.label), clip.group, *found[clip.name][model.name])
                for clip in judged
            ]
            for model in models
        },
        {clip.name: failures[clip.name] for clip in clips if clip.name in failures},
    )


def _judge(
    models: Sequence[Model],
    clips: Sequence[Clip],
    wanted: Sequence[Condition],
    batch_size: int | None,
) -> Any:
    scorers = Scorers.on_cluster(crops_a_pass=batch_size)
    items = [{"tasks": pickle.dumps([Task(clip)])} for clip in clips]
    return (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(
            crop_part,
            batch_size=1,
            fn_kwargs={
                "preprocess": with_detector_digest(models[0].info.preprocess),
                "sampling": models[0].sampling,
                "deaths": ray.remote(num_cpus=0)(Deaths).remote(),
                "crops_of": partial(distorted_crops, wanted=list(wanted)),
            },
        )
        .map_batches(
            _Scorer,
            fn_constructor_kwargs={
                "models": [(model.name, model.path, model.decision) for model in models],
                "device": scorers.device,
                "batch_size": scorers.crops_a_pass,
            },
            batch_size=1,
            batch_format="pyarrow",
            **scorers.resources,
        )
    )


class _Scorer:
    """Runs in a Ray actor: crops to the verdicts of all models that need such crops."""

    def __init__(
        self, models: list[tuple[str, str, DecisionSettings]], device: str, batch_size: int
    ) -> None:
        self.models = [
            (name, load_detector(path, device, fast=True), how) for name, path, how in models
        ]
        self.batch_size = batch_size

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One clip a batch."""
        cropped: Cropped = pickle.loads(batch["cropped"][0].as_buffer())[0]
        judged = {}
        if cropped.found is not None:
            judged = {name: self._of(model, how, cropped.found) for name, model, how in self.models}
        return one_row("judged", (cropped.task.clip.name, judged, cropped.failure))

    def _of(
        self,
        detector: Detector,
        decision: DecisionSettings,
        found: dict[Condition, ClipCrops | str],
    ) -> tuple[dict[Condition, Verdict], dict[Condition, str]]:
        whole = {key: crops for key, crops in found.items() if not isinstance(crops, str)}
        # A crop that several conditions have in common, as when frames are dropped, is scored once.
        jpegs = list({crop.jpeg: None for crops in whole.values() for crop in crops.crops})
        logits = dict(zip(jpegs, self._logits(detector, jpegs), strict=True))
        verdicts = {}
        for condition, crops in whole.items():
            points = [
                timeline_point(
                    crop.frame_index,
                    crop.time_s,
                    crop.track,
                    crop.box,
                    logits[crop.jpeg],
                    decision,
                    detector.temperature,
                )
                for crop in crops.crops
            ]
            verdict = decide("", points, crops.frames_sampled, decision)
            verdicts[condition] = verdict.model_copy(update={"timeline": [], "tracks": []})
        return verdicts, {key: why for key, why in found.items() if isinstance(why, str)}

    def _logits(self, detector: Detector, jpegs: list[bytes]) -> list[np.ndarray]:
        rows: list[np.ndarray] = []
        size = detector.info.model.image_size
        for start in range(0, len(jpegs), self.batch_size):
            batch = jpegs[start : start + self.batch_size]
            images_BHWC = np.stack([decode_crop(jpeg, size) for jpeg in batch])
            rows += list(detector.logits(images_BHWC, self.batch_size))
        return rows
