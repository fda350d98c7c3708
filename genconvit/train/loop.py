"""The training loop: plain PyTorch, one process or one of several in a DDP group."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genconvit.config import LossSettings, ModelSettings, Settings
from genconvit.data.augment import build_augmentation
from genconvit.data.blend import BlendReals
from genconvit.data.tensors import to_images
from genconvit.errors import UserError
from genconvit.evaluate.metrics import binary_scores, mean_by_clip
from genconvit.losses import compute_losses
from genconvit.models.autoencoder import normalize
from genconvit.train.distributed import (
    gather_from_workers,
    rank_and_world,
    seed_everything,
    share_batch_statistics,
    sum_over_workers,
)
from genconvit.train.optim import build_optimizer, build_scheduler
from genconvit.train.run_folder import Progress, RunFolder
from genconvit.train.stopping import EarlyStopping

Batch = dict[str, Any]
"""`image`: uint8 (B, S, S, 3); `label`: (B,), 0 fake, 1 real; to validate also `video_id`: (B,)."""
Event = dict[str, Any]

CPU = torch.device("cpu")
SECONDS_BETWEEN_STEP_EVENTS = 0.5


@dataclass(frozen=True)
class Data:
    """Where the loop gets its crops.

    Attributes:
        train: Batches of this worker for an epoch (counted from 1); every worker gets as many.
        validate: This worker's share of the validation crops; the shares may differ in length.
        steps: Batches in a training epoch.
        class_counts: Training crops that are (fake, real), over all workers.
    """

    train: Callable[[int], Iterable[Batch]]
    validate: Callable[[], Iterable[Batch]]
    steps: int
    class_counts: tuple[int, int]


def fit(
    settings: Settings,
    network: nn.Module,
    data: Data,
    folder: RunFolder,
    *,
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
    on_event: Callable[[Event], None] = lambda event: None,
) -> None:
    """Trains until the epochs or the patience end; continues where `folder` stopped.

    Args:
        settings: All settings of the run.
        network: On `device`, the same on every worker.
        data: The crops.
        folder: Where the first worker writes the detectors, the results and the log.
        device: Where to compute.
        wrap: Makes the network's distributed form, such as DDP.
        on_event: Told of steps (first worker only, now and then) and of every epoch (all workers).

    Raises:
        UserError: The loss is no longer finite.
    """
    optimizer = build_optimizer(network, settings.train)
    scheduler = build_scheduler(optimizer, settings.train)
    stopping = EarlyStopping(
        settings.train.early_stopping_patience, settings.train.early_stopping_min_delta
    )
    progress = Progress(optimizer, scheduler, stopping)
    folder.restore(network, progress)
    distributed = wrap(network)
    augmentation = build_augmentation(settings.augment).to(device)
    blend = BlendReals(settings.augment.self_blend, settings.preprocess)
    counts = blended_counts(data.class_counts, settings.augment.self_blend)
    weights = class_weights(counts).to(device) if settings.train.class_balance else None
    step = Step(settings.loss, settings.model, weights, settings.train.clip_grad)
    first = rank_and_world()[0] == 0

    for epoch in range(progress.epoch + 1, settings.train.epochs + 1):
        if stopping.should_stop:
            break
        started = time.monotonic()
        seed_everything(settings.seed, epoch)
        batches = (
            _announced(data.train(epoch), epoch, data.steps, on_event)
            if first
            else data.train(epoch)
        )
        train = train_epoch(distributed, batches, step, optimizer, augmentation, device, blend)
        _refuse_nan(train["loss"], epoch)
        share_batch_statistics(network)
        val = validate(network, data.validate(), step, device)
        _refuse_nan(val["loss"], epoch)
        seconds = time.monotonic() - started
        entry = {
            "epoch": epoch,
            "lr": optimizer.param_groups[0]["lr"],
            "train": {name: value for name, value in train.items() if name != "crops"},
            "val": {name: value for name, value in val.items() if name != "crops"},
            "best": stopping.update(epoch, val["clip_auc"], val["classification"]),
            "seconds": round(seconds, 3),
            "crops_per_s": round((train["crops"] + val["crops"]) / seconds, 1),
        }
        scheduler.step(val["classification"])
        progress.add(entry)
        if first:
            folder.save(network, progress, train_crops=train["crops"], val_crops=val["crops"])
        best = {"best_epoch": stopping.best_epoch, "best_clip_auc": stopping.best_auc}
        on_event({"event": "epoch", **best, **entry})
    if first:
        early = stopping.should_stop and progress.epoch < settings.train.epochs
        folder.finish(progress, stopped_early=early)


@dataclass(frozen=True)
class Step:
    """What a training and a validation step share."""

    loss: LossSettings
    model: ModelSettings
    class_weights: Tensor | None
    clip_grad: float

    def losses(
        self, network: nn.Module, x_BCHW: Tensor, labels_B: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and the parts of the loss, from one forward pass."""
        output = network(x_BCHW)
        parts = compute_losses(output, x_BCHW, labels_B, self.loss, self.model, self.class_weights)
        return output.logits, parts


