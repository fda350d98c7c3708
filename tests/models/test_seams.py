"""The seam branch: what it measures, how it is fitted, what it adds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from genconvit.checkpoint import DetectorInfo, save_detector
from genconvit.config import ModelSettings, Settings
from genconvit.data.augment import blur
from genconvit.data.blend import SelfBlend
from genconvit.models.autoencoder import normalize, unnormalize
from genconvit.models.registry import build_from_settings
from genconvit.models.seams import SHRINKAGE, SeamBranch, fit_seams
from genconvit.train.network import start_network

SIDE = 64


def crops(count: int, seed: int = 0) -> Tensor:
    """Normalised crops of people and cameras that differ in how much detail there is."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, 3, SIDE, SIDE, generator=generator)
    contrast = 0.2 + 0.8 * torch.rand(count, 1, 1, 1, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return normalize(blur(0.5 + contrast * (noise - 0.5), sigma=(0.3, 1.0)))


def with_seams(images: Tensor, seed: int = 0) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return normalize(SelfBlend(0.3, seams=1.0)(unnormalize(images)))


def fitted(branch: SeamBranch) -> SeamBranch:
    for seed in range(20):
        real = crops(32, seed)
        branch.observe(real, with_seams(real, seed))
    branch.fit()
    return branch


def network(**switches: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_from_settings(ModelSettings(preset="nano", **switches))


def test_a_seam_is_told_from_the_same_crop_without_it() -> None:
    branch = fitted(SeamBranch(SIDE))
    real = crops(64, seed=100)
    none = torch.zeros(64, 2)
    seam_B2, real_B2 = (branch(none, images)[0] for images in (with_seams(real, 100), real))
    margin = (seam_B2 - real_B2)[:, 0] - (seam_B2 - real_B2)[:, 1]
    assert (margin > 0).float().mean() > 0.9
    right = [(seam_B2 - seam_B2.flip(1))[:, 0] > 0, (real_B2 - real_B2.flip(1))[:, 0] < 0]
    assert torch.cat(right).float().mean() > 0.6


@given(st.integers(0, 1000))
def test_the_weights_are_those_of_a_linear_discriminant(seed: int) -> None:
    real, seam = crops(40, seed), with_seams(crops(40, seed + 1), seed)
    branch = SeamBranch(SIDE)
    branch.observe(real, seam)
    branch.fit()
    x = torch.cat([branch.measure(real), branch.measure(seam)]).double().numpy()
    is_seam = np.arange(80) >= 40
    within = (np.cov(x[:40].T, bias=True) + np.cov(x[40:].T, bias=True)) / 2
    deviation = np.sqrt(np.diag(within))
    known = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE)
    known.fit(x / deviation, is_seam)
    logits, alone = branch(torch.zeros(80, 2), torch.cat([real, seam]))
    found = (alone[:, 0] - alone[:, 1]).double().numpy()
    np.testing.assert_allclose(found, known.decision_function(x / deviation), rtol=0.02, atol=0.02)
    assert torch.equal(logits, alone)


def test_until_it_is_fitted_it_adds_nothing() -> None:
    branch, logits = SeamBranch(SIDE), torch.randn(4, 2)
    branch.fit()
    assert torch.equal(branch(logits, crops(4))[0], logits)


@pytest.mark.parametrize(("sure", "scale"), [(8.0, 1 / 8), (0.5, 1.0)])
def test_a_network_that_knows_its_crops_by_heart_is_believed_less(
    sure: float, scale: float
) -> None:
    branch = SeamBranch(SIDE)
    for _ in range(3):
        branch.observe_verdict(torch.tensor([[sure, 0.0], [0.0, sure]]))
    logits = torch.tensor([[2.0, -1.0]])
    said, alone = fitted(branch)(logits, crops(1))
    assert torch.allclose(said - alone, scale * logits, atol=1e-5)


def test_it_is_measured_in_float32_whatever_the_rest_is() -> None:
    branch, images = SeamBranch(SIDE), crops(4)
    with torch.autocast("cpu", torch.bfloat16):
        half = branch.measure(images)
    assert half.dtype == torch.float32
    assert torch.equal(half, branch.measure(images))


def test_crops_without_detail_have_a_verdict() -> None:
    branch, flat = SeamBranch(SIDE), torch.zeros(4, 3, SIDE, SIDE)
    branch.observe(flat, flat)
    branch.fit()
    assert branch(torch.zeros(4, 2), flat)[0].isfinite().all()
    assert fitted(SeamBranch(SIDE))(torch.zeros(4, 2), flat)[0].isfinite().all()


def test_a_run_that_begins_with_a_detector_forgets_its_crops(tmp_path: Path) -> None:
    job = Settings.model_validate({"model": {"preset": "nano", "seam_branch": True}})
    before = network(seam_branch=True)
    fitted(before.seams)
    of_run = {name: getattr(job, name) for name in ("model", "preprocess", "sampling", "decision")}
    save_detector(tmp_path / "best", before.state_dict(), DetectorInfo(**of_run))
    train = job.train.model_copy(update={"init": str(tmp_path / "best")})
    begun = start_network(job.model_copy(update={"train": train}), torch.device("cpu"), new=True)
    assert torch.equal(begun.seams.weight, before.seams.weight)
    sharp = normalize(torch.rand(8, 3, SIDE, SIDE))
    begun.seams.observe(sharp, sharp)
    assert torch.allclose(begun.seams.real_mean, begun.seams.measure(sharp).mean(0))


def test_two_crops_make_nobody_sure() -> None:
    branch, two = SeamBranch(SIDE), crops(1).repeat(2, 1, 1, 1)
    branch.observe(two, with_seams(two[:1]).repeat(2, 1, 1, 1))
    branch.fit()
    assert branch(torch.zeros(32, 2), crops(32, seed=5))[0].abs().max() < 20


def test_the_rest_of_the_network_learns_as_it_would_alone() -> None:
    with_branch, without = network(seam_branch=True), network()
    fitted(with_branch.seams)
    torch.manual_seed(1)
    learning = with_branch.train()(crops(4))
    torch.manual_seed(1)
    assert torch.equal(learning.logits, without.train()(crops(4)).logits)
    assert learning.seam_logits is None
    judged, own = with_branch.eval()(crops(4)), without.eval()(crops(4)).logits
    assert torch.allclose(judged.logits, own + judged.seam_logits, atol=1e-6)
    assert judged.seam_logits.abs().max() > 0.1


def test_the_validated_network_has_the_fitted_branch() -> None:
    training, average = network(seam_branch=True), network(seam_branch=True)
    training.seams.observe(crops(32), with_seams(crops(32)))
    fit_seams(training, average)
    assert training.seams.weight.abs().max() > 0
    assert torch.equal(training.seams.weight, average.seams.weight)
    fit_seams(network(), network())  # without a branch there is nothing to do


@pytest.mark.parametrize("net", ["v2", "ed", "vae"])
def test_it_is_a_part_of_every_network_with_one_verdict(net: str) -> None:
    whole = network(seam_branch=True, net=net).eval()
    fitted(whole.seams)
    output = whole(crops(2))
    assert torch.equal(output.logits, whole(crops(2), verdict_only=True).logits)
    assert output.seam_logits.shape == (2, 2)


def test_two_verdicts_are_refused() -> None:
    with pytest.raises(ValueError, match="net genconvit has two; give net v2, ed or vae"):
        ModelSettings(seam_branch=True, net="genconvit")
    with pytest.raises(ValueError, match="setting of arch v2"):
        ModelSettings(seam_branch=True, arch="original")
