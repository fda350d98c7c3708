"""Small datasets for the tests of audit and removal."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genconvit.config import PreprocessSettings, SamplingSettings
from genconvit.data.clip_table import ClipRecord
from genconvit.data.crops import encode_crop
from genconvit.data.shards import SCHEMA, write_manifest, write_shard
from genconvit.folder import Folder

SIZE = 64


@dataclass(frozen=True)
class Made:
    """A clip to be made."""

    name: str
    group: str
    split: str = "train"
    label: str = "real"
    seed: int | None = None
    """Of its picture; its own where it is None."""
    content: str = ""
    """Hash of its file; its own where it is empty."""
    quality: int = 95
    method: str = "m"
    source: str = "s"
    crops: int = 3

    def picture(self, frame: int) -> NDArray[np.uint8]:
        text = self.name if self.seed is None else str(self.seed)
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        waves = np.random.default_rng([seed, frame]).integers(0, 255, (12, 12, 3), np.uint8)
        return cv2.resize(waves, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)

    def rows(self) -> list[dict[str, object]]:
        return [
            {
                "image": encode_crop(self.picture(frame), self.quality),
                "label": int(self.label == "real"),
                "video_id": self.name,
                "group": self.group,
                "frame_index": frame,
                "time_s": frame / 25,
                "track": 0,
                "box": [1, 2, 31 + len(self.name), 42],
                "face_score": 0.9,
                "source": self.source,
                "method": self.method,
                "split": self.split,
            }
            for frame in range(self.crops)
        ]

    def record(self) -> ClipRecord:
        return ClipRecord(
            name=self.name,
            label=self.label,
            group=self.group,
            method=self.method,
            source=self.source,
            split=self.split,
            content=self.content or hashlib.sha256(self.name.encode()).hexdigest()[:32],
            crops=self.crops,
            frames_sampled=3,
            frames_with_face=self.crops,
            failure_kind="" if self.crops else "no face",
        )


def write_dataset(path: Path | str, clips: Sequence[Made], clips_a_shard: int = 2) -> Folder:
    """Writes a version with shards of a few clips each."""
    folder = Folder(path)
    by_split: dict[str, list[Made]] = defaultdict(list)
    for clip in clips:
        if clip.crops:
            by_split[clip.split].append(clip)
    shards = [
        write_shard(folder, pa.Table.from_pylist(rows, schema=SCHEMA), notes={"clips": "some"})
        for own in by_split.values()
        for at in range(0, len(own), clips_a_shard)
        for rows in [[row for clip in own[at : at + clips_a_shard] for row in clip.rows()]]
    ]
    write_manifest(
        folder,
        shards,
        [clip.record() for clip in clips],
        settings={
            "preprocess": PreprocessSettings(size=SIZE).model_dump(mode="json"),
            "sampling": SamplingSettings().model_dump(mode="json"),
        },
        leaking_groups=["p1", "p2"],
        source="clips.csv",
    )
    return folder
