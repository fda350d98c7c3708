"""The loss: its formula, its scales, and what it compares."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from genconvit.config import LossSettings, ModelSettings
from genconvit.losses import compute_losses, focal_losses
from genconvit.models.autoencoder import normalize
from genconvit.models.output import NetworkOutput

WEIGHTS = LossSettings(
    classification_weight=2.0, ae_weight=0.3, vae_weight=0.5, vae_beta=4.0, aux_weight=0.7
)
V2, ED, GENCONVIT = (ModelSettings(net=net) for net in ("v2", "ed", "genconvit"))
PIXELS = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 1, 0])


def full_output() -> NetworkOutput:
    torch.manual_seed(0)
    return NetworkOutput(
        logits=torch.randn(4, 2),
        ed_logits=torch.randn(4, 2),
        vae_logits=torch.randn(4, 2),
        ed_reconstruction=torch.rand(4, 3, 8, 8),
        vae_reconstruction=torch.rand(4, 3, 8, 8),
        mu=torch.randn(4, 5),
        logvar=torch.randn(4, 5),
    )


def test_loss_is_the_weighted_sum_of_its_parts() -> None:
    output = full_output()
    parts = compute_losses(output, normalize(PIXELS), LABELS, WEIGHTS, V2)
    assert set(parts) == {"loss", "classification", "ae", "vae_mse", "kl", "aux"}
    assert output.ed_logits is not None
    assert output.vae_logits is not None
    assert output.ed_reconstruction is not None
    assert output.vae_reconstruction is not None
    torch.testing.assert_close(parts["classification"], F.cross_entropy(output.logits, LABELS))
    aux = F.cross_entropy(output.ed_logits, LABELS) + F.cross_entropy(output.vae_logits, LABELS)
    torch.testing.assert_close(parts["aux"], aux)
    torch.testing.assert_close(parts["ae"], ((output.ed_reconstruction - PIXELS) ** 2).mean())
    torch.testing.assert_close(parts["vae_mse"], ((output.vae_reconstruction - PIXELS) ** 2).mean())
    expected = (
        2.0 * parts["classification"]
        + 0.3 * parts["ae"]
        + 0.5 * (parts["vae_mse"] + 4.0 * parts["kl"])
        + 0.7 * parts["aux"]
    )
    torch.testing.assert_close(parts["loss"], expected)


def test_kl_is_that_of_torch_distributions_at_the_scale_of_a_pixel() -> None:
    output = full_output()
    assert output.mu is not None
    assert output.logvar is not None
    posterior = Normal(output.mu, (0.5 * output.logvar).exp())
    expected = kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=1).mean() / (3 * 8 * 8)
    parts = compute_losses(output, normalize(PIXELS), LABELS, WEIGHTS, V2)
    torch.testing.assert_close(parts["kl"], expected)


def test_a_perfect_reconstruction_costs_nothing() -> None:
    """The target is in [0, 1], as the reconstruction is, though the images are normalised."""
    output = full_output()
    output.ed_reconstruction = PIXELS
    parts = compute_losses(output, normalize(PIXELS), LABELS, WEIGHTS, V2)
    assert parts["ae"].item() == pytest.approx(0, abs=1e-10)


def test_class_weights_reach_all_cross_entropies() -> None:
    output, weights = full_output(), torch.tensor([0.2, 1.8])
    parts = compute_losses(output, normalize(PIXELS), LABELS, WEIGHTS, V2, weights)
    expected = F.cross_entropy(output.logits, LABELS, weight=weights)
    torch.testing.assert_close(parts["classification"], expected)
    assert output.ed_logits is not None
    assert output.vae_logits is not None
    aux = [
        F.cross_entropy(x, LABELS, weight=weights) for x in (output.ed_logits, output.vae_logits)
    ]
    torch.testing.assert_close(parts["aux"], aux[0] + aux[1])


def test_only_existing_parts_count() -> None:
    output = NetworkOutput(logits=torch.randn(4, 2))
    parts = compute_losses(output, normalize(PIXELS), LABELS, WEIGHTS, ED)
    assert set(parts) == {"loss", "classification"}
    torch.testing.assert_close(parts["loss"], 2.0 * parts["classification"])
    assert "aux" not in compute_losses(full_output(), normalize(PIXELS), LABELS, WEIGHTS, GENCONVIT)


def test_label_0_is_fake() -> None:
    sure_fake = NetworkOutput(logits=torch.tensor([[9.0, -9.0]]))
    image = normalize(PIXELS[:1])
    right = compute_losses(sure_fake, image, torch.tensor([0]), WEIGHTS, ED)["loss"]
    wrong = compute_losses(sure_fake, image, torch.tensor([1]), WEIGHTS, ED)["loss"]
    assert right < 1e-3 < wrong


def test_half_precision_parts_are_summed_in_float32() -> None:
    output = full_output()
    for name, value in vars(output).items():
        if value is not None:
            setattr(output, name, value.to(torch.bfloat16))
    parts = compute_losses(output, normalize(PIXELS), LABELS, WEIGHTS, V2)
    assert all(part.dtype == torch.float32 for part in parts.values())


SHARES = torch.tensor([[1.0, 0.0], [0.3, 0.7], [0.0, 1.0], [0.55, 0.45]])
BALANCE = torch.tensor([0.2, 1.8])
ORIGINAL = ModelSettings(arch="original", net="genconvit")


def classify(
    labels: Tensor, loss: LossSettings, model: ModelSettings = V2, plain: bool = False
) -> dict[str, Tensor]:
    images = normalize(PIXELS)
    return compute_losses(full_output(), images, labels, loss, model, BALANCE, plain=plain)


def soft(labels: Tensor, smoothing: float) -> Tensor:
    shares = labels if labels.is_floating_point() else F.one_hot(labels, 2)
    return (1 - smoothing) * shares + smoothing / 2


@pytest.mark.parametrize("labels", [LABELS, SHARES])
@pytest.mark.parametrize("plain", [True, False])
def test_without_smoothing_and_focus_it_is_torchs_cross_entropy_to_the_bit(
    labels: Tensor, plain: bool
) -> None:
    loss = classify(labels, WEIGHTS, plain=plain)["classification"]
    logits = full_output().logits
    assert torch.equal(
        loss, F.cross_entropy(logits, labels, weight=BALANCE, reduction="none").mean()
    )


def test_certain_shares_are_labels() -> None:
    loss = LossSettings(label_smoothing=0.1)
    for settings in (loss, loss.model_copy(update={"focal_gamma": 2.0})):
        hard, shared = (classify(x, settings) for x in (LABELS, F.one_hot(LABELS, 2).float()))
        for name, value in hard.items():
            torch.testing.assert_close(value, shared[name], msg=name)


@pytest.mark.parametrize("labels", [LABELS, SHARES])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_smoothing_spreads_the_labels_of_every_cross_entropy(labels: Tensor, gamma: float) -> None:
    smoothed = LossSettings(label_smoothing=0.2, focal_gamma=gamma)
    sharp = LossSettings(focal_gamma=gamma)
    for model, names in (
        (V2, ["classification", "aux"]),
        (ORIGINAL, ["classification", "ed_classification", "vae_classification"]),
    ):
        parts = classify(labels, smoothed, model)
        expected = classify(soft(labels, 0.2), sharp, model)
        for name in names:
            torch.testing.assert_close(parts[name], expected[name])
            assert not torch.isclose(parts[name], classify(labels, sharp, model)[name])


@pytest.mark.parametrize("model", [V2, ORIGINAL])
def test_what_validates_knows_neither_smoothing_nor_focus(model: ModelSettings) -> None:
    changed = WEIGHTS.model_copy(update={"label_smoothing": 0.3, "focal_gamma": 2.0})
    plain, before = classify(LABELS, changed, model, plain=True), classify(LABELS, WEIGHTS, model)
    assert plain.keys() == before.keys()
    assert all(torch.equal(plain[name], before[name]) for name in plain)


@given(
    st.lists(st.tuples(*[st.floats(-30, 30)] * 2, st.floats(0, 1)), min_size=1, max_size=5),
    st.floats(0.01, 10),
    st.floats(0, 0.9),
)
def test_focal_losses_are_the_papers(
    rows: list[tuple[float, ...]], gamma: float, smoothing: float
) -> None:
    table = torch.tensor(rows)
    logits, shares = table[:, :2], torch.stack([table[:, 2], 1 - table[:, 2]], dim=1)
    settings = LossSettings(focal_gamma=gamma, label_smoothing=smoothing)
    got = focal_losses(logits, shares, settings, BALANCE)
    p = logits.double().softmax(dim=1)
    terms = BALANCE * soft(shares, smoothing) * (1 - p) ** gamma * -p.log()
    torch.testing.assert_close(got.double(), terms.sum(dim=1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.1, 1.0, 10.0])
def test_a_sure_network_still_has_a_focal_gradient(gamma: float) -> None:
    """Where p rounds to 1, the formula as written has a power of 0 in it."""
    logits = torch.tensor([[90.0, -90.0], [-90.0, 90.0], [0.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 0, 1])
    focal_losses(logits, labels, LossSettings(focal_gamma=gamma)).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert logits.grad[1, 0] < -0.9  # what is surely wrong pulls as without focus
    assert logits.grad[0].abs().max() < 1e-6


def test_a_focal_loss_counts_easy_crops_less() -> None:
    logits, labels = torch.tensor([[3.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 0])
    easy, hard = focal_losses(logits, labels, LossSettings(focal_gamma=2.0)) / F.cross_entropy(
        logits, labels, reduction="none"
    )
    assert easy < 0.01 and hard > 0.9
