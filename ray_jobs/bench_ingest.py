"""How fast crops reach the device: the stream, a torch DataLoader, plain cv2 and an upper bound."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from rich.table import Table
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from genconvit.config import Settings
from genconvit.data.plan import Chunk, load_chunk
from genconvit.data.synthetic import write_synthetic_shards
from genconvit.data.tensors import to_images
from genconvit.data.training_data import Epochs, TrainingData
from genconvit.files import write_json
from ray_jobs.cache import Cache
from ray_jobs.cache_fill import fill_cache
from ray_jobs.cluster import connected
from ray_jobs.estimate import human_bytes
from ray_jobs.extract import dataset_for
from ray_jobs.output import Output, new_out_folder
from ray_jobs.stream import Batch, start_workers, stream

LOADERS = ("mock", "cv2", "dataloader", "stream", "cached")
MEANING = {
    "mock": "the same batch again and again: an upper bound",
    "cv2": "one process reads and decodes",
    "dataloader": "torch DataLoader over the same files",
    "stream": "Ray Data",
    "cached": "decoded crops in the object store",
}
POLL_S = 0.2


@dataclass(frozen=True)
class Epoch:
    """What one consumer saw of one epoch.

    Attributes:
        crops: Crops that reached the device.
        seconds: From asking for the epoch to its last crop on the device.
        first_batch_s: Seconds to the first batch.
        waits_s: Seconds that each further batch was waited for.
    """

    crops: int
    seconds: float
    first_batch_s: float
    waits_s: list[float]


def bench_ingest(
    data: str | None,
    settings: Settings,
    output: Output,
    *,
    crops: int,
    epochs: int,
    loaders: Sequence[str],
    loader_workers: int | None,
    out: Path | None,
) -> dict[str, Any]:
    """Times every loader on the same crops, one after the other, and writes `ingest.json`.

    Each GPU has a consumer of its own that takes its share of the crops to the device; without
    GPUs there is one.

    Args:
        data: Shards or clips; by default made-up shards.
        settings: `train.batch_size`, `model.image_size` and `stream` matter.
        output: Where to tell of it.
        crops: Made-up training crops.
        epochs: Passes of each loader.
        loaders: Some of `LOADERS`.
        loader_workers: Processes of the DataLoader of each consumer; by default all CPUs.
        out: Folder for the results.
    """
    out = (out or new_out_folder("bench-ingest")).resolve()
    with connected(output) as ray_logs, tempfile.TemporaryDirectory(prefix="genconvit-") as made:
        output.say(f"Ray's logs: {ray_logs}")
        dataset = (
            dataset_for(data, settings, output)
            if data
            else write_synthetic_shards(Path(made), crops, settings)
        )
        training = TrainingData.of(dataset)
        world = max(1, int(ray.cluster_resources().get("GPU", 0)))
        cpus = int(ray.cluster_resources()["CPU"])
        workers = loader_workers or max(1, cpus // world)
        results = {}
        with output.bar("timing", total=len(loaders)) as bar:
            for name in loaders:
                cache = fill_cache(training, settings, output) if name == "cached" else None
                with _object_store() as store:
                    runs = _consume(name, training, settings, world, epochs, workers, cache)
                results[name] = {**_summary(runs), **store}
                bar.advance(name)
    report = {
        "crops": sum(training.counts["train"].values()),
        "image_size": settings.model.image_size,
        "batch_size": settings.train.batch_rows,
        "consumers": world,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpus": cpus,
        "dataloader_workers": workers * world,
        "stream": settings.stream.model_dump(mode="json"),
        "loaders": results,
    }
    write_json(out / "ingest.json", report)
    _show(report, output)
    output.say(f"Results: {out / 'ingest.json'}")
    output.emit({"event": "bench", "out": str(out), **report})
    return report


def _consume(
    name: str,
    data: TrainingData,
    settings: Settings,
    world: int,
    epochs: int,
    workers: int,
    cache: Cache | None,
) -> list[list[Epoch]]:
    """For each consumer its epochs. They begin each epoch together, as DDP does."""
    gpus = int(ray.cluster_resources().get("GPU", 0)) > 0
    if name == "stream":
        start_workers()  # as training does
    # A consumer only copies: the CPUs are for those who decode.
    actor = ray.remote(num_cpus=0, num_gpus=1 if gpus else 0)(_Consumer)
    consumers = [
        actor.remote(name, data, settings, rank, world, workers, cache) for rank in range(world)
    ]
    rounds = [
        ray.get([consumer.epoch.remote(number) for consumer in consumers])
        for number in range(1, epochs + 1)
    ]
    for consumer in consumers:
        ray.kill(consumer)
    return [list(runs) for runs in zip(*rounds, strict=True)]


class _Consumer:
    """Takes the batches of one worker to its device."""

    def __init__(
        self,
        name: str,
        data: TrainingData,
        settings: Settings,
        rank: int,
        world: int,
        workers: int,
        cache: Cache | None,
    ) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._size, self._batch_size = settings.model.image_size, settings.train.batch_rows
        self._epochs = Epochs(
            data,
            settings.stream,
            batch_size=self._batch_size,
            seed=settings.seed,
            rank=rank,
            world=world,
        )
        self._name, self._workers, self._cache = name, workers, cache
        to_images(np.zeros((1, 8, 8, 3), np.uint8), self._device)  # CUDA starts now

    def epoch(self, number: int) -> Epoch:
        """One pass."""
        crops, waits = 0, []
        started = asked = time.perf_counter()
        for batch in self._batches(self._epochs.train(number)):
            waits.append(time.perf_counter() - asked)
            images = to_images(batch["image"], self._device)
            crops += len(images)
            asked = time.perf_counter()
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return Epoch(crops, time.perf_counter() - started, waits[0], waits[1:])

    def _batches(self, chunks: Sequence[Chunk]) -> Iterator[Batch]:
        size = self._size
        if self._name == "mock":
            batch = {"image": np.zeros((self._batch_size, size, size, 3), np.uint8)}
            return (batch for _ in range(sum(map(len, chunks)) // self._batch_size))
        if self._name == "cv2":
            return _split(chunks, size, self._batch_size)
        if self._name == "dataloader":
            loader: DataLoader[Any] = DataLoader(
                _Files(chunks, size, self._batch_size),
                batch_size=None,
                num_workers=self._workers,
                pin_memory=self._device.type == "cuda",
                prefetch_factor=2,
            )
            return ({"image": images.numpy()} for images in loader)
        return stream(chunks, image_size=size, batch_size=self._batch_size, cache=self._cache)


class _Files(IterableDataset[torch.Tensor]):
    """Batches for a DataLoader, whose processes take turns at the chunks."""

    def __init__(self, chunks: Sequence[Chunk], size: int, batch_size: int) -> None:
        self._chunks, self._size, self._batch_size = chunks, size, batch_size

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        mine = self._chunks[info.id :: info.num_workers] if info else self._chunks
        for batch in _split(mine, self._size, self._batch_size):
            yield torch.from_numpy(batch["image"])


def _split(chunks: Sequence[Chunk], size: int, batch_size: int) -> Iterator[Batch]:
    for chunk in chunks:
        images = load_chunk(chunk, size, ())["image"]
        for start in range(0, len(images), batch_size):
            yield {"image": images[start : start + batch_size]}


@contextmanager
def _object_store() -> Iterator[dict[str, float]]:
    """Fills in the most that Ray's object store held, and what it spilled, while the block ran."""
    found: dict[str, float] = {"store_peak_bytes": 0.0, "spilled_bytes": 0.0}
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    stopped = threading.Event()

    def look() -> tuple[float, float]:
        stats = get_memory_info_reply(state).store_stats
        return stats.object_store_bytes_used, stats.spilled_bytes_total

    before = look()[1]

    def watch() -> None:
        while not stopped.wait(POLL_S):
            used, spilled = look()
            found["store_peak_bytes"] = max(found["store_peak_bytes"], used)
            found["spilled_bytes"] = spilled - before

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stopped.set()
        thread.join()


