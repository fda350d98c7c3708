"""How the crops of an optimiser step are shared out."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchPlan:
    """The work of one worker in one optimiser step.

    Attributes:
        batch_size: The most crops of a pass.
        rows: Crops of a pass.
        passes: Passes whose gradients are summed.
        step_rows: Crops of the step, over all workers, that are aimed at.
    """

    batch_size: int
    rows: int
    passes: int
    step_rows: int


def plan_batches(batch_size: int, step_rows: int, workers: int) -> BatchPlan:
    """Shares a step out such that it stays the same however many workers there are.

    With fewer workers each takes more passes, of no more than `batch_size` crops, so that neither
    the learning rate nor the memory has to change. The step comes within half a crop a pass and
    worker of `step_rows`.

    Args:
        batch_size: The most crops of a pass.
        step_rows: Crops of a step over all workers.
        workers: How many there are.
    """
    passes = max(1, math.ceil(step_rows / (workers * batch_size)))
    rows = max(1, min(batch_size, round(step_rows / (workers * passes))))
    return BatchPlan(batch_size, rows, passes, step_rows)
