"""Made-up shards for benchmarks: crops that weigh and decode like real ones, and show nothing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from genconvit.config import Settings
from genconvit.data.clip_table import ClipRecord
from genconvit.data.crops import encode_crop
from genconvit.data.shards import SCHEMA, FrameDataset, open_dataset, write_manifest, write_shard
from genconvit.folder import Folder

CROPS_A_CLIP = 32
PATTERNS = 64
"""Different pictures; there are as many JPEGs, each of which comes many times."""
SHARD_ROWS = 8192


def write_synthetic_shards(folder: Path, crops: int, settings: Settings) -> FrameDataset:
    """Writes a dataset with a train and a val split, half real and half fake.

    Args:
        folder: Where to.
        crops: Training crops; a sixteenth of that validates.
        settings: `preprocess` says the size and the JPEG quality.
    """
    generator = np.random.default_rng(0)
    size, quality = settings.preprocess.size, settings.preprocess.jpeg_quality
    jpegs = [encode_crop(_pattern(generator, size), quality) for _ in range(PATTERNS)]
    shards, records = [], []
    for split, total in (("train", crops), ("val", max(2 * CROPS_A_CLIP, crops // 16))):
        for start in range(0, total, SHARD_ROWS):
            count = min(SHARD_ROWS, total - start)
            clip = (start + np.arange(count)) // CROPS_A_CLIP
            place = generator.permutation(count) if split == "train" else np.arange(count)
            clip, picked = clip[place], generator.integers(0, PATTERNS, count)
            columns = {
                "image": [jpegs[number] for number in picked],
                "label": (clip % 2).tolist(),
                "video_id": [f"{split}{number}" for number in clip],
                "group": [f"{split}{number // 2}" for number in clip],
                "frame_index": place.tolist(),
                "time_s": [0.0] * count,
                "track": [0] * count,
                "box": [[0, 0, size, size]] * count,
                "face_score": [1.0] * count,
                "source": ["synthetic"] * count,
                "method": ["synthetic"] * count,
                "split": [split] * count,
            }
            shards.append(write_shard(Folder(folder), pa.table(columns, schema=SCHEMA)))
        for number in range(-(-total // CROPS_A_CLIP)):
            held = min(CROPS_A_CLIP, total - number * CROPS_A_CLIP)
            label, group = ("fake", "real")[number % 2], f"{split}{number // 2}"
            name = f"{split}{number}"
            records.append(ClipRecord(name, label, group, split=split, content=name, crops=held))
    sections = settings.model_dump(mode="json", include={"preprocess", "sampling"})
    write_manifest(Folder(folder), shards, records, settings=sections)
    return open_dataset(folder)


def _pattern(generator: np.random.Generator, size: int) -> np.ndarray:
    """Smooth colours, edges and a little grain: about 0.33 bytes a pixel as JPEG of quality 95."""
    image = np.zeros((size, size, 3), np.float32)
    for cells, strength in ((4, 60.0), (16, 25.0), (48, 10.0)):
        coarse = generator.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    image += 128 + generator.normal(0, 2.0, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)
