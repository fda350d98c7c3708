"""The loss: its formula, its scales, and what it compares."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from genconvit.config import LossSettings, ModelSettings
from genconvit.losses import compute_losses
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
        setattr(output, name, value.to(torch.bfloat16))
    parts = compute_losses(output, normalize(PIXELS), LABELS, WEIGHTS, V2)
    assert all(part.dtype == torch.float32 for part in parts.values())
