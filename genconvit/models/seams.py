"""The seam branch: how much fine detail there is in rings about a face's outline.

A swapped face is faded into what is around it. That smooths a band along its outline, whichever
tool made it. The branch measures the detail of four sizes in six rings about the face. How much
these 24 numbers speak for a fake is the linear discriminant between real crops and such crops
with a smoothed seam. Fakes of the dataset have no part in it: from few of them more is learned of
how they were recorded than of how they were made (docs/recipe.md).

So few numbers, and moments instead of gradients, leave little that can be learned by heart.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genconvit.models.autoencoder import unnormalize
from genconvit.models.fusion import face_radius

BOXES = (3, 5, 9, 17)
"""Sides of the means, in pixels, between which the sizes of detail lie."""
RINGS = (0.0, 0.6, 0.875, 1.125, 1.25, 1.5, 9.0)
"""Where rings begin and end, in radii of the face; the third one has its outline."""
RED, GREEN, BLUE = 0.299, 0.587, 0.114
"""Their shares of the brightness (ITU-R BT.601)."""
KINDS = ("real", "seam")
"""Of crops, whose moments are followed."""
LEAST_DETAIL = 1e-4
"""Added before the logarithm: a 40th of a step of 8-bit pixels. A flat crop has none."""
LEAST_DEVIATION = 0.3
"""Of a measurement: a few crops that are alike would make the branch sure of everything. Those of
people and cameras are about 0.4 to 0.6."""
SHRINKAGE = 0.1
"""How far correlations are drawn towards none: those of neighbouring rings and sizes are high, and
known from no more people than the dataset has."""
RATE = 0.01
"""Of the newest batch in the running moments, once 100 were seen."""


class SeamBranch(nn.Module):
    """Adds what seams say to the verdict of the rest of the network.

    Nothing of it is learned by gradients: `observe` and `observe_verdict` follow training, and
    `fit` makes weights of what they saw. Until then it adds nothing.

    Args:
        image_size: Side of the images, pixels.
    """

    rings: Tensor
    verdict_square: Tensor
    seen: Tensor
    weight: Tensor
    bias: Tensor
    verdict_scale: Tensor

    def __init__(self, image_size: int) -> None:
        super().__init__()
        radius_HW = face_radius(image_size)
        inside_RHW = torch.stack([(radius_HW >= a) & (radius_HW < b) for a, b in pairwise(RINGS)])
        share_RHW = inside_RHW / inside_RHW.sum(dim=(1, 2), keepdim=True).clamp(min=1)
        self.register_buffer("rings", share_RHW, persistent=False)
        numbers = len(BOXES) * len(inside_RHW)
        for kind in KINDS:
            self.register_buffer(f"{kind}_mean", torch.zeros(numbers))
            self.register_buffer(f"{kind}_square", torch.zeros(numbers, numbers))
        self.register_buffer("verdict_square", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(2))  # batches: of crops, of verdicts
        self.register_buffer("weight", torch.zeros(numbers))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("verdict_scale", torch.ones(()))

    def forward(self, logits_B2: Tensor, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The verdict with seams and that of the seams alone, logits (B, 2) in float32.

        Args:
            logits_B2: Of the rest of the network.
            images_BCHW: What it saw, normalised.
        """
        log_odds_B = (self.measure(images_BCHW) * self.weight).sum(dim=1) + self.bias
        seam_B2 = torch.stack([log_odds_B / 2, -log_odds_B / 2], dim=1)
        return logits_B2.float() * self.verdict_scale + seam_B2, seam_B2

    def measure(self, images_BCHW: Tensor) -> Tensor:
        """Logarithms of the mean absolute detail, by size and ring, (B, 24).

        Means, products and sums alone, which autocast leaves in float32: half as many digits would
        lose the detail.
        """
        red_BHW, green_BHW, blue_BHW = unnormalize(images_BCHW.float()).unbind(dim=1)
        grey_B1HW = (RED * red_BHW + GREEN * green_BHW + BLUE * blue_BHW)[:, None]
        finer_B1HW, detail = grey_B1HW, list[Tensor]()
        for box in BOXES:
            coarser_B1HW = _box_mean(grey_B1HW, box)
            detail.append((finer_B1HW - coarser_B1HW).abs())
            finer_B1HW = coarser_B1HW
        # One ring after another: all at once would take six times the memory.
        numbers = [(d * ring).sum(dim=(1, 2, 3)) for d in detail for ring in self.rings]
        return (torch.stack(numbers, dim=1) + LEAST_DETAIL).log()

    @property
    def statistics(self) -> list[Tensor]:
        """What follows the batches, and what was made of it."""
        return list(self.state_dict(keep_vars=True).values())

    def forget(self) -> None:
        """Lets the next batch take the place of all that was seen; the weights stay until `fit`."""
        self.seen.zero_()

    @torch.no_grad()
    def observe(self, real_BCHW: Tensor, seam_BCHW: Tensor) -> None:
        """Follows the moments of a batch of real crops, and of crops with a smoothed seam."""
        rate = self._rate(0)
        for kind, images_BCHW in zip(KINDS, (real_BCHW, seam_BCHW), strict=True):
            x_BN = self.measure(images_BCHW)
            self.get_buffer(f"{kind}_mean").lerp_(x_BN.mean(dim=0), rate)
            self.get_buffer(f"{kind}_square").lerp_(_square(x_BN), rate)

    @torch.no_grad()
    def observe_verdict(self, logits_B2: Tensor) -> None:
        """Follows how sure the rest of the network is of the crops that it is trained on."""
        log_odds_B = (logits_B2[:, 0] - logits_B2[:, 1]).detach().float()
        self.verdict_square.lerp_(log_odds_B.square().mean(), self._rate(1))

    @torch.no_grad()
    def fit(self) -> None:
        """Makes the weights, in closed form.

        Those of the seams are Fisher's linear discriminant, with correlations shrunk; for normally
        distributed measurements it gives log odds. The rest of the network is surer of what it was
        trained on than it is right elsewhere, so its log odds are scaled to a mean square of 1,
        unless they are smaller. The whole is calibrated as every verdict is.
        """
        if self.seen[0] == 0:
            return
        means, covariances = list[Tensor](), list[Tensor]()
        for kind in KINDS:
            mean_N = self.get_buffer(f"{kind}_mean").double()
            means.append(mean_N)
            covariances.append(self.get_buffer(f"{kind}_square").double() - mean_N.outer(mean_N))
        pooled_NN = (covariances[0] + covariances[1]) / 2
        pooled_NN.diagonal().clamp_(min=LEAST_DEVIATION**2)
        deviation_N = pooled_NN.diagonal().sqrt()
        correlation_NN = pooled_NN / deviation_N.outer(deviation_N)
        correlation_NN = torch.lerp(
            correlation_NN, torch.eye(len(deviation_N)).to(correlation_NN), SHRINKAGE
        )
        step_N = (means[1] - means[0]) / deviation_N
        weight_N = torch.linalg.solve(correlation_NN, step_N) / deviation_N
        self.weight.copy_(weight_N)
        self.bias.copy_(-weight_N @ (means[0] + means[1]) / 2)
        self.verdict_scale.copy_(self.verdict_square.clamp(min=1).rsqrt())

    def _rate(self, which: int) -> Tensor:
        """The weight of one more batch, which is counted."""
        self.seen[which] += 1
        return (1 / self.seen[which]).clamp(min=RATE)


def find_seams(network: nn.Module) -> SeamBranch | None:
    """The seam branch of a network, if it has one."""
    return next((part for part in network.modules() if isinstance(part, SeamBranch)), None)


def fit_seams(network: nn.Module, judge: nn.Module) -> None:
    """Fits a network's seam branch, and gives it to the network that is validated.

    That may be the moving average of the first one. Its own moments would be averages of averages.
    """
    seams, judging = find_seams(network), find_seams(judge)
    if seams is not None and judging is not None:
        seams.fit()
        judging.load_state_dict(seams.state_dict())


def _box_mean(images_BCHW: Tensor, box: int) -> Tensor:
    """The mean of the square about each pixel, as far as it lies in the image.

    Along one side after the other: a mean of 17 by 17 takes 34 sums a pixel instead of 289.
    """
    for size in ((box, 1), (1, box)):
        images_BCHW = F.avg_pool2d(
            images_BCHW,
            size,
            stride=1,
            padding=(size[0] // 2, size[1] // 2),
            count_include_pad=False,
        )
    return images_BCHW


def _square(x_BN: Tensor) -> Tensor:
    """The mean of the outer product of each row with itself, (N, N)."""
    return (x_BN[:, :, None] * x_BN[:, None, :]).mean(dim=0)
