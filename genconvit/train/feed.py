"""Batches on their way to the device."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genconvit.data.ahead import ahead

Batch = dict[str, Any]
"""`image`: uint8 (B, S, S, 3); `label`: (B,), 0 fake, 1 real; to validate also `video_id`: (B,),
and `box`: (B, 4) where it is known; to train with `augment.match_face_size` also `box` and
`match_scale`: (B, 2)."""

AHEAD = 2
"""Batches that are on the device before they are asked for."""


class Feed:
    """Uploads batches to a GPU beside the computation, and counts how long it waited for them.

    On a CPU batches are passed on as they come, and so are images that are on the device already.

    Args:
        batches: From the stream.
        device: Where the images go.
        resident: Images are tensors there.

    Attributes:
        wait_s: Seconds that the consumer waited so far.
    """

    def __init__(
        self, batches: Iterable[Batch], device: torch.device, *, resident: bool = False
    ) -> None:
        self._batches, self._device, self._resident = batches, device, resident
        self.wait_s = 0.0

    def __iter__(self) -> Iterator[tuple[Tensor, Batch]]:
        """Images uint8 (B, S, S, 3) on the device, and the batch they are of."""
        uploads = self._device.type == "cuda" and not self._resident
        ready = self._uploaded() if uploads else self._here()
        while True:
            asked = time.perf_counter()
            item = next(ready, None)
            self.wait_s += time.perf_counter() - asked
            if item is None:
                return
            yield item

    def _here(self) -> Iterator[tuple[Tensor, Batch]]:
        for batch in self._batches:
            images = batch["image"]
            if not self._resident:
                images = torch.from_numpy(np.ascontiguousarray(images))
            yield images, batch

    def _uploaded(self) -> Iterator[tuple[Tensor, Batch]]:
        copying = torch.cuda.Stream(self._device)

        def upload(batch: Batch) -> tuple[Tensor, torch.Event, Batch]:
            pinned = torch.from_numpy(np.ascontiguousarray(batch["image"])).pin_memory()
            with torch.cuda.stream(copying):
                return pinned.to(self._device, non_blocking=True), copying.record_event(), batch

        for images, arrived, batch in ahead(map(upload, self._batches), AHEAD):
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(arrived)
            images.record_stream(computing)
            yield images, batch
