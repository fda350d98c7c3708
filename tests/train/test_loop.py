from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from genconvit.checkpoint import CARD, WEIGHTS, load_network
from genconvit.config import LossSettings, ModelSettings, PreprocessSettings
from genconvit.data.jpeg import compress_jpeg
from genconvit.errors import RunEndedError, UserError
from genconvit.evaluate.training_figure import training_curves
from genconvit.losses import compute_losses
from genconvit.models.output import NetworkOutput
from genconvit.models.registry import build_from_settings, build_network
from genconvit.train.distributed import ddp_options, seed_everything, share_batch_statistics
from genconvit.train.feed import Batch
from genconvit.train.loop import blended_counts, class_weights, fit
from genconvit.train.precision import Precision
from genconvit.train.run_folder import RunFolder, read_results
from genconvit.train.run_writer import RunWriter
from genconvit.train.step import Objective, Preparation
from genconvit.train.validate import validate
from tests.train.little import CPU, batches, crops, data, data_of, run, settings


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(tmp_path_factory.mktemp("run") / "a", settings())


def test_the_same_seed_gives_the_same_losses(trained: RunFolder, tmp_path: Path) -> None:
    again = run(tmp_path / "b", settings())
    first, second = (read_results(f.path)["history"] for f in (trained, again))
    for one, other in zip(first, second, strict=True):
        assert one["train"] == other["train"]
        assert one["val"] == other["val"]


def test_another_seed_gives_other_losses(trained: RunFolder, tmp_path: Path) -> None:
    other = run(tmp_path / "c", settings("seed=1", "train.epochs=1"))
    losses = [read_results(f.path)["history"][0]["train"]["loss"] for f in (trained, other)]
    assert losses[0] != losses[1]


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    trained: RunFolder, tmp_path: Path
) -> None:
    run(tmp_path / "d", settings("train.epochs=1"))
    resumed = run(tmp_path / "d", settings())
    whole, parts = (load_file(f.last / WEIGHTS) for f in (trained, resumed))
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name
    assert [e["epoch"] for e in read_results(resumed.path)["history"]] == [1, 2]


def test_both_published_networks_are_trained_in_one_run(tmp_path: Path) -> None:
    job = settings("model.arch=original")
    folder = run(tmp_path / "o", job)
    [entry, _] = read_results(folder.path)["history"]
    parts = {"classification", "ed_classification", "vae_classification", "vae_mse"}
    for half in ("train", "val"):
        assert parts <= entry[half].keys()
        assert {"ae", "kl", "aux"}.isdisjoint(entry[half])
    network, info = load_network(folder.best)
    assert (info.model.arch, info.model.net) == ("original", "genconvit")
    torch.manual_seed(job.seed)
    started = build_from_settings(job.model).state_dict()
    moved = {
        name.split(".")[0] for name, p in network.named_parameters() if (p != started[name]).any()
    }
    assert moved == {"ed", "vae"}


def test_the_best_weights_are_kept_not_the_last(tmp_path: Path) -> None:
    job = settings("train.epochs=6", "train.lr=0.05", "train.early_stopping_patience=2")
    folder = run(tmp_path / "e", job)
    results = read_results(folder.path)
    assert results["best_epoch"] < results["epochs"]
    best = results["history"][results["best_epoch"] - 1]
    network, info = load_network(folder.best)
    assert info.training["epoch"] == results["best_epoch"]
    objective = Objective(job.loss, job.model, Precision("cpu"), class_weights((8, 8)))
    val = validate(network, data().validate(), objective, CPU)
    assert val["classification"] == pytest.approx(best["val"]["classification"], rel=1e-6)
    assert results["epochs"] - results["best_epoch"] <= 2


def test_a_run_on_the_val_split_validates_nothing_and_keeps_the_last_epoch(tmp_path: Path) -> None:
    def refuse() -> Iterator[Batch]:
        raise AssertionError

    # No epoch is progress: a validated run would end after the second.
    still = ("train.early_stopping_min_delta=1", "train.early_stopping_patience=1")
    options = ("train.train_on_val=true", "train.epochs=3", "train.lr_patience=0")
    job = settings(*options, *still)
    folder = run(tmp_path / "f", job, replace(data(), validate=refuse))
    results = read_results(folder.path)
    assert [results[name] for name in ("epochs", "best", "best_epoch", "stopped_early")] == [
        3, None, None, False,
    ]  # fmt: skip
    assert [entry["val"] for entry in results["history"]] == [None] * 3
    assert [entry["lr"] for entry in results["history"]] == pytest.approx([1e-3, 1e-3, 5e-4])
    _, info = load_network(folder.best)
    assert (info.training["epoch"], info.training["train_on_val"], info.metrics) == (3, True, {})
    assert (folder.best / WEIGHTS).read_bytes() == (folder.last / WEIGHTS).read_bytes()
    assert "Not validated: it was trained on the val split" in (folder.best / CARD).read_text()
    assert "val" not in (folder.path / "training.log").read_text()
    assert [path.name for path in training_curves(tmp_path, results["history"])] == [
        "loss_curves.png"
    ]


