"""Optimiser steps: accumulated, skipped, frozen, averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from genconvit.checkpoint import WEIGHTS, load_network
from genconvit.data.blend import SelfBlend
from genconvit.data.tensors import to_images
from genconvit.errors import RunEndedError, RunStoppedError
from genconvit.models.autoencoder import normalize
from genconvit.models.registry import build_from_settings
from genconvit.train import watch
from genconvit.train.run_folder import RunFolder, read_results
from genconvit.train.step import Preparation
from tests.train.little import CPU, crops, data_of, run, settings, state_of

STILL = (
    "model.dropout_rate=0",
    "augment.flip=0",
    "augment.affine=0",
    "augment.colour=0",
    "augment.downscale=0",
    "augment.blur=0",
    "augment.noise=0",
    "augment.jpeg=0",
    "augment.cutout=0",
    "model.net=ed",  # the variational branch would draw noise
    "train.epochs=1",
)


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.last / WEIGHTS)


def test_passes_of_a_step_add_up_to_one_large_pass(tmp_path: Path) -> None:
    """22 crops: two steps, the second with passes of 4 and of 2 crops."""
    rows, val = crops(22), crops(8, seed=1)
    job = settings(*STILL)
    whole = run(tmp_path / "a", job, data_of(rows, val, batch_size=16))
    parts = run(tmp_path / "b", job, data_of(rows, val, batch_size=4, passes=4))
    one, other = (state_of(f.path) for f in (whole, parts))
    assert one["updates"] == other["updates"] == 2
    for name, tensor in weights(whole).items():
        # Adam divides by the gradient's size: where that is rounding, so is the step.
        assert torch.allclose(tensor, weights(parts)[name], atol=2e-4), name


@pytest.mark.parametrize("ema", ["false", "true"])
def test_a_run_teaches_the_seam_branch_of_what_it_keeps(tmp_path: Path, ema: str) -> None:
    job = settings("model.seam_branch=true", f"train.model_ema={ema}")
    textured = crops(64)
    folder = run(tmp_path / "run", job, data_of(textured, crops(16, seed=1)))
    network, _ = load_network(folder.last)
    images_BCHW = to_images(textured["image"][textured["label"] == 1], CPU)
    torch.manual_seed(0)
    seams_BCHW = SelfBlend(0.3, seams=1.0)(images_BCHW)
    with torch.no_grad():
        real_B2, seam_B2 = (
            network(normalize(images)).seam_logits for images in (images_BCHW, seams_BCHW)
        )
    assert (seam_B2[:, 0] > real_B2[:, 0]).float().mean() > 0.9
    assert network.seams.verdict_square > 0
    assert network.seams.seen.tolist() == [16.0, 16.0]  # two epochs of eight batches


def test_a_batch_of_fakes_alone_teaches_no_seams() -> None:
    preparation = Preparation(settings("model.seam_branch=true"), CPU)
    fakes_BHWC = torch.from_numpy(crops(8)["image"])
    assert preparation.seam_lesson(fakes_BHWC, torch.zeros(8, dtype=torch.int64)) is None


class NaNIn(nn.Module):
    """A network whose gradient is not finite in some of its training passes."""

    def __init__(self, network: nn.Module, bad: set[int]) -> None:
        super().__init__()
        self.network, self.bad, self.count = network, bad, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.network(*args, **kwargs)
        if self.training:
            self.count += 1
            if self.count in self.bad:
                output.logits = output.logits * float("nan")
        return output


def run_with_nan(folder: Path, bad: set[int], *options: str) -> RunFolder:
    return run(folder, settings(*options), wrap=lambda network: NaNIn(network, bad))


def test_a_step_whose_gradient_is_not_finite_changes_nothing_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_with_nan(tmp_path / "a", {2}, "train.epochs=1")
    [entry] = read_results(folder.path)["history"]
    assert entry["skipped"] == 1
    assert np.isfinite(entry["train"]["loss"])
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_QUESTIONS", 0.0)
    with pytest.raises(RunStoppedError):  # after the first of two steps
        run(tmp_path / "b", settings("train.epochs=1"), ask=lambda: "stop")
    both, first = (state_of(tmp_path / name) for name in "ab")
    assert (both["updates"], first["updates"]) == (2, 1)
    assert all(torch.equal(v, both["network"][name]) for name, v in first["network"].items())
    moments = zip(
        both["optimizer"]["state"].values(), first["optimizer"]["state"].values(), strict=True
    )
    for one, other in moments:
        assert all(torch.equal(one[name], other[name]) for name in ("step", "exp_avg"))


class Infinite(nn.Module):
    """A network that sees one batch of infinite values."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.count = network, 0

    def forward(self, x_BCHW: torch.Tensor) -> Any:
        self.count += 1
        return self.network(x_BCHW * float("inf") if self.count == 2 else x_BCHW)


