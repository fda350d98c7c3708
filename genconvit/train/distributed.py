"""What the workers of a run tell each other. A process without a group sends nothing."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

T = TypeVar("T")


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


def share_batch_statistics(network: nn.Module) -> None:
    """Gives every worker the first one's running statistics, so that all validate one network."""
    if rank_and_world()[1] > 1:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                for buffer in module.buffers():
                    dist.broadcast(buffer, src=0)


def seed_everything(seed: int, epoch: int) -> None:
    """Random numbers that depend on seed, epoch and worker alone: a resumed run draws the same."""
    torch.manual_seed((seed * 1_000_003 + epoch) * 4_099 + rank_and_world()[0])
