"""Mixup and CutMix: crops that are mixtures of two, and so are their labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor

from genconvit.config import CLASSES, AugmentSettings


class MixCrops:
    """Mixes the crops of a batch in pairs, the first with the last, by timm's Mixup.

    mixup (https://arxiv.org/abs/1710.09412) adds both images, each with its share; CutMix
    (https://arxiv.org/abs/1905.04899) exchanges a rectangle. The share is drawn once a batch. Where
    both are on, each batch gets one of them, with equal probability.

    Args:
        settings: `mixup` and `cutmix`, the alphas of the shares' distribution Beta(alpha, alpha).
    """

    def __init__(self, settings: AugmentSettings) -> None:
        self._mixup: Mixup | None = None
        if settings.mixup > 0 or settings.cutmix > 0:
            self._mixup = Mixup(
                mixup_alpha=settings.mixup,
                cutmix_alpha=settings.cutmix,
                label_smoothing=0.0,  # the loss does that
                num_classes=len(CLASSES),
            )

    def __call__(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed crops and their labels; both as given where nothing is mixed.

        What is drawn follows from torch's CPU generator alone, and the caller's tensors stay as
        they are. timm mixes pairs, so the last crop of an odd batch is not mixed.

        Args:
            images_BCHW: Float images on any device.
            labels_B: int64, 0 fake and 1 real.

        Returns:
            Images (B, 3, S, S), and float32 (B, 2) shares of fake and real on the same device.
        """
        if self._mixup is None:
            return images_BCHW, labels_B
        labels_B = labels_B.to(images_BCHW.device, non_blocking=True)
        images_BCHW = images_BCHW.clone()  # timm changes it in place
        targets_B2 = F.one_hot(labels_B, len(CLASSES)).float()
        even = len(images_BCHW) // 2 * 2
        with _seeded_numpy(int(torch.randint(2**32, ()).item())):
            _, targets_B2[:even] = self._mixup(images_BCHW[:even], labels_B[:even])
        return images_BCHW, targets_B2


@contextmanager
def _seeded_numpy(seed: int) -> Iterator[None]:
    """Seeds numpy's global generator, which timm draws from, and puts it back afterwards."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
