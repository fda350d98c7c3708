"""A run so small that it takes a second."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genconvit.config import Settings
from genconvit.models.registry import build_from_settings
from genconvit.overrides import parse_assignment, resolve_settings
from genconvit.train.batches import plan_batches
from genconvit.train.feed import Batch
from genconvit.train.loop import Data, fit
from genconvit.train.run_writer import RunWriter
from genconvit.train.state import newest_state, read_state

CPU = torch.device("cpu")


def settings(*texts: str) -> Settings:
    fixed = ["model.preset=nano", "model.image_size=64", "train.lr=1e-3", "train.epochs=2"]
    return resolve_settings(assignments=[parse_assignment(text) for text in [*fixed, *texts]])


def crops(count: int, seed: int = 0) -> Batch:
    """Fakes are darker in the middle."""
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 2
    image = rng.integers(0, 255, (count, 64, 64, 3), dtype=np.uint8)
    image[label == 0, 16:48, 16:48] //= 4
    video_id = np.array([f"clip{index // 4}-{index % 2}" for index in range(count)])
    return {"image": image, "label": label, "video_id": video_id}


def batches(data: Batch, size: int) -> Iterator[Batch]:
    for start in range(0, len(data["label"]), size):
        yield {name: column[start : start + size] for name, column in data.items()}


def data_of(
    train: Batch,
    val: Batch,
    *,
    batch_size: int = 8,
    passes: int = 1,
    class_counts: tuple[int, int] = (8, 8),
) -> Data:
    def shuffled(epoch: int, skip: int) -> Iterator[Batch]:
        order = np.random.default_rng(epoch).permutation(len(train["label"]))
        mixed = {name: column[order] for name, column in train.items()}
        return islice(batches(mixed, batch_size), skip, None)

    return Data(
        train=shuffled,
        validate=lambda: batches(val, 6),
        rows=len(train["label"]),
        class_counts=class_counts,
        plan=plan_batches(batch_size, batch_size * passes, workers=1),
    )


def data() -> Data:
    return data_of(crops(16), crops(16, seed=1))


def run(folder: Path, job: Settings, crops: Data | None = None, **how: Any) -> RunWriter:
    """Trains in a folder, and goes on with what is there."""
    return run_in(RunWriter(folder, job, {"digest": "none"}), job, crops, **how)


def run_in(run_folder: RunWriter, job: Settings, crops: Data | None, **how: Any) -> RunWriter:
    """The same, in a folder that writes in its own way."""
    torch.manual_seed(job.seed)
    run_folder.start()
    path, _ = run_folder.newest_state()
    resumed = read_state(path) if path else None
    network = build_from_settings(job.model)
    fit(job, network, crops or data(), run_folder, device=CPU, resumed=resumed, **how)
    return run_folder


def state_of(folder: Path) -> dict[str, Any]:
    """The newest state of a run."""
    path, _ = newest_state(folder)
    assert path is not None
    return read_state(path)
