"""The largest batch that fits a GPU, found by trying."""

from __future__ import annotations

import copy

import torch
from torch import nn

from genconvit.config import Settings
from genconvit.models.accelerate import accelerate
from genconvit.train.precision import Precision
from genconvit.train.step import Objective

SMALLEST, LARGEST = 8, 4096
SHARE_OF_GPU = 0.85
"""What a run may take: kernels pick other algorithms, and with them memory, as they go."""


def find_batch_size(settings: Settings, network: nn.Module, device: torch.device) -> int:
    """The largest batch, a multiple of 8, whose step fits the memory of the GPU that is free.

    Passes over made-up crops show what a crop costs; the answer is tried before it is given. They
    are those of a copy with the run's fused kernels, not compiled, which takes no less memory.
    Network and random numbers are left as they were. On a CPU the answer is the default batch size.

    Args:
        settings: Of the run.
        network: On `device`, neither accelerated nor wrapped.
        device: Where it will be trained.
    """
    if device.type != "cuda":
        return settings.train.batch_rows
    objective = Objective(settings.loss, settings.model, Precision.of(settings.train, device))
    with torch.random.fork_rng([device]):
        tried = accelerate(copy.deepcopy(network), compile=False)
        try:
            return _largest(settings, tried, objective, device)
        finally:
            del tried
            torch.cuda.empty_cache()


def _largest(
    settings: Settings, network: nn.Module, objective: Objective, device: torch.device
) -> int:
    parameters = sum(p.numel() * p.element_size() for p in network.parameters())
    # Adam's two moments, DDP's buckets, and the moving average come on top of what a pass takes.
    later = parameters * (3 + settings.train.model_ema)
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    room = SHARE_OF_GPU * free - later
    size, peaks = SMALLEST, dict[int, int]()
    while len(peaks) < 2:
        peak = _peak(settings, network, objective, device, size)
        if peak is None:
            return max(2, size // 2)
        peaks[size] = peak
        size *= 2
    (small, low), (large, high) = peaks.items()
    a_crop = max(1.0, (high - low) / (large - small))
    size = large + int((room - high) / a_crop)
    size = min(LARGEST, max(SMALLEST, size // 8 * 8))
    while size > SMALLEST:
        peak = _peak(settings, network, objective, device, size)
        if peak is not None and peak <= room:
            break
        size = max(SMALLEST, int(0.9 * size) // 8 * 8)
    return size


def _peak(
    settings: Settings, network: nn.Module, objective: Objective, device: torch.device, size: int
) -> int | None:
    """Bytes that a pass forward and backward holds at most; None where they are not there."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    side = settings.model.image_size
    network.train()
    try:
        images_BCHW = torch.randn(size, 3, side, side, device=device)
        labels_B = torch.arange(size, device=device) % 2
        objective(network, images_BCHW, labels_B)[1]["loss"].backward()
    except torch.cuda.OutOfMemoryError:
        return None
    finally:
        network.zero_grad(set_to_none=True)
    return torch.cuda.max_memory_reserved(device)