def test_every_part_of_the_loss_is_tracked(trained: RunFolder) -> None:
    entry = read_results(trained.path)["history"][0]
    for half in ("train", "val"):
        assert {"loss", "classification", "ae", "vae_mse", "kl", "aux"} <= entry[half].keys()
    log = (trained.path / "training.log").read_text().splitlines()
    assert len(log) == 2
    assert "clip AUC" in log[0]
    assert "vae_mse" in log[0]


@pytest.mark.parametrize("text", ["model.dropout_rate=0.1", "train.lr=0.2", "loss.ae_weight=0.7"])
def test_a_run_does_not_go_on_with_other_settings(trained: RunFolder, text: str) -> None:
    changed = RunFolder(trained.path, settings(text), trained.data)
    with pytest.raises(UserError, match=text.split("=")[0]):
        changed.check()


def test_a_run_does_not_go_on_with_other_data(trained: RunFolder) -> None:
    with pytest.raises(UserError, match="other data"):
        RunFolder(trained.path, trained.settings, {"digest": "another"}).check()


def test_a_run_may_go_on_for_longer(trained: RunFolder) -> None:
    RunFolder(trained.path, settings("train.epochs=50"), trained.data).check()


def test_a_loss_that_is_not_finite_ends_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunEndedError, match=r"no longer finite.*train\.lr"):
        run(tmp_path / "g", settings("train.lr=1.0", "train.clip_grad=0", "loss.vae_beta=100"))


def test_rare_classes_weigh_more() -> None:
    fake, real = class_weights((30, 10)).tolist()
    assert real == pytest.approx(3 * fake)
    assert 30 * fake + 10 * real == pytest.approx(40)


def test_reals_that_become_fakes_count_as_fakes() -> None:
    assert blended_counts((30, 10), 0.0) == (30, 10)
    assert blended_counts((5, 20), 0.25) == (10, 15)
    assert class_weights(blended_counts((0, 10), 0.5)).tolist() == [1, 1]
    assert class_weights((0, 10)).isfinite().all()


class Changed(torch.nn.Module):
    """Notes how many images of a batch were changed by more than the JPEG of stored crops."""

    def __init__(self, original: np.ndarray) -> None:
        super().__init__()
        images_BCHW = torch.from_numpy(original).permute(0, 3, 1, 2) / 255
        quality_B = torch.full((len(images_BCHW),), PreprocessSettings().jpeg_quality)
        self.original = compress_jpeg(images_BCHW, quality_B)
        self.changed: list[int] = []

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        same = (images_BCHW == self.original).flatten(1).all(1)
        self.changed.append(int((~same).sum()))
        return images_BCHW


def test_a_network_is_trained_on_real_crops_alone(tmp_path: Path) -> None:
    job = settings("augment.self_blend=0.5", "train.epochs=1")
    reals = crops(16)
    reals["label"] = np.ones(16, np.int64)
    reals_alone = data_of(reals, reals, class_counts=(0, 16))
    folder = run(tmp_path / "r", job, reals_alone)
    [entry] = read_results(folder.path)["history"]
    assert np.isfinite(entry["train"]["loss"]) and np.isfinite(entry["val"]["loss"])
    assert entry["val"]["clip_auc"] is None  # validation crops are not blended


def test_real_crops_are_blended_before_they_are_augmented_and_become_fake() -> None:
    reals = crops(16)
    torch.manual_seed(0)
    preparation = Preparation(settings("augment.self_blend=0.5"), CPU)
    preparation.augmentation = changed = Changed(reals["image"])
    labels_B = torch.ones(16, dtype=torch.int64)
    _, targets_B = preparation(torch.from_numpy(reals["image"]), labels_B)
    assert 3 < (targets_B == 0).sum() < 13
    assert changed.changed == [int((targets_B == 0).sum())]


def gradients(network: torch.nn.Module, x_BCHW: torch.Tensor, labels_B: torch.Tensor) -> None:
    weights = class_weights((10, 6))
    losses = compute_losses(
        network(x_BCHW), x_BCHW, labels_B, LossSettings(), ModelSettings(), weights
    )
    losses["loss"].backward()


def network_and_batch() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    # In eval mode dropout, drop-path and the variational noise are off.
    network = build_network("v2", preset="nano").eval()
    return network, torch.randn(8, 3, 64, 64), torch.tensor([0, 0, 0, 1, 0, 1, 1, 0])


