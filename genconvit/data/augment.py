"""Augmentation of a batch of crops on the training device.

Each crop draws its own parameters. What a forged face looks like after a phone, a messenger and a
video host have had it
matters more than geometry: hence JPEG, blur, downscale and noise beside flip and colour.
"""

from __future__ import annotations

import kornia.augmentation as K
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genconvit.config import AugmentSettings


class RandomDownscale(nn.Module):
    """Takes detail away: down to a share of the size and back up.

    Args:
        p: Probability for each image.
        scale: Smallest and largest share; drawn once a batch.
    """

    def __init__(self, p: float, scale: tuple[float, float] = (0.4, 0.9)) -> None:
        super().__init__()
        self.p = p
        self.scale = scale

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Float images in, float images of the same shape out."""
        chosen = torch.rand(images_BCHW.shape[0], device=images_BCHW.device) < self.p
        low, high = self.scale
        share = low + (high - low) * torch.rand(()).item()
        height, width = images_BCHW.shape[-2:]
        size = (max(1, round(height * share)), max(1, round(width * share)))
        small = F.interpolate(images_BCHW, size=size, mode="area")
        back = F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
        return torch.where(chosen[:, None, None, None], back, images_BCHW)


def build_augmentation(settings: AugmentSettings) -> nn.Module:
    """Float images in [0, 1], (B, 3, H, W), to augmented ones of the same shape and range."""
    steps: list[nn.Module] = []
    if settings.flip:
        steps.append(K.RandomHorizontalFlip(p=settings.flip))
    if settings.colour:
        steps.append(K.ColorJiggle(0.2, 0.2, 0.2, 0.02, p=settings.colour))
    if settings.downscale:
        steps.append(RandomDownscale(p=settings.downscale))
    if settings.blur:
        steps.append(K.RandomGaussianBlur((5, 5), (0.3, 1.5), p=settings.blur))
    if settings.noise:
        steps.append(K.RandomGaussianNoise(std=0.02, p=settings.noise))
    if settings.jpeg:
        steps.append(K.RandomJPEG(jpeg_quality=(40.0, 95.0), p=settings.jpeg))
    return nn.Sequential(*steps, _Clamp())


class _Clamp(nn.Module):
    def forward(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW.clamp(0.0, 1.0)
