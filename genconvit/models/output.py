"""What a network's forward pass returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class NetworkOutput:
    """Everything that the loss needs, from one forward pass. What a network does not have is None.

    Attributes:
        logits: (B, 2), in the order of `genconvit.config.CLASSES`.
        ed_logits: (B, 2), from the autoencoder branch's own head, trained beside the fused one.
        vae_logits: (B, 2), the same of the variational branch.
        ed_reconstruction: (B, 3, S, S) in [0, 1].
        vae_reconstruction: (B, 3, S, S) in [0, 1].
        mu: (B, vae_latent), mean of the latent's posterior.
        logvar: (B, vae_latent), logarithm of its variance.
    """

    logits: Tensor
    ed_logits: Tensor | None = None
    vae_logits: Tensor | None = None
    ed_reconstruction: Tensor | None = None
    vae_reconstruction: Tensor | None = None
    mu: Tensor | None = None
    logvar: Tensor | None = None
