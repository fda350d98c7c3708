"""Augmentation of a batch of crops on the training device.

What a forged face looks like after a phone, a messenger and a video host have had it matters more
than geometry: hence JPEG, blur, downscale and noise beside flip, affine and colour.

Each image draws its own parameters, and only the images that a step was drawn for are computed.
Choices and strengths are drawn on the CPU: the GPU need not be waited for to know which images are
chosen, and a seed gives the same choices on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genconvit.config import AugmentSettings
from genconvit.data.jpeg import compress_jpeg
from genconvit.data.tensors import to_device

Step = Callable[[Tensor], Tensor]
"""Float images (B, 3, H, W) in [0, 1] to changed ones of the same shape and range."""
Range = tuple[float, float]

KINDS = ("flip", "affine", "colour", "downscale", "blur", "noise", "jpeg", "cutout")
"""The steps in their order, by the setting that is their probability."""

TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
"""RGB to brightness and two colour axes, in which a change of hue is a rotation (NTSC, 1953)."""


class Augmentation(nn.Module):
    """Steps one after another, each for images drawn with its probability.

    Args:
        steps: Probability for each image, and what is done to it.
    """

    def __init__(self, steps: Sequence[tuple[float, Step]]) -> None:
        super().__init__()
        self.steps = [(probability, step) for probability, step in steps if probability > 0]

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Float images in [0, 1]; an image that no step is drawn for comes back bit for bit."""
        images_BCHW = images_BCHW.clone()
        for probability, step in self.steps:
            chosen = (torch.rand(len(images_BCHW)) < probability).nonzero().flatten()
            if len(chosen):
                chosen = to_device(chosen, images_BCHW.device)
                images_BCHW[chosen] = step(images_BCHW[chosen])
        return images_BCHW


def build_augmentation(settings: AugmentSettings) -> Augmentation:
    """Float images in [0, 1], (B, 3, H, W), to augmented ones of the same shape and range."""
    steps: dict[str, Step] = {
        "flip": flip,
        "affine": partial(
            affine,
            degrees=settings.rotation_degrees,
            shift=settings.shift,
            scale=settings.scale,
        ),
        "colour": partial(
            change_colour,
            brightness=settings.brightness,
            contrast=settings.contrast,
            saturation=settings.saturation,
            hue=settings.hue,
        ),
        "downscale": partial(downscale, factor=settings.downscale_factor),
        "blur": partial(blur, sigma=settings.blur_sigma),
        "noise": partial(add_noise, std=settings.noise_std),
        "jpeg": partial(jpeg, quality=settings.jpeg_quality),
        "cutout": partial(cut_out, area=settings.cutout_area),
    }
    return Augmentation([(getattr(settings, kind), steps[kind]) for kind in KINDS])


def flip(images_BCHW: Tensor) -> Tensor:
    """Mirrors left and right."""
    return images_BCHW.flip(-1)


def affine(images_BCHW: Tensor, degrees: float, shift: float, scale: Range) -> Tensor:
    """Rotates, scales and shifts; what lay outside is mirrored.

    Args:
        images_BCHW: The images.
        degrees: Largest rotation either way.
        shift: Largest shift, as a share of the side.
        scale: Smallest and largest size.
    """
    angle_B = draw(images_BCHW, -math.radians(degrees), math.radians(degrees))
    size_B = draw(images_BCHW, *scale)
    # grid_sample asks where a pixel comes from, in units of half a side: the inverse transform.
    cos_B, sin_B = angle_B.cos() / size_B, angle_B.sin() / size_B
    right_B, down_B = (draw(images_BCHW, -2 * shift, 2 * shift) for _ in range(2))
    theta_B23 = torch.stack([cos_B, sin_B, right_B, -sin_B, cos_B, down_B], dim=1).view(-1, 2, 3)
    grid_BHW2 = F.affine_grid(theta_B23, list(images_BCHW.shape), align_corners=False)
    moved_BCHW = F.grid_sample(
        images_BCHW, grid_BHW2, padding_mode="reflection", align_corners=False
    )
    return moved_BCHW.clamp(0, 1)


