"""Means over the crops of an epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genconvit.train.distributed import gather_from_workers, sum_over_workers


class Sums:
    """Sums of the loss parts, kept on the device so that no step waits for the host.

    Args:
        device: Where the parts are.
        finite: Batches whose loss is not finite do not count: their steps are skipped.
    """

    def __init__(self, device: torch.device, *, finite: bool = False) -> None:
        self._device, self._finite = device, finite
        self._names: list[str] = []
        self._values: Tensor | None = None

    def add(self, parts: dict[str, Tensor], crops: int) -> None:
        """Adds a batch."""
        self._names = list(parts)
        means = torch.stack([parts[name].detach().double() for name in self._names])
        counted = torch.cat([means, means.new_ones(1)]) * crops
        if self._finite:
            counted = torch.where(means.isfinite().all(), counted, torch.zeros_like(counted))
        self._values = counted if self._values is None else self._values + counted

    def own(self) -> dict[str, float]:
        """The means of this worker so far. Waits for the device."""
        if self._values is None:
            return {}
        *sums, crops = self._values.tolist()
        return {name: total / max(crops, 1) for name, total in zip(self._names, sums, strict=True)}

    def means(self) -> dict[str, Any]:
        """The means over all workers, NaN where nothing counted, and the number of `crops`."""
        # A worker without validation crops of its own still takes part in the sum.
        names = max(gather_from_workers(self._names), key=len)
        own = self._values
        if own is None:
            own = torch.zeros(len(names) + 1, dtype=torch.float64, device=self._device)
        *sums, crops = sum_over_workers(own.clone()).tolist()
        means = {n: s / crops if crops else float("nan") for n, s in zip(names, sums, strict=True)}
        return {**means, "crops": int(crops)}

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {
            "names": self._names,
            "values": None if self._values is None else self._values.cpu(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Adds what a `state_dict` holds."""
        if state["values"] is None:
            return
        values = state["values"].to(self._device)
        self._names = list(state["names"])
        self._values = values if self._values is None else self._values + values