def _summary(runs: list[list[Epoch]]) -> dict[str, Any]:
    """Rates of all consumers together, for each epoch; the first is apart, it starts things."""
    rounds = list(zip(*runs, strict=True))
    rates = [
        sum(epoch.crops for epoch in at_once) / max(epoch.seconds for epoch in at_once)
        for at_once in rounds
    ]
    later = [wait for of in runs for epoch in of[1:] or of for wait in epoch.waits_s]
    return {
        "first_epoch_crops_per_s": round(rates[0], 1),
        "crops_per_s": round(float(np.median(rates[1:] or rates)), 1),
        "epochs_crops_per_s": [round(rate, 1) for rate in rates],
        "first_batch_s": [round(max(e.first_batch_s for e in at_once), 3) for at_once in rounds],
        "fetch_p99_ms": round(1000 * float(np.percentile(later, 99)), 2) if later else None,
    }


def _show(report: dict[str, Any], output: Output) -> None:
    table = Table(
        "loader", "crops/s", "1st epoch", "of DataLoader", "first batch", "fetch p99", "store peak",
        "spilled",
        title=f"{report['crops']} crops of {report['image_size']} px, batches of "
        f"{report['batch_size']}, {report['consumers']} x {report['device']}, "
        f"{report['cpus']} CPUs",
        caption="; ".join(f"{name}: {MEANING[name]}" for name in report["loaders"]),
    )  # fmt: skip
    base = report["loaders"].get("dataloader", {}).get("crops_per_s")
    for name, found in report["loaders"].items():
        first = found["first_batch_s"]
        table.add_row(
            name,
            f"{found['crops_per_s']:,.0f}",
            f"{found['first_epoch_crops_per_s']:,.0f}",
            f"{found['crops_per_s'] / base:.2f}" if base else "",
            f"{first[0]:.2f} s, then {min(first[1:] or first):.2f} s",
            "" if found["fetch_p99_ms"] is None else f"{found['fetch_p99_ms']:.1f} ms",
            human_bytes(found["store_peak_bytes"]),
            human_bytes(found["spilled_bytes"]),
        )
    output.say(table)
