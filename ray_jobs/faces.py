"""The crops of a few clips, for pages that show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import ray

from genconvit.config import PreprocessSettings, SamplingSettings
from genconvit.data.catalog import Clip
from genconvit.data.crops import ClipCrops, extract_crops
from genconvit.data.detectors import with_detector_digest
from genconvit.data.shards import FrameDataset, read_clips
from genconvit.evaluate.cases import Faces
from genconvit.storage import absolute
from genconvit.verdict import TimelinePoint
from ray_jobs.extract_tasks import local_copy


def faces_of_clips(
    clips: Sequence[Clip], preprocess: PreprocessSettings, sampling: SamplingSettings
) -> Faces:
    """Decodes them again, in Ray tasks: crops of all clips would not fit into memory."""
    paths = {clip.name: absolute(clip.path) for clip in clips}
    preprocess = with_detector_digest(preprocess)

    def faces(points: Mapping[str, Sequence[TimelinePoint]]) -> dict[str, list[bytes]]:
        asked = {name: _crops.remote(paths[name], preprocess, sampling) for name in points}
        found: dict[str, list[bytes]] = {}
        for name, crops in asked.items():
            try:
                found[name] = _at(ray.get(crops), points[name])
            except ray.exceptions.RayError:
                continue  # the clip has gone since it was judged
        return found

    return faces


def faces_of_shards(dataset: FrameDataset, split: str) -> Faces:
    """Reads them in shards."""

    def faces(points: Mapping[str, Sequence[TimelinePoint]]) -> dict[str, list[bytes]]:
        return {
            name: _at(crops, points[name])
            for name, crops in read_clips(dataset, split, list(points)).items()
        }

    return faces


def _at(found: ClipCrops, points: Sequence[TimelinePoint]) -> list[bytes]:
    by_place = {(crop.frame_index, crop.track): crop.jpeg for crop in found.crops}
    places = ((point.frame_index, point.track) for point in points)
    return [by_place[place] for place in places if place in by_place]


@ray.remote(num_cpus=1)
def _crops(path: str, preprocess: PreprocessSettings, sampling: SamplingSettings) -> ClipCrops:
    with local_copy(path) as file:
        return extract_crops(Path(file), preprocess, sampling)
