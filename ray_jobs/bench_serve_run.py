"""The load that `genconvit bench serve` puts on a detector and on servers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ray
import torch

from genconvit.data.crops import decode_crop
from genconvit.evaluate.aggregate import crop_probability
from genconvit.predict import Detector, load_detector
from ray_jobs.bench_serve_material import Kind
from ray_jobs.bench_serve_watch import Watch
from ray_jobs.load import Answer, Plan, summarize

WARM_UP_S = 3.0
BATCH_SIZES = {"cpu": (16, 32, 64), "cuda": (64, 128, 256, 512)}
STAGES = ("wait", "decode", "queue", "network")
TIME_OUT_S = 70.0
"""Longer than the server's own time budget: it never has to be waited for."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A server under load.

    Attributes:
        variant: Its name.
        url: http://HOST:PORT.
        path: Where requests go.
        requests: The files of each.
        root, itself: Of `Watch`.
    """

    variant: str
    url: str
    path: str
    requests: list[list[Path]]
    root: int
    itself: bool


def time_direct(
    detector: Detector, kind: Kind, requests: list[list[Path]], seconds: float
) -> Iterator[Row]:
    """Calls the detector in this process; for crops also with its best batch.

    Yields:
        Rows as of `load`; the second one of crops has `crops_per_s` alone.
    """
    answers: list[Answer] = []
    files = cycle(requests)
    cpu = 0.0
    zero = time.perf_counter() + WARM_UP_S
    while (due_s := time.perf_counter() - zero) < seconds:
        before = time.process_time()
        _judge(detector, kind, next(files))
        if due_s >= 0:
            answers.append(Answer(due_s, 0.0, time.perf_counter() - zero - due_s, 200))
            cpu += time.process_time() - before
    row = _row("direct", kind, {"clients": 1}, summarize(answers, seconds), len(requests[0]))
    yield row | {"cpus": round(cpu / seconds, 2)}
    if kind == "crops":
        rates = _batch_rates(detector, seconds / 3)
        best = max(rates, key=lambda size: rates[size])
        yield {
            "variant": "direct, batches",
            "batch_crops": best,
            "crops_per_s": rates[best],
            "crops_per_s_by_batch": rates,
        }


def _judge(detector: Detector, kind: Kind, files: list[Path]) -> None:
    if kind != "crops":
        detector.judge(files[0])
        return
    info = detector.info
    images = [decode_crop(file.read_bytes(), info.model.image_size) for file in files]
    for row in detector.logits(np.stack(images), len(images)):
        crop_probability(row, info.decision, info.temperature)


def _batch_rates(detector: Detector, seconds: float) -> dict[int, float]:
    """Decoded crops scored in a second, by how many go together."""
    rates = {}
    side = detector.info.model.image_size
    sizes = BATCH_SIZES[detector.device.type]
    crops = np.random.default_rng(0).integers(0, 256, (max(sizes), side, side, 3), np.uint8)
    for size in sizes:
        detector.logits(crops[:size], size)
        done, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds / len(sizes):
            detector.logits(crops[:size], size)
            done += size
        rates[size] = round(done / passed, 1)
    return rates


def load(
    target: Target,
    kind: Kind,
    seconds: float,
    *,
    clients: int | None = None,
    rate: float | None = None,
    every_s: float | None = None,
) -> tuple[Row, Watch]:
    """Puts load on a server from a process of its own.

    Args:
        target: The server.
        kind: What is sent.
        seconds: How long.
        clients: Of a closed loop.
        rate: Of an open one, requests a second.
        every_s: Of `Watch.watching`.

    Returns:
        The row of the table, and what was seen of the memory.
    """
    plan = Plan(
        target.url + target.path,
        [[str(file) for file in group] for group in target.requests],
        seconds,
        clients=clients,
        rate=rate,
        warm_up_s=WARM_UP_S,
        time_out_s=TIME_OUT_S,
    )
    watch = Watch(target.root, target.itself)
    before = _counted(target)
    with watch.watching(every_s) as used:
        run = subprocess.run(
            [sys.executable, "-m", "ray_jobs.load"],
            input=json.dumps(asdict(plan)),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    summary = json.loads(run.stdout)["summary"]
    offered: Row = {"rate": rate} if clients is None else {"clients": clients}
    row = _row(target.variant, kind, offered, summary, len(target.requests[0]))
    return row | used | _between(before, _counted(target)), watch


def _row(variant: str, kind: Kind, offered: Row, summary: Row, files_a_request: int) -> Row:
    row = {"variant": variant, **offered, **summary}
    if kind == "crops":
        row["crops_per_s"] = round(files_a_request * summary["rps"], 1)
    return row


def _counted(target: Target) -> dict[str, float]:
    """The server's own counters; nothing where it has none."""
    answer = httpx.get(f"{target.url}/metrics", timeout=30)
    if answer.status_code != 200:
        return {}
    found = re.findall(r"^(genconvit_(?:batch_crops|stage_seconds)_\S+) (\S+)$", answer.text, re.M)
    return {name: float(value) for name, value in found}


def _between(before: dict[str, float], after: dict[str, float]) -> Row:
    def mean(name: str, labels: str = "") -> float | None:
        total, count = (
            after.get(key, 0.0) - before.get(key, 0.0)
            for key in (f"genconvit_{name}_{part}{labels}" for part in ("sum", "count"))
        )
        return total / count if count else None

    found: Row = {}
    if (crops := mean("batch_crops")) is not None:
        found["batch_crops"] = round(crops, 2)
    stages = {stage: mean("stage_seconds", f'{{stage="{stage}"}}') for stage in STAGES}
    if all(value is not None for value in stages.values()):
        found["stages_ms"] = {name: round(1000 * (value or 0), 2) for name, value in stages.items()}
    return found


def load_and_describe(model: str) -> tuple[Detector, dict[str, Any]]:
    """The detector as a server loads it, and what it runs on."""
    detector = load_detector(model, fast=True)
    cuda = detector.device.type == "cuda"
    return detector, {
        "detector": detector.info.id,
        "image_size": detector.info.model.image_size,
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "cpus": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "ray": ray.__version__,
        "python": sys.version.split()[0],
        "threads": torch.get_num_threads(),
    }
