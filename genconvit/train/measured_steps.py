"""The steps that a benchmark times: that of a run, and one written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genconvit.config import Settings
from genconvit.data.tensors import to_images
from genconvit.losses import compute_losses
from genconvit.models.autoencoder import normalize
from genconvit.train.graph import record_passes
from genconvit.train.measure import CropBatch, Marks
from genconvit.train.precision import Precision
from genconvit.train.state import RunState
from genconvit.train.step import Objective, Preparation, TrainStep

Wrap = Callable[[nn.Module], nn.Module]


class PlainStep:
    """A step as it is written by hand, of PyTorch's own parts, for one process.

    Args:
        network: On its device.
        settings: `loss`, `model`, and of `train` the rate, the decay and the clipping.
        precision: bfloat16 also has the images and weights channels last.
        marks: Told where the parts end.
    """

    def __init__(
        self, network: nn.Module, settings: Settings, precision: Precision, marks: Marks
    ) -> None:
        self._format = (
            torch.contiguous_format if precision.dtype == torch.float32 else torch.channels_last
        )
        self.network = network.to(memory_format=self._format).train()
        self.precision = precision
        self._settings, self._marks = settings, marks
        train = settings.train
        self._optimizer = torch.optim.AdamW(
            network.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=True
        )

    def images(self, crops_BHWC: Tensor) -> Tensor:
        """What the network takes."""
        images_BCHW = to_images(crops_BHWC, crops_BHWC.device)
        return normalize(images_BCHW.contiguous(memory_format=self._format))

    def __call__(self, crops_BHWC: Tensor, labels_B: Tensor) -> Tensor:
        """The loss; crops and labels are on the device."""
        settings = self._settings
        self._marks()
        x_BCHW = self.images(crops_BHWC)
        self._marks()
        self._optimizer.zero_grad()
        with self.precision.autocast():
            output = self.network(x_BCHW)
            losses = compute_losses(output, x_BCHW, labels_B, settings.loss, settings.model)
        self._marks()
        losses["loss"].backward()
        self._marks()
        if settings.train.clip_grad > 0:
            nn.utils.clip_grad_norm_(self.network.parameters(), settings.train.clip_grad)
        self._optimizer.step()
        self._marks.step_done()
        return losses["loss"].detach()


class MarkedStep(TrainStep):
    """The step of a run, which tells where its parts end."""

    def __init__(self, *args: Any, marks: Marks, **options: Any) -> None:
        super().__init__(*args, **options)
        self._marks = marks
        self.preparation.register_forward_hook(lambda *_: marks())

    @property
    def precision(self) -> Precision:
        """Of the forward pass."""
        return self.objective.precision

    def forward(self, *args: Any, **options: Any) -> dict[str, Tensor]:
        """As of any step."""
        self._marks()
        parts = super().forward(*args, **options)
        self._marks()
        return parts

    def backward(self, *args: Any, **options: Any) -> None:
        """As of any step."""
        super().backward(*args, **options)
        self._marks()

    def update(self) -> None:
        """As of any step."""
        super().update()
        self._marks.step_done()

    def __call__(self, crops_BHWC: Tensor, labels_B: Tensor) -> Tensor:
        """What the loop does with a batch; the loss. Labels are on the CPU."""
        parts = self.forward(crops_BHWC, labels_B)
        self.backward(parts["loss"])
        self.state.sums.add(parts, len(crops_BHWC))
        self.update()
        return parts["loss"].detach()


def run_step(
    settings: Settings,
    network: nn.Module,
    device: torch.device,
    marks: Marks,
    *,
    wrap: Wrap = lambda network: network,
    accelerate: Wrap = lambda network: network,
    compiled: bool = False,
    rows: int = 0,
) -> MarkedStep:
    """The step of a run with these settings, made as `genconvit.train.loop.fit` makes it.

    Args:
        settings: Of the run.
        network: On `device`.
        device: Where to compute.
        marks: Told where the parts end.
        wrap: Makes the network's distributed form.
        accelerate: Makes a network faster, in place.
        compiled: It compiles the network.
        rows: Of a batch.
    """
    train, size = settings.train, settings.model.image_size
    precision = Precision.of(train, device)
    state = RunState.new(network, train, device, precision, updates_per_epoch=1000)
    for one in {network, state.judge}:
        accelerate(one)
    network.train()
    objective = Objective(settings.loss, settings.model, precision, compiled=compiled)
    preparation = Preparation(settings, device)
    passes = record_passes(network, train, rows, size, precision) if compiled else network
    return MarkedStep(wrap(passes), objective, preparation, state, train.clip_grad, marks=marks)


def time_steps(
    step: Callable[[Tensor, Tensor], Tensor],
    batches: Sequence[CropBatch],
    steps: int,
    marks: Marks,
) -> NDArray[np.float64]:
    """Milliseconds (steps, parts) of steps over batches that are on the device."""
    marks.begin()
    for number in range(steps):
        step(*batches[number % len(batches)])
    return marks.read()


@torch.inference_mode()
def time_verdicts(
    network: nn.Module,
    images: Callable[[Tensor], Tensor],
    precision: Precision,
    batches: Sequence[CropBatch],
    steps: int,
    marks: Marks,
) -> NDArray[np.float64]:
    """Milliseconds (steps,) that the verdict on a batch takes.

    Args:
        network: Is set to evaluation.
        images: From crops to what the network takes.
        precision: Of the forward pass.
        batches: On the device.
        steps: How many.
        marks: The clock.
    """
    network.eval()
    marks.begin()
    for number in range(steps):
        with precision.autocast():
            network(images(batches[number % len(batches)][0]), verdict_only=True)
        marks()
    return marks.read(parts=1)[:, 0]
