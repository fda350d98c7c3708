"""The loss of all networks (docs/architecture.md)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from genconvit.config import LossSettings, ModelSettings
from genconvit.errors import UserError
from genconvit.models.autoencoder import unnormalize
from genconvit.models.output import NetworkOutput


def compute_losses(
    output: NetworkOutput,
    images_BCHW: Tensor,
    labels_B: Tensor,
    loss: LossSettings,
    net: str,
    class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """The loss and its parts, from what one forward pass gave.

    loss = classification_weight * CE + ae_weight * MSE(ED)
    + vae_weight * (MSE(VAE) + vae_beta * KL) + aux_weight * (CE(ED) + CE(VAE)); a part that the
    network does not have is 0.

    Args:
        output: What the network returned for `images_BCHW`.
        images_BCHW: The normalised images (B, 3, S, S) that it saw.
        labels_B: (B,) int64, 0 fake and 1 real.
        loss: The weights.
        net: `model.net`; the auxiliary part counts for `v2` only.
        class_weights: (2,) weights of the classes in the cross entropies.

    Returns:
        Scalars: `loss`, and unweighted those of `classification`, `ae`, `vae_mse`, `kl` and `aux`
        that exist.
    """

    def cross_entropy(logits_BK: Tensor) -> Tensor:
        # Not divided by the batch's own weights: DDP averages workers that differ in them.
        losses_B = F.cross_entropy(
            logits_BK.float(), labels_B, weight=class_weights, reduction="none"
        )
        return losses_B.mean()

    target_BCHW = unnormalize(images_BCHW.float())
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


def kl_divergence(mu_BZ: Tensor, logvar_BZ: Tensor) -> Tensor:
    """KL of N(mu, exp(logvar)) from N(0, 1), summed over the latent vector, mean over the batch.

    The loss divides it by the image's C * H * W, the scale of a mean squared error: the sum alone
    makes the decoder ignore its latent. Kingma and Welling, appendix B, https://arxiv.org/abs/1312.6114.
    """
    mu_BZ, logvar_BZ = mu_BZ.float(), logvar_BZ.float()
    kl_BZ = 0.5 * (mu_BZ**2 + logvar_BZ.exp() - 1 - logvar_BZ)
    return kl_BZ.sum(dim=1).mean()


def check_trainable(model: ModelSettings, loss: LossSettings) -> None:
    """Refuses settings that would leave parameters without a gradient.

    Raises:
        UserError: Names the part that would never learn, and the setting to change.
    """
    if loss.classification_weight == 0:
        raise UserError(
            "loss.classification_weight=0 leaves the head of the verdict without a gradient; "
            "give it a weight above 0."
        )
    if model.net == "v2" and model.aux_heads and loss.aux_weight == 0:
        raise UserError(
            "loss.aux_weight=0 leaves the branches' own heads without a gradient; "
            "set model.aux_heads=false too or give it a weight above 0."
        )
