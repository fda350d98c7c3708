"""What happens to clips on their way to a detector, in levels from mild to strong.

Where a distortion acts is where it acts in life: an upload is compressed, shrunk and blurred before
anyone looks for faces in it, so frames are distorted before the faces are found, anew at every
level. Only `crop_shift` changes the face's box, as a careless face detector would, and `frame_drop`
which frames there are.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from genconvit.data.faces import Face

SEEDS = 5
"""Draws of a distortion that is random; the others need one."""
BLUR_SIDE = 720
"""Pixels: frames of this shorter side are blurred by the sigma that a level names."""

OnFrame = Callable[[NDArray[np.uint8], float, np.random.Generator], NDArray[np.uint8]]


@dataclass(frozen=True)
class Distortion:
    """One kind of distortion."""

    name: str
    noun: str
    """It in a sentence."""
    phrase: str
    """One of its levels in a sentence, with braces for the number."""
    axis: str
    """What its levels are."""
    levels: tuple[float, ...]
    """From mild to strong."""
    acts_on: Literal["frames", "file", "boxes", "sampling"]
    is_random: bool = False
    on_frame: OnFrame | None = None

    def at(self, level: float) -> str:
        """A level in words, such as "JPEG quality 30"."""
        return self.phrase.format(f"{level:g}")

    @property
    def seeds(self) -> int:
        """How often each level is measured."""
        return SEEDS if self.is_random else 1


@dataclass(frozen=True)
class Condition:
    """A distortion at one level, drawn with one seed."""

    distortion: str
    level: float = 0.0
    seed: int = 0

    def generator(self, clip: str) -> np.random.Generator:
        """The random numbers for a clip: the same at every level, so that levels compare."""
        return np.random.default_rng([self.seed, zlib.crc32(f"{self.distortion} {clip}".encode())])


CLEAN = Condition("clean")


def compress_jpeg(
    image_HWC: NDArray[np.uint8], quality: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The frame as it comes back from a JPEG file."""
    image_BGR = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", image_BGR, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    return cv2.cvtColor(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def downscale(
    image_HWC: NDArray[np.uint8], share: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The frame shrunk to a share of its sides, and enlarged to its old size."""
    height, width = image_HWC.shape[:2]
    small = (max(1, round(share * width)), max(1, round(share * height)))
    if small == (width, height):
        return image_HWC
    shrunk_HWC = cv2.resize(image_HWC, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk_HWC, (width, height), interpolation=cv2.INTER_LINEAR)


def blur(image_HWC: NDArray[np.uint8], sigma: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The frame out of focus: a Gaussian of `sigma` pixels of a frame of `BLUR_SIDE`."""
    own_sigma = sigma * min(image_HWC.shape[:2]) / BLUR_SIDE
    return cv2.GaussianBlur(image_HWC, (0, 0), own_sigma) if own_sigma else image_HWC


def add_noise(
    image_HWC: NDArray[np.uint8], deviation: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The frame with Gaussian noise of its own in every value, as a share of white."""
    cv2.setRNGSeed(int(rng.integers(2**31)))  # several times faster than numpy's normal numbers
    # One channel: of several, a number for all would be the deviation of the first alone.
    noise_N1 = cv2.randn(np.empty((image_HWC.size, 1), np.int16), 0.0, 255.0 * deviation)
    return cv2.add(image_HWC, noise_N1.reshape(image_HWC.shape), dtype=cv2.CV_8U)


def scale_brightness(
    image_HWC: NDArray[np.uint8], factor: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The frame with its values times a factor; what is too bright is white."""
    return cv2.convertScaleAbs(image_HWC, alpha=factor)


def shift_face(face: Face, share: float, rng: np.random.Generator) -> Face:
    """The face, found beside where it is: by a share of its longer side, in any direction."""
    x0, y0, x1, y1 = face.box
    angle = rng.uniform(0.0, 2 * np.pi)
    far = share * max(x1 - x0, y1 - y0)
    right, down = float(far * np.cos(angle)), float(far * np.sin(angle))
    points = face.landmarks
    return replace(
        face,
        box=(x0 + right, y0 + down, x1 + right, y1 + down),
        landmarks=points and tuple((x + right, y + down) for x, y in points),
    )


def kept_frames(frames: list[int], share: float, rng: np.random.Generator) -> list[int]:
    """The frames that are left when a share of them is lost, in order; at least one.

    What is lost at one level is lost at a stronger one of the same seed, too.
    """
    kept = max(1, len(frames) - round(share * len(frames)))
    return sorted(rng.permutation(frames).tolist()[:kept])


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion(
        name="jpeg",
        noun="JPEG",
        phrase="JPEG quality {}",
        axis="JPEG quality",
        levels=(100, 75, 50, 30, 10),
        acts_on="frames",
        on_frame=compress_jpeg,
    ),
    Distortion(
        name="h264",
        noun="H.264",
        phrase="H.264 CRF {}",
        axis="H.264 CRF",
        levels=(18, 23, 28, 34, 40),
        acts_on="file",
    ),
    Distortion(
        name="downscale",
        noun="downscaling",
        phrase="downscaling to {} of the side",
        axis="Downscaled to share of side",
        levels=(0.75, 0.5, 0.35, 0.25, 0.15),
        acts_on="frames",
        on_frame=downscale,
    ),
    Distortion(
        name="blur",
        noun="blur",
        phrase=f"blur of {{}} px at {BLUR_SIDE}p",
        axis=f"Blur, px at {BLUR_SIDE}p",
        levels=(0.5, 1, 2, 4, 8),
        acts_on="frames",
        on_frame=blur,
    ),
    Distortion(
        name="noise",
        noun="noise",
        phrase="noise of {} of white",
        axis="Noise, share of white",
        levels=(0.01, 0.02, 0.04, 0.08, 0.12),
        acts_on="frames",
        is_random=True,
        on_frame=add_noise,
    ),
    Distortion(
        name="darker",
        noun="darkening",
        phrase="darkening to {} of the brightness",
        axis="Darkened to share",
        levels=(0.8, 0.6, 0.4, 0.25, 0.1),
        acts_on="frames",
        on_frame=scale_brightness,
    ),
    Distortion(
        name="brighter",
        noun="brightening",
        phrase="brightening {} times",
        axis="Brightened, times",
        levels=(1.25, 1.5, 2, 3, 4),
        acts_on="frames",
        on_frame=scale_brightness,
    ),
    Distortion(
        name="crop_shift",
        noun="crop shift",
        phrase="crop shift of {} of the face's box",
        axis="Crop shift, share of face box",
        levels=(0.05, 0.1, 0.15, 0.2, 0.3),
        acts_on="boxes",
        is_random=True,
    ),
    Distortion(
        name="frame_drop",
        noun="frame drop",
        phrase="{} of the frames dropped",
        axis="Frames dropped, share",
        levels=(0.1, 0.25, 0.5, 0.75, 0.9),
        acts_on="sampling",
        is_random=True,
    ),
)
BY_NAME = {each.name: each for each in DISTORTIONS}


def conditions(with_h264: bool = True) -> list[Condition]:
    """All that a clip is judged under: as it is, then every distortion, level and seed."""
    return [CLEAN] + [
        Condition(each.name, level, seed)
        for each in DISTORTIONS
        for level in each.levels
        for seed in range(each.seeds)
        if with_h264 or each.acts_on != "file"
    ]