def ddp_worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    network, x_BCHW, labels_B = network_and_batch()
    half = slice(4 * rank, 4 * rank + 4)
    gradients(torch.nn.parallel.DistributedDataParallel(network), x_BCHW[half], labels_B[half])
    if rank == 0:
        torch.save({n: p.grad for n, p in network.named_parameters()}, f"{folder}/gradients.pt")
    torch.manual_seed(rank)
    normed = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).train()
    normed(torch.randn(8, 3, 8, 8))
    share_batch_statistics(normed)
    torch.save(normed.state_dict(), f"{folder}/statistics{rank}.pt")
    for passes in (1, 2):
        job = settings("train.freeze_epochs=1", "model.seam_branch=true")
        network = build_from_settings(job.model)
        run_folder = RunWriter(Path(folder) / f"run{passes}", job, {"digest": "none"})
        own = data_of(crops(20, seed=rank), crops(8, seed=2 + rank), batch_size=4, passes=passes)
        wrap = partial(torch.nn.parallel.DistributedDataParallel, **ddp_options(passes))
        fit(job, network, own, run_folder, device=CPU, wrap=wrap)
        torch.save(network.state_dict(), f"{folder}/trained{passes}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes of one DDP group left: starting them takes longer than their work."""
    folder = tmp_path_factory.mktemp("ddp")
    mp.spawn(ddp_worker, args=(str(folder),), nprocs=2)
    return folder


def test_all_workers_validate_with_the_same_batch_statistics(two_workers: Path) -> None:
    first, second = (
        torch.load(two_workers / f"statistics{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    assert not torch.equal(first["0.weight"], second["0.weight"])
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(first[f"1.{name}"], second[f"1.{name}"])


@pytest.mark.parametrize("passes", [1, 2])
def test_two_workers_train_one_network(two_workers: Path, passes: int) -> None:
    """Though their crops differ, gradients are summed over passes, and backbones freed later."""
    first, second = (
        torch.load(two_workers / f"trained{passes}-{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_two_workers_have_the_gradients_of_one(two_workers: Path) -> None:
    two = torch.load(two_workers / "gradients.pt", weights_only=True)
    network, x_BCHW, labels_B = network_and_batch()
    gradients(network, x_BCHW, labels_B)
    for name, parameter in network.named_parameters():
        one = parameter.grad
        assert one is not None
        assert (one - two[name]).norm() <= 1e-4 * one.norm(), name


def test_a_training_step_runs_each_part_once(tmp_path: Path) -> None:
    """The loss takes what the forward pass gave: a second pass would draw other noise."""
    job = settings("train.epochs=1")
    network = build_from_settings(job.model)
    runs: list[str] = []
    for name in ("", "ed", "vae", "backbone.stem", "embedder.patch_embed", "head"):
        network.get_submodule(name).register_forward_hook(
            lambda module, *_, n=name: runs.append(n) if module.training else None
        )
    folder = RunWriter(tmp_path / "t", job, {"digest": "none"})
    folder.start()
    fit(job, network, data(), folder, device=CPU)
    assert Counter(runs).keys() >= {"", "ed", "vae"}
    assert set(Counter(runs).values()) == {2}  # batches


class Brightness(torch.nn.Module):
    """Takes dark crops for fake."""

    def forward(self, x_BCHW: torch.Tensor) -> NetworkOutput:
        score_B = x_BCHW.mean(dim=(1, 2, 3))
        return NetworkOutput(logits=torch.stack([-score_B, score_B], dim=1))


@pytest.mark.parametrize(("dark", "right"), [(0, 1.0), (1, 0.0)])
def test_accuracy_and_auc_are_those_of_the_clips(dark: int, right: float) -> None:
    """Three clips of 1, 2 and 5 crops; whoever mixes up the classes gets the opposite."""
    label = np.repeat([dark, 1 - dark, dark], [1, 2, 5])
    image = np.where(label == dark, 20, 230).astype(np.uint8)[:, None, None, None]
    image = np.broadcast_to(image, (8, 64, 64, 3)).copy()
    rows = {"image": image, "label": label, "video_id": np.repeat(["a", "b", "c"], [1, 2, 5])}
    objective = Objective(LossSettings(), ModelSettings(net="ed"), Precision("cpu"))
    val = validate(Brightness(), batches(rows, 3), objective, CPU)
    assert [val[name] for name in ("clip_accuracy", "clip_auc", "frame_auc")] == [right] * 3
    rows["label"] = np.array([dark, 1 - dark, 1 - dark, *[1 - dark] * 5])  # the third is misjudged
    val = validate(Brightness(), batches(rows, 3), objective, CPU)
    assert val["clip_accuracy"] == pytest.approx(abs(right - 1 / 3))


def test_a_resumed_run_does_not_begin_anew(trained: RunFolder, tmp_path: Path) -> None:
    """One that did would end alike, only later."""
    folder = run(Path(shutil.copytree(trained.path, tmp_path / "h")), settings("train.epochs=3"))
    log = (folder.path / "training.log").read_text().splitlines()
    assert [line.split()[:2] for line in log] == [["epoch", str(n)] for n in (1, 2, 3)]


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_every_seed_can_be_used(seed: int) -> None:
    drawn = []
    for batch in (0, 1, 0):
        seed_everything(seed, 100_000, batch)
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[2] != drawn[1]
