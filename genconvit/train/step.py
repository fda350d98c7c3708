"""One optimiser step: passes forward and backward, then the update.

Nothing here waits for the device: a GPU is given the next step before it has done the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from genconvit.config import LossSettings, ModelSettings, Settings
from genconvit.data.augment import build_augmentation
from genconvit.data.blend import BlendReals, SelfBlend, crop_margin
from genconvit.data.jpeg import compress_jpeg
from genconvit.data.match import match_detail
from genconvit.data.mix import MixCrops
from genconvit.data.tensors import to_device, to_images
from genconvit.losses import compute_losses
from genconvit.models.autoencoder import normalize
from genconvit.models.seams import find_seams
from genconvit.train.distributed import batch_statistics
from genconvit.train.precision import Precision
from genconvit.train.state import RunState

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Objective:
    """What training and validation measure.

    Attributes:
        loss: Weights of its parts.
        model: Which network it is.
        precision: Of the forward pass.
        class_weights: (2,) weights of the classes, or None.
        compiled: The loss is compiled, as the network is.
    """

    loss: LossSettings
    model: ModelSettings
    precision: Precision
    class_weights: Tensor | None = None
    compiled: bool = False

    def __call__(
        self, network: nn.Module, x_BCHW: Tensor, targets: Tensor, *, plain: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and the parts of the loss, from one forward pass.

        Args:
            network: The network, or its distributed form.
            x_BCHW: Normalised images.
            targets: Labels (B,), or how much of each class an image is (B, 2).
            plain: Without label smoothing and focal loss, to validate.
        """
        with self.precision.autocast():
            output = network(x_BCHW)
            losses = _compiled_losses() if self.compiled else compute_losses
            parts = losses(
                output, x_BCHW, targets, self.loss, self.model, self.class_weights, plain=plain
            )
        return output.logits, parts

    def stance(self, rows: int, usual: int) -> AbstractContextManager[object]:
        """Goes around the passes of a batch, forward and backward.

        Batches of an unusual size are not compiled: it would take longer than the epoch.
        """
        if not self.compiled or rows == usual:
            return nullcontext()
        return torch.compiler.set_stance("force_eager")


@cache
def _compiled_losses() -> Callable[..., dict[str, Tensor]]:
    return torch.compile(compute_losses, dynamic=False)


