"""One run of a recipe: trained on some clips of a split, judged by others."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genconvit.config import Settings
from genconvit.data.match import match_face_sizes
from genconvit.data.tensors import to_images
from genconvit.evaluate.metrics import mean_by_clip
from genconvit.models.autoencoder import normalize
from genconvit.recipe.resident import Crops, Ints, Resident, ResidentEpochs, batches_of
from genconvit.train.batches import plan_batches
from genconvit.train.feed import Feed
from genconvit.train.loop import Data, Trainer, refuse_nan
from genconvit.train.network import compiles, speed_up, start_network
from genconvit.train.step import Objective
from genconvit.train.validate import refuse_bad_scores
from genconvit.train.watch import Watch

SCORED_ROWS = 256
"""Crops in a batch that is scored, unless a training batch is larger: enough for any GPU."""


@dataclass(frozen=True)
class Part:
    """Some clips of a split.

    Attributes:
        crops: Of the split.
        names: The clips.
    """

    crops: Crops
    names: tuple[str, ...]

    @property
    def rows(self) -> Ints:
        """Their crops."""
        return self.crops.rows_of(self.names)


@dataclass(frozen=True)
class RunScores:
    """What a run gave.

    Attributes:
        clips: The clips that it judged (C), by name.
        curve: P(fake) of each (C) after some epochs, by epoch; the last epoch is one of them.
        seconds: What training and scoring took.
    """

    clips: tuple[str, ...]
    curve: dict[int, list[float]]
    seconds: float


def run_recipe(
    settings: Settings,
    trained_on: Part,
    judged_by: Part,
    device: torch.device,
    every: int | None = None,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> RunScores:
    """Trains for exactly `train.epochs`, and scores the held-out clips with the last weights.

    Nothing is chosen by the held-out clips: there is neither early stopping nor a best epoch, and
    `train.sched=plateau` follows the training cross entropy, as it does with `train.train_on_val`.
    With `train.model_ema` the moving average is judged. A clip's score is the mean of its crops'.

    Args:
        settings: Of the run.
        trained_on: What it learns.
        judged_by: What it is judged by.
        device: Where to compute.
        every: Also score after each so many epochs.
        on_epoch: Told of epochs that are done.

    Raises:
        RunEndedError: The loss or the scores are no longer finite.
    """
    started, train = time.monotonic(), settings.train
    network = start_network(settings, device, new=True)
    plan = plan_batches(train.batch_rows, train.batch_rows * train.grad_accum_steps, workers=1)
    learned = Resident(trained_on.crops.images, device)
    same = judged_by.crops is trained_on.crops
    judged = learned if same else Resident(judged_by.crops.images, device)
    epochs = ResidentEpochs(
        trained_on.crops,
        learned,
        trained_on.rows,
        settings.stream,
        batch_size=plan.rows,
        seed=settings.seed,
    )
    data = Data(
        train=match_face_sizes(epochs.train, epochs.faces, settings),
        validate=tuple,  # nothing is validated
        rows=epochs.rows,
        class_counts=epochs.class_counts,
        plan=plan,
        resident=True,
    )
    trainer = Trainer(
        settings,
        network,
        data,
        device,
        accelerate=partial(speed_up, settings=train, device=device),
        compiled=compiles(train, device),
    )
    state = trainer.state
    watch = Watch(
        settings, state, device, save=lambda: None, on_event=lambda event: None, ask=lambda: ""
    )
    score = partial(
        score_clips,
        part=judged_by,
        resident=judged,
        objective=trainer.objective,
        batch_size=max(plan.rows, min(4 * plan.rows, SCORED_ROWS)),
    )
    curve: dict[int, list[float]] = {}
    for epoch in range(1, train.epochs + 1):
        means = trainer.train_epoch(watch)
        refuse_nan(epoch, means["loss"])
        trainer.end_epoch({"epoch": epoch, "train": means}, means["classification"])
        watch.epoch_done()
        if epoch == train.epochs or (every and epoch % every == 0):
            clips, p_fake_C = score(state.judge, device=device)
            curve[epoch] = p_fake_C.tolist()
        on_epoch(epoch)
    return RunScores(tuple(clips), curve, time.monotonic() - started)


@torch.inference_mode()
def score_clips(
    network: nn.Module,
    part: Part,
    resident: Resident,
    objective: Objective,
    batch_size: int,
    device: torch.device,
) -> tuple[list[str], NDArray[np.float64]]:
    """The mean P(fake) of each clip's crops: names (C), sorted, and scores (C).

    Args:
        network: Is set to evaluation.
        part: The clips.
        resident: The crops of their split.
        objective: Of the run; its precision and its way with batches of an unusual size count.
        batch_size: Crops a pass.
        device: Where to compute.

    Raises:
        RunEndedError: The scores are not finite.
    """
    network.eval()
    rows, scores = part.rows, list[Tensor]()
    usual = min(batch_size, len(rows))
    batches = batches_of(resident, part.crops, rows, batch_size)
    for crops_BHWC, _ in Feed(batches, device, resident=True):
        x_BCHW = normalize(to_images(crops_BHWC, device))
        with objective.stance(len(x_BCHW), usual), objective.precision.autocast():
            logits = network(x_BCHW, verdict_only=True).logits
        scores.append(logits.double().softmax(dim=1)[:, 0])
    p_fake = torch.cat(scores).cpu().numpy()
    refuse_bad_scores(p_fake)
    names = [part.crops.clips[clip].name for clip in part.crops.clip_of[rows]]
    return mean_by_clip(names, p_fake)
