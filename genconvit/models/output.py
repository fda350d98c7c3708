"""What a network's forward pass returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genconvit.errors import UserError


@dataclass
class NetworkOutput:
    """Everything that the loss needs, from one forward pass. What a network does not have is None.

    Attributes:
        logits: (B, 2), in the order of `genconvit.config.CLASSES`.
        ed_logits: (B, 2), of the autoencoder branch alone, where both branches have a head.
        vae_logits: (B, 2), the same of the variational branch.
        seam_logits: (B, 2), of the seam branch alone.
        ed_reconstruction: (B, 3, S, S) in [0, 1].
        vae_reconstruction: (B, 3, S, S) in [0, 1]; of `original` (B, 3, S/2, S/2), normalised.
        mu: (B, Z), mean of the latent's posterior.
        logvar: (B, Z), logarithm of its variance.
    """

    logits: Tensor
    ed_logits: Tensor | None = None
    vae_logits: Tensor | None = None
    seam_logits: Tensor | None = None
    ed_reconstruction: Tensor | None = None
    vae_reconstruction: Tensor | None = None
    mu: Tensor | None = None
    logvar: Tensor | None = None


# DDP looks for tensors in what a network returns. Where it finds none, a static graph's gradients
# are never exchanged, and nothing says so.
torch.export.register_dataclass(NetworkOutput)


def check_images(images_BCHW: Tensor, size: int) -> None:
    """Refuses images that a network was not built for.

    Raises:
        UserError: They are not of shape (B, 3, size, size).
    """
    if images_BCHW.shape[1:] != (3, size, size):
        raise UserError(
            f"the network takes images of shape (B, 3, {size}, {size}), "
            f"not {tuple(images_BCHW.shape)}; resize them or set model.image_size."
        )