def change_colour(
    images_BCHW: Tensor, brightness: float, contrast: float, saturation: float, hue: float
) -> Tensor:
    """Changes brightness, contrast about the image's mean, saturation and hue.

    Together they are one linear map of each image's colours, which is cheaper than four steps
    through other colour spaces.

    Args:
        images_BCHW: The images.
        brightness: Largest change, as a share.
        contrast: Likewise.
        saturation: Likewise.
        hue: Largest rotation of the colour circle, whose whole is 1.
    """
    brightness_B, contrast_B, saturation_B = (
        draw(images_BCHW, 1 - limit, 1 + limit) for limit in (brightness, contrast, saturation)
    )
    angle_B = draw(images_BCHW, -2 * math.pi * hue, 2 * math.pi * hue)
    to_yiq = torch.tensor(TO_YIQ)
    to_rgb = to_device(torch.linalg.inv(to_yiq), images_BCHW.device)
    to_yiq = to_device(to_yiq, images_BCHW.device)
    cos_B, sin_B = saturation_B * angle_B.cos(), saturation_B * angle_B.sin()
    one_B, none_B = torch.ones_like(cos_B), torch.zeros_like(cos_B)
    turn = [one_B, none_B, none_B, none_B, cos_B, -sin_B, none_B, sin_B, cos_B]
    colours_B33 = to_rgb @ torch.stack(turn, dim=1).view(-1, 3, 3) @ to_yiq
    gain_B = brightness_B * contrast_B
    mean_B = brightness_B * (images_BCHW.mean(dim=(2, 3)) @ to_yiq[0])
    offset_B = mean_B * (1 - contrast_B)
    changed_BCN = torch.baddbmm(
        offset_B[:, None, None], gain_B[:, None, None] * colours_B33, images_BCHW.flatten(2)
    )
    return changed_BCN.clamp(0, 1).view_as(images_BCHW)


def downscale(images_BCHW: Tensor, factor: Range) -> Tensor:
    """Scales down and back up: the detail is gone.

    Args:
        images_BCHW: The images.
        factor: Smallest and largest share of the side.
    """
    return scale_down(images_BCHW, draw(images_BCHW, *factor))


def scale_down(images_BCHW: Tensor, factor_B: Tensor, *, sharp: bool = False) -> Tensor:
    """Scales each image down by its own factor and back up.

    Args:
        images_BCHW: The images.
        factor_B: Share of the side, above 0 and at most 1; on the images' device.
        sharp: Down by cubic instead of linear interpolation, which keeps more of the detail that
            the small image can hold.
    """
    kernel = _cubic if sharp else _triangle
    height, width = images_BCHW.shape[-2:]
    return _filter(
        images_BCHW,
        _down_and_up(height, factor_B, kernel),
        _down_and_up(width, factor_B, kernel),
    ).clamp(0, 1)


def blur(images_BCHW: Tensor, sigma: Range) -> Tensor:
    """Gaussian blur.

    Args:
        images_BCHW: The images, of any number of channels.
        sigma: Smallest and largest standard deviation, pixels.
    """
    sigma_B = draw(images_BCHW, *sigma)
    height, width = images_BCHW.shape[-2:]
    return _filter(images_BCHW, _gaussian(height, sigma_B), _gaussian(width, sigma_B)).clamp(0, 1)


def add_noise(images_BCHW: Tensor, std: Range) -> Tensor:
    """Gaussian noise, of its own for each pixel and colour.

    Args:
        images_BCHW: The images.
        std: Smallest and largest standard deviation, as a share of white.
    """
    std_B111 = draw(images_BCHW, *std)[:, None, None, None]
    # A generator of its own: what is drawn after the noise is then the same on every device.
    generator = torch.Generator(images_BCHW.device).manual_seed(int(torch.randint(2**31, ())))
    noise_BCHW = torch.empty_like(images_BCHW).normal_(generator=generator)
    return (images_BCHW + std_B111 * noise_BCHW).clamp(0, 1)


def jpeg(images_BCHW: Tensor, quality: tuple[int, int]) -> Tensor:
    """JPEG compression.

    Args:
        images_BCHW: The images.
        quality: Lowest and highest.
    """
    low, high = quality
    quality_B = torch.randint(low, high + 1, (len(images_BCHW),))
    return compress_jpeg(images_BCHW, to_device(quality_B, images_BCHW.device))


