"""What a training step takes, part by part, on the device's own clock."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

PARTS = ("data_wait", "preparation", "forward", "backward", "update")
"""Of a step, in their order. The next step begins where one ends, so they add up."""

MATMUL_SIDE = {"cuda": 8192, "cpu": 1024}

CropBatch = tuple[Tensor, Tensor]
"""Crops uint8 (B, S, S, 3) and their labels (B,)."""


class Marks:
    """Moments between the parts of steps: CUDA events on a GPU, which nothing waits for.

    Args:
        device: Where the steps compute.

    Attributes:
        first_step_at: When the first step was done, as `time.time()`. It is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[Any] = []
        self.first_step_at: float | None = None

    def __call__(self) -> None:
        """A part ends here, in the order in which the device works."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def begin(self) -> None:
        """The first step begins here."""
        self._marks.clear()
        self()

    def step_done(self) -> None:
        """The last part of a step ends here."""
        self()
        if self.first_step_at is None:
            if self._cuda:
                torch.cuda.synchronize()
            self.first_step_at = time.time()

    def read(self, parts: int = len(PARTS)) -> NDArray[np.float64]:
        """Milliseconds (steps, parts) since `begin`. Waits for the device."""
        if self._cuda:
            torch.cuda.synchronize()
            pairs = zip(self._marks, self._marks[1:], strict=False)
            spans = [before.elapsed_time(after) for before, after in pairs]
        else:
            spans = (1000 * np.diff(self._marks)).tolist()
        return np.array(spans).reshape(-1, parts)


def made_up_batch(
    number: int, rows: int, side: int, device: torch.device, labels_on: torch.device
) -> CropBatch:
    """Crops that can be learned from; the same ones for the same number.

    The fakes have a grid. In some it is too faint to be seen, so that no loss comes down to 0.

    Args:
        number: Of the batch.
        rows: Crops in it; every second one is fake.
        side: Of the crops.
        device: Where they are.
        labels_on: Where their labels are.
    """
    generator = torch.Generator(device).manual_seed(number)
    coarse = torch.rand(rows, 3, 8, 8, generator=generator, device=device)
    images_BCHW = F.interpolate(coarse, size=(side, side), mode="bilinear")
    place = torch.arange(side, device=device)
    grid = ((place[:, None] // 2 + place // 2) % 2).float() - 0.5
    labels_B = torch.arange(rows, device=device) % 2
    strength_B = 0.15 * torch.rand(rows, generator=generator, device=device) * (labels_B == 0)
    images_BCHW = images_BCHW + grid * strength_B[:, None, None, None]
    crops_BHWC = (255 * images_BCHW.clamp(0, 1)).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return crops_BHWC, labels_B.to(labels_on)


def summary(times_ms: NDArray[np.float64]) -> dict[str, Any]:
    """What a step takes, and its parts.

    Medians over the steps, but for the wait for data: that comes in bursts, and a median would
    leave it out. A step is the sum of its parts.
    """
    parts = dict(zip(PARTS, np.median(times_ms, axis=0).tolist(), strict=True))
    parts["data_wait"] = float(times_ms[:, 0].mean())
    return {
        "step_ms": sum(parts.values()),
        "parts_ms": parts,
        "steps_ms": times_ms.sum(axis=1).round(3).tolist(),
    }


def compare_losses(plain: Sequence[float], ours: Sequence[float], last: int) -> dict[str, Any]:
    """The mean loss of the last steps of two trainings, with its standard error.

    The difference is noise where it is within two standard errors of it.
    """
    one, two = (np.asarray(losses[-last:], np.float64) for losses in (plain, ours))
    errors = [float(x.std(ddof=1) / np.sqrt(len(x))) for x in (one, two)]
    found = {
        "steps": len(plain),
        "last_steps": last,
        "first_loss": float(plain[0]),
        "plain_loss": float(one.mean()),
        "plain_standard_error": errors[0],
        "genconvit_loss": float(two.mean()),
        "genconvit_standard_error": errors[1],
        "within_noise": bool(abs(one.mean() - two.mean()) <= 2 * np.hypot(errors[0], errors[1])),
    }
    # JSON knows no NaN: None is a loss that is not finite.
    return {name: value if np.isfinite(value) else None for name, value in found.items()}


def matmul_tflops_per_s(device: torch.device, repeats: int = 40) -> float:
    """What the device reaches in large matrix products: bfloat16 on a GPU, float32 on a CPU.

    The best of them: on a CPU others often compute, too.
    """
    side = MATMUL_SIDE[device.type]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    marks = Marks(device)
    for _ in range(3):
        a @ b
    marks.begin()
    for _ in range(repeats):
        a @ b
        marks()
    return float(2 * side**3 / (1e9 * marks.read(parts=1).min()))


def mfu(flops_per_image: float, images_per_s: float, tflops_per_s: float) -> float:
    """Share of a device's matrix product rate that the images' own operations make up."""
    return flops_per_image * images_per_s / (1e12 * tflops_per_s)


def peak_memory(device: torch.device) -> dict[str, int]:
    """The most that this process held so far, in bytes."""
    if device.type == "cuda":
        return {
            "peak_allocated_bytes": torch.cuda.max_memory_allocated(device),
            "peak_reserved_bytes": torch.cuda.max_memory_reserved(device),
        }
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_process_bytes": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def forget_peaks(device: torch.device) -> None:
    """Has `peak_memory` of a GPU begin anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
