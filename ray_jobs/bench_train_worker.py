"""What the processes of `genconvit bench train` do with crops that are on their device."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from genconvit.config import Settings
from genconvit.data.augment import KINDS
from genconvit.data.tensors import to_images
from genconvit.models.autoencoder import normalize
from genconvit.train.batch_size import find_batch_size
from genconvit.train.measure import (
    Marks,
    compare_losses,
    forget_peaks,
    made_up_batch,
    matmul_tflops_per_s,
    peak_memory,
)
from genconvit.train.measured_steps import (
    MarkedStep,
    PlainStep,
    run_step,
    time_steps,
    time_verdicts,
)
from genconvit.train.network import compiles, speed_up, start_network
from genconvit.train.precision import Precision

OUT_OF_MEMORY = "out of memory"
"""The same words are in what PyTorch says."""
PLAIN = {"eager-fp32": "fp32", "eager-bf16": "bf16"}
BATCHES = 4
"""On the device, which steps take turns at."""
CHECKED_STEPS, CHECKED_LAST = 200, 50
PROFILED_STEPS, PROFILED_ROWS = 3, 25


@dataclass(frozen=True)
class Place:
    """What a process computes with.

    Attributes:
        gpu: Whether it has a GPU.
        threads: Of PyTorch on the CPU.
    """

    gpu: bool
    threads: int

    def enter(self) -> torch.device:
        """The device of this process."""
        torch.set_num_threads(self.threads)
        return torch.device("cuda", 0) if self.gpu else torch.device("cpu")


def machine(place: Place) -> dict[str, Any]:
    """The device that a worker gets, and how fast it multiplies."""
    device, cuda = place.enter(), place.gpu
    return {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "device_memory_bytes": torch.cuda.mem_get_info()[1] if cuda else None,
        "matmul_dtype": "bfloat16" if cuda else "float32",
        "matmul_tflops_per_s": matmul_tflops_per_s(device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


class Row:
    """One variant, in a process of its own.

    Args:
        variant: A name of `PLAIN`, or `genconvit`.
        settings: Of the run.
        place: What the process computes with.
        asked_at: When the process was asked for, as `time.time()`.
    """

    def __init__(self, variant: str, settings: Settings, place: Place, asked_at: float) -> None:
        self._asked_at, self._entered_at = asked_at, time.time()
        self._place, self._plain = place, variant in PLAIN
        train = settings.train
        if self._plain:
            train = train.model_copy(update={"precision": PLAIN[variant]})
        self._settings = settings.model_copy(update={"train": train})

    def prepare(self) -> dict[str, Any]:
        """Makes the network and the crops."""
        settings, device = self._settings, self._place.enter()
        self._device, self._marks = device, Marks(device)
        compiled = not self._plain and compiles(settings.train, device)
        cache = compile_cache() if compiled else None
        network = start_network(settings, device, new=False)
        rows = settings.train.batch_rows
        if settings.train.batch_size == "auto":
            rows = find_batch_size(settings, network, device)
            forget_peaks(device)
        self._step = made_step(self._plain, settings, network, device, self._marks, rows)
        side, labels_on = settings.model.image_size, labels_place(self._plain, device)
        self._batches = [
            made_up_batch(number, rows, side, device, labels_on) for number in range(BATCHES)
        ]
        return {
            "batch_size": rows,
            "precision": name_of(self._step.precision),
            "compiled": compiled,
            "compile_cache": cache,
        }

    def warm_up(self, steps: int) -> dict[str, Any]:
        """Steps that do not count."""
        time_steps(self._step, self._batches, steps, self._marks)
        return since_start(self._asked_at, self._entered_at, self._marks)

    def time(self, steps: int) -> np.ndarray:
        """Milliseconds (steps, parts)."""
        return time_steps(self._step, self._batches, steps, self._marks)

    def memory(self) -> dict[str, Any]:
        """The most that was held so far."""
        return {**peak_memory(self._device), "threads": torch.get_num_threads()}

    def judge(self, batches: int) -> np.ndarray:
        """Milliseconds (batches,) to the verdict."""
        step = self._step
        step.network.zero_grad(set_to_none=True)
        return time_verdicts(
            step.network,
            step.images
            if isinstance(step, PlainStep)
            else lambda crops_BHWC: normalize(to_images(crops_BHWC, self._device)),
            step.precision,
            self._batches,
            batches,
            self._marks,
        )

    def profile(self) -> tuple[bytes, str, list[dict[str, Any]]]:
        """A gzipped Chrome trace of a few steps, a table of operations, and the largest of them."""
        cuda = self._place.gpu
        activities = [torch.profiler.ProfilerActivity.CPU]
        activities += [torch.profiler.ProfilerActivity.CUDA] if cuda else []
        self._step.network.train()
        with torch.profiler.profile(activities=activities) as profiler:
            time_steps(self._step, self._batches, PROFILED_STEPS, self._marks)
        key = "self_device_time_total" if cuda else "self_cpu_time_total"
        averages = profiler.key_averages()
        table = averages.table(sort_by=key, row_limit=PROFILED_ROWS, max_name_column_width=70)
        # What a kernel takes is counted for the operation that started it, too.
        on_gpu = torch.autograd.DeviceType.CUDA
        operations = [one for one in averages if not cuda or one.device_type == on_gpu]
        total = sum(getattr(one, key) for one in operations)
        largest = sorted(operations, key=lambda one: -getattr(one, key))[:PROFILED_ROWS]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json.gz"
            profiler.export_chrome_trace(str(path))
            trace = path.read_bytes()
        return (
            trace,
            table,
            [
                {
                    "name": one.key,
                    "calls_per_step": one.count / PROFILED_STEPS,
                    "ms_per_step": getattr(one, key) / 1000 / PROFILED_STEPS,
                    "share": getattr(one, key) / total,
                }
                for one in largest
            ],
        )


def check_losses(settings: Settings, place: Place, steps: int = CHECKED_STEPS) -> dict[str, Any]:
    """Trains the plain loop in float32 and the run's step on the same crops, and compares.

    Both begin with the same weights. Crops are not augmented, and the rate stays as it is, so that
    what is left are formats, kernels and the optimiser.
    """
    device = place.enter()
    off = settings.augment.model_copy(
        update=dict.fromkeys((*KINDS, "self_blend", "mixup", "cutmix"), 0.0)
    )
    constant = settings.train.model_copy(
        update={"sched": "plateau", "warmup_epochs": 0.0, "model_ema": False}
    )

    def train(plain: bool) -> list[float]:
        own = constant.model_copy(update={"precision": "fp32"}) if plain else constant
        alike = settings.model_copy(update={"augment": off, "train": own})
        marks = Marks(device)
        rows, side = settings.train.batch_rows, settings.model.image_size
        network = start_network(alike, device, new=False)
        step = made_step(plain, alike, network, device, marks, rows)
        torch.manual_seed(settings.seed)
        marks.begin()
        labels_on = labels_place(plain, device)
        losses = [
            step(*made_up_batch(number, rows, side, device, labels_on)) for number in range(steps)
        ]
        return torch.stack(losses).tolist()

    return compare_losses(train(plain=True), train(plain=False), min(CHECKED_LAST, steps // 2))


def made_step(
    plain: bool,
    settings: Settings,
    network: nn.Module,
    device: torch.device,
    marks: Marks,
    rows: int,
) -> PlainStep | MarkedStep:
    """The plain loop's step, or the run's, on one device."""
    if not plain:
        return run_step(
            settings,
            network,
            device,
            marks,
            accelerate=lambda one: speed_up(one, settings.train, device),
            compiled=compiles(settings.train, device),
            rows=rows,
        )
    if device.type == "cuda":
        # PyTorch's defaults, which looking for the batch size changes.
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = True
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    return PlainStep(
        network, settings, Precision(device.type, dtypes[settings.train.precision]), marks
    )


def labels_place(plain: bool, device: torch.device) -> torch.device:
    """Where a step takes labels from: a run's preparation reads them on the CPU."""
    return device if plain else torch.device("cpu")


def compile_cache() -> str:
    """Whether PyTorch's folder of compiled code has something in it: `warm`, else `cold`."""
    # Where nothing is compiled, nobody waits for this import.
    from torch._inductor.runtime.runtime_utils import cache_dir

    folder = Path(cache_dir())
    return "warm" if folder.is_dir() and any(folder.iterdir()) else "cold"


def since_start(asked_at: float, entered_at: float, marks: Marks) -> dict[str, float]:
    """Seconds to the first step, since the process had its work and since it was asked for."""
    assert marks.first_step_at is not None
    return {
        "first_step_s": marks.first_step_at - entered_at,
        "start_to_first_step_s": marks.first_step_at - asked_at,
    }


def name_of(precision: Precision) -> str:
    """Such as `bfloat16`."""
    return str(precision.dtype).removeprefix("torch.")