def cut_out(images_BCHW: Tensor, area: Range) -> Tensor:
    """Covers a rectangle with one colour.

    As in Zhong et al., "Random Erasing Data Augmentation", AAAI 2020 (arXiv 1708.04896). It keeps
    a network from resting on one place of the face.

    Args:
        images_BCHW: The images.
        area: Smallest and largest share of the image.
    """
    height, width = images_BCHW.shape[-2:]
    area_B = draw(images_BCHW, *area)
    aspect_B = draw(images_BCHW, -math.log(2), math.log(2)).exp()
    # A large area leaves no room for a long rectangle.
    high_B = (area_B * aspect_B).sqrt().maximum(area_B).clamp(max=1)
    rows_BH = _stretch(height, high_B)
    columns_BW = _stretch(width, area_B / high_B)
    inside_B1HW = (rows_BH[:, :, None] & columns_BW[:, None, :])[:, None]
    colours_BC = to_device(torch.rand(images_BCHW.shape[:2]), images_BCHW.device)
    return torch.where(inside_B1HW, colours_BC[:, :, None, None], images_BCHW)


def draw(images_BCHW: Tensor, low: float, high: float) -> Tensor:
    """A number between `low` and `high` for each image, on its device."""
    return to_device(low + (high - low) * torch.rand(len(images_BCHW)), images_BCHW.device)


def _stretch(side: int, share_B: Tensor) -> Tensor:
    """Which of the pixels of a side lie in a randomly placed stretch of it, (B, side)."""
    length_B = (share_B * side).round().clamp(1, side)
    place_B = to_device(torch.rand(len(share_B)), share_B.device)
    start_B = ((side + 1 - length_B) * place_B).floor()
    pixel = torch.arange(side, device=share_B.device)
    return (pixel >= start_B[:, None]) & (pixel < (start_B + length_B)[:, None])


def _filter(images_BCHW: Tensor, rows_BHH: Tensor, columns_BWW: Tensor) -> Tensor:
    """Applies one matrix an image along its height and one along its width.

    Matrices let every image have its own strength in one product; a convolution has one kernel size
    for all.
    """
    return rows_BHH[:, None] @ images_BCHW @ columns_BWW[:, None].mT


def _gaussian(side: int, sigma_B: Tensor) -> Tensor:
    """Weights (B, side, side) of a Gaussian about each pixel; the image's border cuts it off."""
    pixel = torch.arange(side, device=sigma_B.device)
    distance = pixel[:, None] - pixel[None, :]
    weights_BSS = torch.exp(-0.5 * (distance / sigma_B[:, None, None]) ** 2)
    return weights_BSS / weights_BSS.sum(dim=2, keepdim=True)


def _triangle(distance: Tensor) -> Tensor:
    """The kernel of linear interpolation; distances in pixels."""
    return (1 - distance.abs()).clamp(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """That of cubic interpolation: Keys, "Cubic Convolution Interpolation", 1981, a = -1/2."""
    x = distance.abs()
    near, far = (1.5 * x - 2.5) * x**2 + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def _down_and_up(side: int, factor_B: Tensor, kernel: Callable[[Tensor], Tensor]) -> Tensor:
    """Weights (B, side, side) of interpolation to fewer pixels, antialiased, and linear back."""
    small_B11 = (factor_B * side).round().clamp(min=1)[:, None, None]
    centre = torch.arange(side, device=factor_B.device) + 0.5
    # The rows beyond the small image's last one have no way back up.
    exists_B1S = centre < small_B11
    at_small_BSS = centre[:, None] - centre[None, :] * small_B11 / side
    down_BSS = kernel(at_small_BSS)
    down_BSS = down_BSS / down_BSS.sum(dim=2, keepdim=True).clamp(min=1e-6)
    up_BSS = _triangle(at_small_BSS).mT * exists_B1S
    up_BSS = up_BSS / up_BSS.sum(dim=2, keepdim=True)
    return up_BSS @ down_BSS