def train_epoch(
    network: nn.Module,
    batches: Iterable[Batch],
    step: Step,
    optimizer: Optimizer,
    augmentation: nn.Module,
    device: torch.device,
    blend: BlendReals | None = None,
) -> dict[str, Any]:
    """One pass over the training crops; the means over all workers, and the number of `crops`.

    `blend` makes fakes of some real crops before `augmentation` sees them.
    """
    network.train()
    sums = _Sums(device)
    for batch in batches:
        images_BCHW, labels_B = to_images(batch["image"], device), _labels(batch, CPU)
        with torch.no_grad():
            if blend is not None:
                images_BCHW, labels_B = blend(images_BCHW, labels_B)
            x_BCHW = normalize(augmentation(images_BCHW))
        labels_B = labels_B.to(device)
        _, parts = step.losses(network, x_BCHW, labels_B)
        optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()
        if step.clip_grad > 0:
            nn.utils.clip_grad_norm_(network.parameters(), step.clip_grad)
        optimizer.step()
        sums.add(parts, len(labels_B))
    return sums.means()


@torch.inference_mode()
def validate(
    network: nn.Module, batches: Iterable[Batch], step: Step, device: torch.device
) -> dict[str, Any]:
    """Losses and metrics over every validation crop exactly once, the same on every worker.

    Args:
        network: Not wrapped: the workers' shares may differ in length, so no step may wait for
            another worker.
        batches: This worker's share.
        step: The loss.
        device: Where to compute.

    Returns:
        The means of the loss parts, `frame_auc`, `clip_auc` (None with one class only),
        `clip_accuracy`, `crops`.
    """
    network.eval()
    sums = _Sums(device)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for batch in batches:
        labels_B = _labels(batch, device)
        x_BCHW = normalize(to_images(batch["image"], device))
        logits, parts = step.losses(network, x_BCHW, labels_B)
        p_fake = logits.double().softmax(dim=1)[:, 0].cpu().numpy()
        rows.append((batch["video_id"], batch["label"] == 0, p_fake))
        sums.add(parts, len(labels_B))
    everyone = [row for worker in gather_from_workers(rows) for row in worker]
    video_ids, is_fake, p_fake = (np.concatenate(column) for column in zip(*everyone, strict=True))
    if not np.isfinite(p_fake).all():
        raise UserError(
            "the network's scores are no longer finite; lower train.lr and start again."
        )
    clips, clip_p = mean_by_clip(video_ids.tolist(), p_fake)
    fake_clips = set(video_ids[is_fake].tolist())
    clip_is_fake = np.array([clip in fake_clips for clip in clips])
    return {
        **sums.means(),
        "frame_auc": binary_scores(is_fake, p_fake)["auc"],
        "clip_auc": binary_scores(clip_is_fake, clip_p)["auc"],
        "clip_accuracy": float(np.mean((clip_p > 0.5) == clip_is_fake)),
    }


def blended_counts(counts: tuple[int, int], share: float) -> tuple[float, float]:
    """How many of (fake, real) crops to expect when a share of the real ones become fakes."""
    fake, real = counts
    return fake + share * real, (1 - share) * real


def class_weights(counts: tuple[float, float]) -> Tensor:
    """Weights (fake, real) that give both classes the same say, 1 where they are equally many.

    The weight of a class without crops is 1; nothing is weighted with it.
    """
    whole = sum(counts)
    return torch.tensor([whole / (2 * count) if count else 1.0 for count in counts])


class _Sums:
    """Sums of the loss parts, kept on the device so that no step waits for the host."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.names: list[str] = []
        self.values: Tensor | None = None
        self.crops = 0

    def add(self, parts: dict[str, Tensor], crops: int) -> None:
        self.names = list(parts)
        batch = torch.stack([parts[name].detach().double() for name in self.names]) * crops
        self.values = batch if self.values is None else self.values + batch
        self.crops += crops

    def means(self) -> dict[str, Any]:
        # A worker without validation crops of its own still takes part in the sum.
        names = max(gather_from_workers(self.names), key=len)
        own = (
            self.values if self.values is not None else torch.zeros(len(names), device=self.device)
        )
        count = torch.tensor([float(self.crops)], dtype=torch.float64, device=self.device)
        total = sum_over_workers(torch.cat([own.double(), count]))
        crops = int(total[-1].item())
        means = (total[:-1] / max(crops, 1)).tolist()
        return {**dict(zip(names, means, strict=True)), "crops": crops}


def _labels(batch: Batch, device: torch.device) -> Tensor:
    return torch.from_numpy(np.asarray(batch["label"], dtype=np.int64)).to(device)


def _announced(
    batches: Iterable[Batch], epoch: int, steps: int, on_event: Callable[[Event], None]
) -> Iterable[Batch]:
    """Passes batches on and says now and then how far they are."""
    last = 0.0
    for number, batch in enumerate(batches, start=1):
        yield batch
        if time.monotonic() - last >= SECONDS_BETWEEN_STEP_EVENTS:
            last = time.monotonic()
            on_event({"event": "step", "epoch": epoch, "step": number, "steps": steps})


def _refuse_nan(loss: float, epoch: int) -> None:
    if not np.isfinite(loss):
        raise UserError(
            f"the loss is no longer finite in epoch {epoch}; lower train.lr or train.clip_grad "
            "and start again."
        )
