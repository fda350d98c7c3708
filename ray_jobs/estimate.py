"""How large a dataset will be, before it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genconvit.config import Settings
from genconvit.data.clip import IMAGE_SUFFIXES, Clip
from genconvit.data.video import count_frames, evenly_spaced
from genconvit.errors import ClipError
from genconvit.storage import is_url

SAMPLE = 16
"""Clips whose frames are counted."""
FACES_A_FRAME = 1.1
BYTES_A_PIXEL = 0.29
BYTES_A_CROP = 1700
"""A crop of quality 95 has so many bytes and so many more a pixel: measured on real clips, at 64
and 224 px."""


@dataclass(frozen=True)
class Estimate:
    """A rough size.

    Attributes:
        crops: Crops.
        bytes: Bytes of all shards.
    """

    crops: int
    bytes: int

    @property
    def peak_bytes(self) -> int:
        """Most bytes while it is written: parts and the shards made of them, for a while both."""
        return round(self.bytes * 1.5)

    def __str__(self) -> str:
        return f"about {self.crops} crops, {human_bytes(self.bytes)}"


def estimate_size(clips: Sequence[Clip], settings: Settings) -> Estimate:
    """Counts the frames of a few clips and takes them for all."""
    chosen = [clips[place] for place in evenly_spaced(len(clips), SAMPLE)]
    frames = sum(_frames(clip, settings) for clip in chosen) / max(len(chosen), 1)
    faces = 1.0 if settings.preprocess.detector == "none" else FACES_A_FRAME
    reals = sum(clip.label == "real" for clip in clips)
    crops = frames * faces * (len(clips) + settings.extract.self_blend * reals)
    quality = settings.preprocess.jpeg_quality
    share = 1.0 if quality >= 95 else 0.5 if quality >= 80 else 0.3
    crop = BYTES_A_CROP + share * BYTES_A_PIXEL * settings.preprocess.size**2
    return Estimate(round(crops), round(crops * crop))


def human_bytes(number: float) -> str:
    """`3.2 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _frames(clip: Clip, settings: Settings) -> int:
    """Frames of a clip that are looked at; the usual number where they cannot be counted."""
    sampling = settings.sampling
    usual = sampling.frames or sampling.max_frames or 32
    path = Path(clip.name)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return 1
    if is_url(clip.path) or not Path(clip.path).is_file():
        return usual
    try:
        total = count_frames(Path(clip.path))
    except ClipError:
        return 0
    wanted = sampling.frames or -(-total // (sampling.frame_interval or 1))
    return min(total, wanted, sampling.max_frames or total)
