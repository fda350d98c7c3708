"""Self-blended fakes: forgeries made of real crops alone.

After Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022 (arXiv
2204.08376). A copy of the face is changed a little in colour, detail and place, and blended into
its own image along the face's outline. A network that tells such crops from real ones has learned
the seams that most face swaps leave, and not the look of one forgery tool.

A share of the fakes has a smoothed seam and nothing else: a swapped face is faded into its
surroundings, which costs the detail of a band around it, even where colour and sharpness fit.

Own implementation. Two things differ from the paper. There are no landmarks, so the mask starts
from an ellipse where the crop holds its face. And only the inserted face is changed, never its
surroundings: they would give the fakes away, since real crops in a batch are not changed so. What
the paper gains by changing either, augmentation adds to all crops afterwards.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from genconvit.config import PreprocessSettings
from genconvit.data.augment import Step, affine, blur, change_colour, downscale, draw
from genconvit.data.tensors import to_device, to_images

RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
"""How much of the inserted face is seen; one of them is drawn, as in the paper."""
SEAM_SIGMA = (0.005, 0.015)
"""Of the blur along a smoothed seam, as a share of the side."""
CORNERS = 8
"""Of a polygonal mask."""
CPU = torch.device("cpu")


class SelfBlend(nn.Module):
    """Makes a fake of each image.

    Args:
        margin: Border around the face, as a share of its box's longer side: the face covers
            1 / (1 + 2 margin) of the crop's side, in the middle.
        seams: Probability that nothing but the seam is smoothed.
    """

    def __init__(self, margin: float, seams: float = 0.0) -> None:
        super().__init__()
        self.face, self.seams = 1 / (1 + 2 * margin), seams

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Float images in [0, 1] to fakes of the same shape and range."""
        return self.with_mask(images_BCHW)[0]

    def with_mask(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The fakes, and the share of each pixel that is another than before, (B, 1, H, W)."""
        mask_B1HW = self._draw_mask(images_BCHW)
        ratio_B = torch.tensor(RATIOS)[torch.randint(len(RATIOS), (len(images_BCHW),))]
        ratio_B111 = to_device(ratio_B, images_BCHW.device)[:, None, None, None]
        share_B1HW, changed_BCHW = mask_B1HW * ratio_B111, _change_face(images_BCHW)
        if self.seams > 0:
            side = images_BCHW.shape[-2]
            seam_B = to_device(torch.rand(len(images_BCHW)) < self.seams, images_BCHW.device)
            # 1 where both images would have the same share, 0 where one has all of it.
            band_B1HW = 4 * mask_B1HW * (1 - mask_B1HW)
            smooth_BCHW = blur(images_BCHW, sigma=(SEAM_SIGMA[0] * side, SEAM_SIGMA[1] * side))
            share_B1HW = torch.where(seam_B[:, None, None, None], band_B1HW, share_B1HW)
            changed_BCHW = torch.where(seam_B[:, None, None, None], smooth_BCHW, changed_BCHW)
        return torch.lerp(images_BCHW, changed_BCHW, share_B1HW), share_B1HW

    def _draw_mask(self, images_BCHW: Tensor) -> Tensor:
        height = images_BCHW.shape[-2]
        u_BHW, v_BHW = self._face_coordinates(images_BCHW)
        round_BHW = u_BHW**2 + v_BHW**2 < 1
        polygonal = draw(images_BCHW, 0, 1)[:, None, None] < 0.5
        inside_BHW = torch.where(polygonal, _in_polygon(u_BHW, v_BHW), round_BHW)
        mask_B1HW = inside_BHW[:, None].to(images_BCHW.dtype)
        return blur(mask_B1HW, sigma=(0.01 * height, 0.05 * height))

    def _face_coordinates(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Where each pixel lies (B, H, W), in radii of a face of drawn size and place.

        They are bent, so that what is a circle in them is a face's uneven outline in the image.
        """
        count, height, width = len(images_BCHW), *images_BCHW.shape[-2:]
        coarse_B244 = 2 * to_device(torch.rand(count, 2, 4, 4), images_BCHW.device) - 1
        bend_B2HW = F.interpolate(
            coarse_B244, size=(height, width), mode="bicubic", align_corners=False
        )
        bend_B2HW = bend_B2HW * draw(images_BCHW, 0.0, 0.25)[:, None, None, None]
        x = (2 * torch.arange(width, device=images_BCHW.device) + 1) / width - 1
        y = (2 * torch.arange(height, device=images_BCHW.device) + 1) / height - 1
        # A face is less wide than high; what lies below the brows is what is mostly exchanged.
        left_B11, top_B11, across_B11, down_B11 = (
            self.face * draw(images_BCHW, low, high)[:, None, None]
            for low, high in ((-0.05, 0.05), (0.0, 0.15), (0.55, 0.85), (0.65, 1.0))
        )
        u_BHW = (x[None, None, :] - left_B11) / across_B11 + bend_B2HW[:, 0]
        v_BHW = (y[None, :, None] - top_B11) / down_B11 + bend_B2HW[:, 1]
        return u_BHW, v_BHW


class BlendReals(nn.Module):
    """Replaces a share of a batch's real crops by fakes.

    A fake is made of a real crop that stays in the batch, as in the paper: the two differ in
    nothing but the forgery.

    Args:
        share: Probability for each real crop.
        preprocess: How the crops were cut.
        seams: As of `SelfBlend`.
    """

    def __init__(self, share: float, preprocess: PreprocessSettings, seams: float = 0.0) -> None:
        super().__init__()
        self.share = share
        self.blend = SelfBlend(crop_margin(preprocess), seams)

    def forward(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Crops and labels, of which `labels_B` (0 fake, 1 real) lies on the CPU, to new ones."""
        if self.share == 0:
            return images_BCHW, labels_B
        chosen_B = (labels_B == 1) & (torch.rand(len(labels_B)) < self.share)
        chosen = chosen_B.nonzero().flatten()
        if len(chosen):
            staying = ((labels_B == 1) & ~chosen_B).nonzero().flatten()
            sources = staying if len(staying) else chosen
            sources = sources[torch.arange(len(chosen)) % len(sources)]
            chosen, sources = (to_device(rows, images_BCHW.device) for rows in (chosen, sources))
            images_BCHW = images_BCHW.index_copy(0, chosen, self.blend(images_BCHW[sources]))
        return images_BCHW, labels_B.masked_fill(chosen_B, 0)


def self_blend_crop(crop_HWC: NDArray[np.uint8], margin: float) -> NDArray[np.uint8]:
    """A fake of one RGB crop, always the same; other random numbers are not touched.

    Args:
        crop_HWC: The crop, before it is compressed.
        margin: Border around the face, as in `SelfBlend`.
    """
    seed = int.from_bytes(hashlib.sha256(crop_HWC.tobytes()).digest()[:4], "big")
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        # torch.manual_seed would seed the GPUs too, which fork_rng here leaves as they are.
        torch.default_generator.manual_seed(seed)
        blended_BCHW = SelfBlend(margin)(to_images(crop_HWC[None], CPU))
    return to_crops(blended_BCHW)[0]


def crop_margin(preprocess: PreprocessSettings) -> float:
    """The border that crops really have: none where the whole frame is the face."""
    return 0.0 if preprocess.detector == "none" else preprocess.margin


def to_crops(images_BCHW: Tensor) -> NDArray[np.uint8]:
    """Float images in [0, 1] to uint8 RGB (B, H, W, 3)."""
    crops_BHWC = (images_BCHW * 255).round().byte().permute(0, 2, 3, 1)
    return np.ascontiguousarray(crops_BHWC.cpu().numpy())


def _change_face(images_BCHW: Tensor) -> Tensor:
    """The faces to insert: other in colour, in detail or in both, and a little out of place."""
    faces_BCHW = images_BCHW.clone()
    count = len(images_BCHW)
    recoloured, detail = torch.rand(count) < 0.75, torch.randint(3, (count,))
    _apply(_tint, faces_BCHW, recoloured)
    _apply(_recolour, faces_BCHW, recoloured)
    _apply(_coarsen, faces_BCHW, detail == 0)
    _apply(_sharpen, faces_BCHW, detail == 1)
    return affine(faces_BCHW, degrees=0, shift=0.015, scale=(0.95, 1.05))


def _apply(change: Step, images_BCHW: Tensor, chosen_B: Tensor) -> None:
    index = to_device(chosen_B.nonzero().flatten(), images_BCHW.device)
    images_BCHW[index] = change(images_BCHW[index])


def _tint(images_BCHW: Tensor) -> Tensor:
    shift_BC = 0.1 * to_device(torch.rand(images_BCHW.shape[:2]), images_BCHW.device) - 0.05
    return (images_BCHW + shift_BC[:, :, None, None]).clamp(0, 1)


def _recolour(images_BCHW: Tensor) -> Tensor:
    return change_colour(images_BCHW, brightness=0.15, contrast=0.15, saturation=0.2, hue=0.02)


def _coarsen(images_BCHW: Tensor) -> Tensor:
    return downscale(images_BCHW, factor=(0.35, 0.8))


def _sharpen(images_BCHW: Tensor) -> Tensor:
    amount_B111 = draw(images_BCHW, 0.5, 1.5)[:, None, None, None]
    fine_BCHW = images_BCHW - blur(images_BCHW, sigma=(1.0, 2.0))
    return (images_BCHW + amount_B111 * fine_BCHW).clamp(0, 1)


def _in_polygon(u_BHW: Tensor, v_BHW: Tensor) -> Tensor:
    """Whether points lie in a drawn convex polygon, whose corners lie on the unit circle."""
    jitter_BK = 0.8 * to_device(torch.rand(len(u_BHW), CORNERS), u_BHW.device) - 0.4
    corner_BK = (torch.arange(CORNERS, device=u_BHW.device) + jitter_BK) * (2 * math.pi / CORNERS)
    next_BK = corner_BK.roll(-1, dims=1)
    next_BK[:, -1] += 2 * math.pi
    normal_BK, reach_BK = (corner_BK + next_BK) / 2, ((next_BK - corner_BK) / 2).cos()
    inside_BHW = torch.ones_like(u_BHW, dtype=torch.bool)
    for side in range(CORNERS):  # one at a time: all at once would take eight times the memory
        normal_B11, reach_B11 = (part_BK[:, side, None, None] for part_BK in (normal_BK, reach_BK))
        inside_BHW &= u_BHW * normal_B11.cos() + v_BHW * normal_B11.sin() < reach_B11
    return inside_BHW
