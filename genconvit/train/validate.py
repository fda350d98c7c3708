"""Validation: losses and metrics over the crops of the val split."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genconvit.data.tensors import to_device, to_images
from genconvit.errors import RunEndedError
from genconvit.evaluate.metrics import binary_scores, mean_by_clip
from genconvit.models.autoencoder import normalize
from genconvit.reference import CropSample, build_reference
from genconvit.train.distributed import gather_from_workers
from genconvit.train.feed import Batch, Feed
from genconvit.train.step import Objective
from genconvit.train.sums import Sums


@torch.inference_mode()
def validate(
    network: nn.Module,
    batches: Iterable[Batch],
    objective: Objective,
    device: torch.device,
    sample: CropSample | None = None,
) -> dict[str, Any]:
    """Losses and metrics over every validation crop exactly once, the same on every worker.

    Args:
        network: Not wrapped: the workers' shares may differ in length, so no step may wait for
            another worker.
        batches: This worker's share.
        objective: The loss.
        device: Where to compute.
        sample: This worker's, the same one in every epoch; it makes a `reference` of the pass.

    Returns:
        The means of the loss parts, `frame_auc`, `clip_auc` (None with one class only),
        `clip_accuracy`, `crops`; with a sample also `reference`.

    Raises:
        RunEndedError: The scores are not finite.
    """
    network.eval()
    sums = Sums(device)
    clips: list[np.ndarray] = []
    fakes: list[np.ndarray] = []
    scores: list[Tensor] = []
    usual: int | None = None
    for crops_BHWC, batch in Feed(batches, device):
        usual = usual or len(crops_BHWC)
        labels_B = to_device(labels_of(batch), device)
        x_BCHW = normalize(to_images(crops_BHWC, device))
        with objective.stance(len(x_BCHW), usual):
            logits, parts = objective(network, x_BCHW, labels_B, plain=True)
        scores.append(logits.double().softmax(dim=1)[:, 0])
        sums.add(parts, len(labels_B))
        clips.append(batch["video_id"])
        fakes.append(batch["label"] == 0)
        if sample is not None:
            sample.add(batch)  # while a GPU is still at the batch
    own = torch.cat(scores).cpu().numpy() if scores else np.zeros(0)
    rows = [(np.concatenate(clips), np.concatenate(fakes), own)] if scores else []
    everyone = [row for worker in gather_from_workers(rows) for row in worker]
    video_ids, is_fake, p_fake = (np.concatenate(column) for column in zip(*everyone, strict=True))
    means = sums.means()
    refuse_bad_scores(p_fake)
    names, clip_p = mean_by_clip(video_ids.tolist(), p_fake)
    fake_clips = set(video_ids[is_fake].tolist())
    clip_is_fake = np.array([name in fake_clips for name in names])
    figures = {
        **means,
        "frame_auc": binary_scores(is_fake, p_fake)["auc"],
        "clip_auc": binary_scores(clip_is_fake, clip_p)["auc"],
        "clip_accuracy": float(np.mean((clip_p > 0.5) == clip_is_fake)),
    }
    if sample is None:
        return figures
    samples = gather_from_workers(sample.scored(own))
    return {**figures, "reference": build_reference((names, clip_p, clip_is_fake), samples)}


def refuse_bad_scores(p_fake_N: np.ndarray) -> None:
    """Ends a run whose network's scores are no longer numbers.

    Raises:
        RunEndedError: One is not finite.
    """
    if not np.isfinite(p_fake_N).all():
        raise RunEndedError(
            "the network's scores are no longer finite; lower train.lr and start again."
        )


def labels_of(batch: Batch) -> Tensor:
    """The labels of a batch, int64 (B,), on the CPU."""
    return torch.from_numpy(np.asarray(batch["label"], dtype=np.int64))
