"""What the workers of a run tell each other. A process without a group sends nothing."""

from __future__ import annotations

import hashlib
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from genconvit.models.seams import SeamBranch

T = TypeVar("T")


def ddp_options(passes: int) -> dict[str, bool]:
    """Options of DDP: gradients live where they are exchanged, and the graph stays the same.

    Batch statistics are shared after an epoch (`share_batch_statistics`), not in each step.

    Args:
        passes: Passes whose gradients are summed before a step. With several, DDP cannot take the
            graph for static: it fails where the first pass exchanges nothing.
    """
    return {
        "gradient_as_bucket_view": True,
        "static_graph": passes == 1,
        "broadcast_buffers": False,
    }


def rank_and_world() -> tuple[int, int]:
    """This worker's number, and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def sum_over_workers(values: Tensor) -> Tensor:
    """The sum of a tensor over all workers, in place."""
    if rank_and_world()[1] > 1:
        dist.all_reduce(values)
    return values


def gather_from_workers(item: T) -> list[T]:
    """Every worker's item, on every worker."""
    world = rank_and_world()[1]
    if world == 1:
        return [item]
    items: list[T | None] = [None] * world
    dist.all_gather_object(items, item)
    return items  # type: ignore[return-value]


def batch_statistics(network: nn.Module) -> list[Tensor]:
    """The buffers of what follows the batches: a network's batch norms and its seam branch."""
    found = list[Tensor]()
    for part in network.modules():
        if isinstance(part, _BatchNorm):
            found += part.buffers()
        elif isinstance(part, SeamBranch):
            found += part.statistics
    return found


def share_batch_statistics(network: nn.Module) -> None:
    """Gives every worker the first one's running statistics, so that all validate one network."""
    if rank_and_world()[1] > 1:
        for buffer in batch_statistics(network):
            dist.broadcast(buffer, src=0)


def seed_everything(seed: int, epoch: int, batch: int = 0) -> None:
    """Random numbers that depend on seed, place in the run and worker alone."""
    place = f"{seed} {epoch} {batch} {rank_and_world()[0]}"
    torch.manual_seed(int.from_bytes(hashlib.sha256(place.encode()).digest()[:7]))


def largest_of_workers(numbers: list[float], device: torch.device) -> list[float]:
    """The largest of each of some numbers over all workers, on every worker."""
    if rank_and_world()[1] == 1:
        return numbers
    values = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values.tolist()