class Preparation(nn.Module):
    """From crops to what the network is trained on: matched, blended, augmented, mixed, normalised.

    Args:
        settings: `augment` and `preprocess` matter.
        device: Where the crops are.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        super().__init__()
        augment = settings.augment
        self.blend = BlendReals(augment.self_blend, settings.preprocess, augment.self_blend_seams)
        self.smooth_seams = SelfBlend(crop_margin(settings.preprocess), seams=1.0)
        self.jpeg_quality = settings.preprocess.jpeg_quality
        self.augmentation = build_augmentation(augment).to(device)
        self.mix = MixCrops(augment)

    @torch.no_grad()
    def forward(
        self, crops_BHWC: Tensor, labels_B: Tensor, factors_B2: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Prepares a batch.

        Args:
            crops_BHWC: uint8 (B, S, S, 3).
            labels_B: (B,), on the CPU.
            factors_B2: Of `match_detail`, on the CPU; None matches nothing.

        Returns:
            Normalised images (B, 3, S, S), and targets (B,) or (B, 2), all on the crops' device.
        """
        images_BCHW = to_images(crops_BHWC, crops_BHWC.device)
        if factors_B2 is not None:
            # First, so that a self-blended fake has the detail of the real crop that it is made of.
            images_BCHW = match_detail(images_BCHW, factors_B2)
        images_BCHW, labels_B = self.blend(images_BCHW, labels_B)
        if self.blend.share > 0:
            # As extraction does after blending. Without it a fake is told by the noise that a
            # smoothed seam lacks, which no stored fake does; real crops go through it alike.
            images_BCHW = self._compress(images_BCHW)
        images_BCHW = self.augmentation(images_BCHW)
        images_BCHW, targets = self.mix(images_BCHW, to_device(labels_B, images_BCHW.device))
        return normalize(images_BCHW), targets

    @torch.no_grad()
    def seam_lesson(
        self, crops_BHWC: Tensor, labels_B: Tensor, factors_B2: Tensor | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """A batch's real crops, and copies of them with a smoothed seam, both prepared alike.

        Returns:
            Normalised images, (R, 3, S, S) each; None of a batch without real crops.
        """
        rows = (labels_B == 1).nonzero().flatten()
        if len(rows) == 0:
            return None
        images_RCHW = to_images(crops_BHWC[to_device(rows, crops_BHWC.device)], crops_BHWC.device)
        if factors_B2 is not None:
            images_RCHW = match_detail(images_RCHW, factors_B2[rows])
        both = torch.cat([images_RCHW, self.smooth_seams(images_RCHW)])
        real, seam = normalize(self.augmentation(self._compress(both))).chunk(2)
        return real, seam

    def _compress(self, images_BCHW: Tensor) -> Tensor:
        quality_B = images_BCHW.new_full((len(images_BCHW),), self.jpeg_quality)
        return compress_jpeg(images_BCHW, quality_B)


class TrainStep:
    """The parts of a step, in the order in which they are called.

    Args:
        network: The network, or its distributed form.
        objective: The loss.
        preparation: What is done to crops first.
        state: What the step changes.
        clip_grad: Largest norm of the gradient; 0 does not clip.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        preparation: Preparation,
        state: RunState,
        clip_grad: float,
    ) -> None:
        self.network, self.objective, self.preparation = network, objective, preparation
        self.state, self.clip_grad = state, clip_grad
        self._seams = find_seams(state.network)
        self._parameters = [p for p in state.network.parameters() if p.requires_grad]
        self._statistics = batch_statistics(state.network)
        self._statistics_before = [buffer.clone() for buffer in self._statistics]

    def forward(
        self,
        crops_BHWC: Tensor,
        labels_B: Tensor,
        factors_B2: Tensor | None = None,
        *,
        last: bool = True,
    ) -> dict[str, Tensor]:
        """The parts of the loss of a batch, as `Preparation` takes it.

        Args:
            crops_BHWC: uint8 (B, S, S, 3), on the device.
            labels_B: (B,), on the CPU.
            factors_B2: Of `match_detail`, on the CPU; None matches nothing.
            last: As for `backward`.
        """
        if self._seams is not None:
            lesson = self.preparation.seam_lesson(crops_BHWC, labels_B, factors_B2)
            if lesson is not None:
                self._seams.observe(*lesson)
        x_BCHW, targets = self.preparation(crops_BHWC, labels_B, factors_B2)
        with self._exchange(last):
            logits_B2, parts = self.objective(self.network, x_BCHW, targets)
        if self._seams is not None:
            self._seams.observe_verdict(logits_B2)
        return parts

    def backward(self, loss: Tensor, share: float = 1.0, *, last: bool = True) -> None:
        """Adds a pass's gradient.

        Args:
            loss: Of `forward`.
            share: Of the step's crops that the pass has.
            last: The gradients are shared with the other workers in the step's last pass.
        """
        with self._exchange(last):
            self.state.scaler.scale(loss * share).backward()

    def update(self) -> None:
        """Clips and steps; a gradient that is not finite changes no weight and is counted."""
        state = self.state
        state.schedule.before_update(state.updates)
        state.scaler.unscale_(state.optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = get_total_norm(gradients, foreach=True)
        if self.clip_grad > 0:
            clip_grads_with_norm_(self._parameters, self.clip_grad, norm, foreach=True)
        bad = (~norm.isfinite()).float()
        if not state.scaler.is_enabled():
            # What a scaler would set: the fused optimiser then leaves everything as it is.
            state.optimizer.found_inf = bad  # type: ignore[attr-defined]
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        for buffer, before in zip(self._statistics, self._statistics_before, strict=True):
            # A forward pass with infinite activations has spoilt the batch statistics.
            before.copy_(torch.where(bad > 0, before, buffer))
            buffer.copy_(before)
        state.skipped += bad
        state.skipped_in_a_row.copy_((state.skipped_in_a_row + 1) * bad)
        state.updates += 1
        if state.average is not None:
            state.average.update(state.network, step=state.updates)

    def _exchange(self, wanted: bool) -> AbstractContextManager[None]:
        """DDP decides in the forward pass whether the backward pass exchanges gradients."""
        if wanted or not isinstance(self.network, DistributedDataParallel):
            return nullcontext()
        return self.network.no_sync()