def test_a_skipped_step_leaves_the_batch_statistics_as_they_are(tmp_path: Path) -> None:
    job = settings("model.arch=original", "model.net=vae", "train.epochs=2")
    folder = run(tmp_path / "a", job, wrap=Infinite)
    assert [entry["skipped"] for entry in read_results(folder.path)["history"]] == [1, 1]
    assert all(tensor.isfinite().all() for tensor in weights(folder).values())


def test_a_run_that_skips_too_many_steps_in_a_row_ends(tmp_path: Path) -> None:
    with pytest.raises(RunEndedError, match=r"^2 steps in a row .* epoch 2.*train\.lr"):
        run_with_nan(tmp_path / "a", {3, 4}, "train.max_skipped_steps=2")
    run_with_nan(tmp_path / "b", {2, 4}, "train.max_skipped_steps=2")  # not in a row


def test_frozen_backbones_stay_as_they_are_and_learn_later(tmp_path: Path) -> None:
    torch.manual_seed(0)
    begun = build_from_settings(settings().model).state_dict()
    frozen = weights(run(tmp_path / "a", settings("train.freeze_epochs=1", "train.epochs=1")))
    later = weights(run(tmp_path / "b", settings("train.freeze_epochs=1", "train.epochs=2")))
    for name, tensor in begun.items():
        in_backbone = name.startswith(("backbone.", "embedder."))
        assert torch.equal(tensor, frozen[name]) == in_backbone, name
        assert not torch.equal(tensor, later[name]), name


def test_the_batch_norms_of_a_frozen_backbone_keep_their_statistics(tmp_path: Path) -> None:
    job = settings("model.backbone=resnet10t", "train.freeze_epochs=1", "train.epochs=1")
    torch.manual_seed(0)
    begun = build_from_settings(job.model).state_dict()
    frozen = weights(run(tmp_path / "a", job))
    statistics = [name for name in begun if "running_" in name]
    assert statistics
    for name in statistics:
        assert torch.equal(begun[name], frozen[name]), name


def test_the_average_is_what_is_validated_and_kept(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", settings("train.model_ema=true", "train.model_ema_decay=0.5"))
    state = state_of(folder.path)
    kept = weights(folder)
    for name, tensor in kept.items():
        assert torch.equal(tensor, state["average"][name]), name
    assert not all(torch.equal(tensor, state["network"][name]) for name, tensor in kept.items())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_learns_what_float32_learns(precision: str, tmp_path: Path) -> None:
    still = ("train.epochs=1", "train.clip_grad=0")
    exact = read_results(run(tmp_path / "a", settings(*still)).path)["history"][0]["train"]
    folder = run(tmp_path / "b", settings(*still, f"train.precision={precision}"))
    rough = read_results(folder.path)["history"][0]["train"]
    assert rough["loss"] != exact["loss"]
    assert rough["loss"] == pytest.approx(exact["loss"], rel=0.02)
