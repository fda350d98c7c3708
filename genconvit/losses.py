"""The losses of all networks (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor

from genconvit.config import CLASSES, LossSettings, ModelSettings
from genconvit.models.autoencoder import unnormalize
from genconvit.models.output import NetworkOutput

CrossEntropy: TypeAlias = Callable[[Tensor], Tensor]
"""Logits (B, 2) to the mean cross entropy of the batch."""


def compute_losses(
    output: NetworkOutput,
    images_BCHW: Tensor,
    labels_B: Tensor,
    loss: LossSettings,
    model: ModelSettings,
    class_weights: Tensor | None = None,
    *,
    plain: bool = False,
) -> dict[str, Tensor]:
    """The loss and its parts, from what one forward pass gave.

    Args:
        output: What the network returned for `images_BCHW`.
        images_BCHW: The normalised images (B, 3, S, S) that it saw.
        labels_B: (B,) int64, 0 fake and 1 real; or (B, 2) float, the shares of both in each image.
        loss: The weights.
        model: Which network it is.
        class_weights: (2,) weights of the classes in the cross entropies.
        plain: Without `label_smoothing` and `focal_gamma`, so that the losses of runs that differ
            in them compare: to validate.

    Returns:
        Scalars: `loss`, and its parts unweighted, as far as the network has them: those of
        `v2_losses` or `original_losses`. `classification` is the cross entropy of the verdict.
    """

    def cross_entropy(logits_BK: Tensor) -> Tensor:
        # Not divided by the batch's own weights: DDP averages workers that differ in them.
        if loss.focal_gamma > 0 and not plain:
            return focal_losses(logits_BK, labels_B, loss, class_weights).mean()
        losses_B = F.cross_entropy(
            logits_BK.float(),
            labels_B,
            weight=class_weights,
            reduction="none",
            label_smoothing=0.0 if plain else loss.label_smoothing,
        )
        return losses_B.mean()

    losses_of = original_losses if model.arch == "original" else v2_losses
    return losses_of(output, images_BCHW.float(), cross_entropy, loss, model.net)


def v2_losses(
    output: NetworkOutput,
    images_BCHW: Tensor,
    cross_entropy: CrossEntropy,
    loss: LossSettings,
    net: str,
) -> dict[str, Tensor]:
    """Parts `classification`, `ae`, `vae_mse`, `kl` and `aux` of

    loss = classification_weight * CE + ae_weight * MSE(ED)
    + vae_weight * (MSE(VAE) + vae_beta * KL) + aux_weight * (CE(ED) + CE(VAE)); a part that the
    network does not have is 0, and the last counts for `net` v2 only.
    """
    target_BCHW = unnormalize(images_BCHW)
    parts = {"classification": cross_entropy(output.logits)}
    total = loss.classification_weight * parts["classification"]
    if output.ed_reconstruction is not None:
        parts["ae"] = F.mse_loss(output.ed_reconstruction.float(), target_BCHW)
        total = total + loss.ae_weight * parts["ae"]
    if (
        output.vae_reconstruction is not None
        and output.mu is not None
        and output.logvar is not None
    ):
        parts["vae_mse"] = F.mse_loss(output.vae_reconstruction.float(), target_BCHW)
        parts["kl"] = kl_divergence(output.mu, output.logvar) / target_BCHW[0].numel()
        total = total + loss.vae_weight * (parts["vae_mse"] + loss.vae_beta * parts["kl"])
    if net == "v2" and output.ed_logits is not None and output.vae_logits is not None:
        parts["aux"] = cross_entropy(output.ed_logits) + cross_entropy(output.vae_logits)
        total = total + loss.aux_weight * parts["aux"]
    return {"loss": total, **parts}


def original_losses(
    output: NetworkOutput,
    images_BCHW: Tensor,
    cross_entropy: CrossEntropy,
    loss: LossSettings,
    net: str,
) -> dict[str, Tensor]:
    """Parts `classification`, `ed_classification`, `vae_classification` and `vae_mse` of

    loss = classification_weight * CE (+ vae_weight * MSE(VAE)), as published: of the ED network
    only the verdict is trained, and no network has a KL term. With `net` genconvit the loss is the
    sum of both networks' own, so that each learns what it would learn alone; the cross entropy of
    their mean is `classification`, which is not trained.
    """
    parts = {"classification": cross_entropy(output.logits)}
    trained = parts["classification"]
    if output.ed_logits is not None and output.vae_logits is not None:
        parts["ed_classification"] = cross_entropy(output.ed_logits)
        parts["vae_classification"] = cross_entropy(output.vae_logits)
        trained = parts["ed_classification"] + parts["vae_classification"]
    total = loss.classification_weight * trained
    if output.vae_reconstruction is not None:
        decoded_BCHW = F.interpolate(
            output.vae_reconstruction.float(), size=images_BCHW.shape[-2:], mode="bilinear"
        )
        parts["vae_mse"] = F.mse_loss(decoded_BCHW, images_BCHW)
        total = total + loss.vae_weight * parts["vae_mse"]
    return {"loss": total, **parts}


def focal_losses(
    logits_B2: Tensor, labels_B: Tensor, loss: LossSettings, class_weights: Tensor | None = None
) -> Tensor:
    """Cross entropies in which images count less the surer the network is of them: (B,).

    sum over classes k of w_k * t_k * (1 - p_k)^focal_gamma * -log p_k, where t_k is the label's
    share of k after smoothing. Lin et al., https://arxiv.org/abs/1708.02002, equation 4; their
    alpha are the class weights. Arguments are as in `compute_losses`.
    """
    log_p_B2 = F.log_softmax(logits_B2.float(), dim=1)
    t_B2 = labels_B if labels_B.is_floating_point() else F.one_hot(labels_B, len(CLASSES))
    t_B2 = (1 - loss.label_smoothing) * t_B2.float() + loss.label_smoothing / len(CLASSES)
    # 1 - p of a class is p of the other one. Taken from its logarithm it has a gradient even where
    # p rounds to 1: a power of 0 has none where gamma is below 1.
    factor_B2 = (loss.focal_gamma * log_p_B2.flip(1)).exp()
    losses_B2 = -t_B2 * factor_B2 * log_p_B2
    return (losses_B2 if class_weights is None else losses_B2 * class_weights).sum(dim=1)


def kl_divergence(mu_BZ: Tensor, logvar_BZ: Tensor) -> Tensor:
    """KL of N(mu, exp(logvar)) from N(0, 1), summed over the latent vector, mean over the batch.

    The loss divides it by the image's C * H * W, the scale of a mean squared error: the sum alone
    makes the decoder ignore its latent. Kingma and Welling, appendix B, https://arxiv.org/abs/1312.6114.
    """
    mu_BZ, logvar_BZ = mu_BZ.float(), logvar_BZ.float()
    kl_BZ = 0.5 * (mu_BZ**2 + logvar_BZ.exp() - 1 - logvar_BZ)
    return kl_BZ.sum(dim=1).mean()
