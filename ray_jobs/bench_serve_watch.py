"""What a server takes while it is loaded: CPU, memory and GPU. Linux alone: it reads /proc."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

PROC = Path("/proc")
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
OWN_PAGES = ("Pss_Anon:", "Pss_Shmem:")
GPU_SAMPLE_MS = 500
SETTLES = 0.25
"""Share of a soak at its beginning that the slope leaves out: allocators fill their pools."""


@dataclass(frozen=True)
class Use:
    """Of some processes at a moment.

    Attributes:
        cpu_s: CPU seconds that they and their ended children have had.
        memory_mb: Resident, MB (1,000,000 bytes), without pages of files such as libraries, which
            the machine shares among all; what several of them share counts once.
    """

    cpu_s: float
    memory_mb: float


def processes_below(root: int, *, itself: bool) -> list[int]:
    """The ids of a process's descendants, and its own if asked for."""
    children: dict[int, list[int]] = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found, fresh = ([root] if itself else []), [root]
    while fresh:
        fresh = [child for parent in fresh for child in children.get(parent, [])]
        found += fresh
    return found


def use_of(processes: list[int]) -> Use:
    """What processes take; those that have ended take nothing."""
    ticks, kilobytes = 0, 0
    for process in processes:
        if fields := _stat(process):
            ticks += sum(map(int, fields[11:15]))
            kilobytes += _resident_kb(process)
    return Use(ticks / TICKS_A_SECOND, kilobytes * 1.024 / 1000)


def _stat(process: int) -> list[str]:
    """Fields of /proc/ID/stat from the state on; nothing where the process has ended."""
    with contextlib.suppress(OSError):
        return (PROC / str(process) / "stat").read_text().rpartition(") ")[2].split()
    return []


def _resident_kb(process: int) -> int:
    with contextlib.suppress(OSError):
        lines = (PROC / str(process) / "smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(OWN_PAGES))
    return 0


@dataclass
class Watch:
    """Watches a server's processes.

    Args:
        root: A process whose descendants they are.
        itself: It is one of them.
    """

    root: int
    itself: bool
    memory_mb: list[tuple[float, float]] = field(default_factory=list)
    """Seconds since the watch began, and memory."""

    @contextmanager
    def watching(self, every_s: float | None = None) -> Iterator[dict[str, Any]]:
        """Watches meanwhile.

        Args:
            every_s: Sample the memory so often.

        Yields:
            At the end it has `cpus`, how many were busy; `memory_mb`; and `gpu_percent` and
            `gpu_memory_mb` of the busiest GPU, where there is one.
        """
        found: dict[str, Any] = {}
        done = threading.Event()
        sampling = threading.Thread(target=self._sample, args=(done, every_s), daemon=True)
        with _gpu_samples() as gpus:
            before, began = use_of(self._processes()), time.monotonic()
            if every_s is not None:
                sampling.start()
            try:
                yield found
            finally:
                done.set()
            after, ended = use_of(self._processes()), time.monotonic()
        if every_s is not None:
            sampling.join()
        found["cpus"] = round((after.cpu_s - before.cpu_s) / (ended - began), 2)
        found["memory_mb"] = round(after.memory_mb, 1)
        found.update(_busiest(gpus))

    def _processes(self) -> list[int]:
        return processes_below(self.root, itself=self.itself)

    def _sample(self, done: threading.Event, every_s: float | None) -> None:
        began = time.monotonic()
        while not done.wait(every_s):
            taken = use_of(self._processes()).memory_mb
            self.memory_mb.append((round(time.monotonic() - began, 2), round(taken, 2)))


@contextmanager
def _gpu_samples() -> Iterator[list[list[float]]]:
    """Collects (GPU, percent, MiB) while it lasts; nothing where there is no GPU.

    It looks at the GPUs that CUDA may use: others of the host may have other work.
    """
    samples: list[list[float]] = []
    query = ["--query-gpu=index,utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed == "":
        yield samples
        return
    if allowed is not None:
        query.append(f"--id={allowed}")
    try:
        process = subprocess.Popen(
            ["nvidia-smi", *query, f"-lms={GPU_SAMPLE_MS}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except OSError:
        yield samples
        return

    def read() -> None:
        for line in process.stdout or ():
            with contextlib.suppress(ValueError):
                samples.append([float(part) for part in line.split(",")])

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    try:
        yield samples
    finally:
        process.terminate()
        process.wait()
        reading.join()


def _busiest(samples: list[list[float]]) -> dict[str, float]:
    by_gpu: dict[float, list[list[float]]] = {}
    for gpu, *values in samples:
        by_gpu.setdefault(gpu, []).append(values)
    means = [
        {
            "gpu_percent": round(fmean(percent for percent, _ in values), 1),
            "gpu_memory_mb": round(1.048576 * max(used for _, used in values), 1),
        }
        for values in by_gpu.values()
    ]
    return max(means, key=lambda mean: mean["gpu_percent"], default={})


def slope(samples: list[tuple[float, float]]) -> dict[str, float]:
    """How fast memory grows: a straight line through the samples after the first quarter.

    Neighbouring samples are alike, which a plain standard error does not know: it is widened by the
    residuals' correlation r from one to the next, as if there were n (1 - r) / (1 + r) of them.

    Args:
        samples: Seconds and MB, at least 8.

    Returns:
        `mb_per_h`, and its 95 % interval from `low_mb_per_h` to `high_mb_per_h`.
    """
    kept = np.array(samples[int(SETTLES * len(samples)) :])
    hours, memory = kept[:, 0] / 3600, kept[:, 1]
    centred = hours - hours.mean()
    rise = float(centred @ memory / (centred @ centred))
    left = memory - memory.mean() - rise * centred
    spread = float(left @ left)
    alike = max(0.0, float(left[1:] @ left[:-1]) / spread) if spread else 0.0
    variance = spread / (len(kept) - 2) / float(centred @ centred)
    margin = 1.96 * (variance * (1 + alike) / max(1e-9, 1 - alike)) ** 0.5
    return {
        "mb_per_h": round(rise, 2),
        "low_mb_per_h": round(rise - margin, 2),
        "high_mb_per_h": round(rise + margin, 2),
    }
