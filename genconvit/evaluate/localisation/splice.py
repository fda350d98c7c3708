"""Clips that are forged in part only, with the truth: made of a real clip and its forgery."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from genconvit.config import SamplingSettings
from genconvit.data.clip import Clip
from genconvit.data.video import Frame, check_clip, count_frames, sample_frames
from genconvit.errors import ClipError, UserError

EVERY_FRAME = SamplingSettings(frame_interval=1)
FORGED_SHARE = (0.3, 0.6)
"""The forged part of a spliced clip, as a share of it, drawn evenly."""
QUALITY = 95
"""Of the MJPEG that real and forged frames alike are written with: it hides no traces."""
LOOK = 64
"""Side to which frames are shrunk when two clips are compared, pixels."""


class SwapPair(NamedTuple):
    """A real clip, and a forgery of it."""

    real: Path
    fake: Path
    group: str = ""


@dataclass(frozen=True)
class SplicedClip:
    """A clip on disk and where it is forged."""

    path: Path
    forged: tuple[tuple[float, float], ...]
    """Start and end of each forged part, seconds."""
    duration_s: float
    group: str = ""
    """Of the clips it is made of; empty is a group of its own."""


def swap_pairs(clips: Sequence[Clip]) -> list[SwapPair]:
    """Each fake clip with the real one that it was made from.

    That is the real clip of its group whose first frame looks most like its own; a fake clip
    without a real one in its group is left out, and so is one that cannot be decoded.
    """
    reals: dict[str, list[tuple[Path, NDArray[np.float32]]]] = defaultdict(list)
    for clip in clips:
        if clip.label == "real" and (look := _look(Path(clip.path))) is not None:
            reals[clip.group].append((Path(clip.path), look))
    pairs = []
    for clip in clips:
        if clip.label != "fake" or not reals[clip.group]:
            continue
        own = _look(Path(clip.path))
        if own is not None:
            nearest = min(reals[clip.group], key=lambda real: float(np.abs(real[1] - own).mean()))
            pairs.append(SwapPair(nearest[0], Path(clip.path), clip.group))
    return pairs


def splice_clips(real: Path, fake: Path, cuts_s: Sequence[float], out: Path) -> SplicedClip:
    """Writes a clip that changes between two at the cuts, and begins with the real one.

    Frames of the same time follow each other, so of a swapped face only the face changes at a cut.
    The clip is as long as the shorter one, and of the real one's size and frame rate.

    Args:
        real: The real clip.
        fake: The forged one.
        cuts_s: Times of the cuts, seconds, rising, within the clip.
        out: The file, `.avi` (MJPEG); its folder is made.

    Raises:
        ClipError: One of the clips cannot be decoded.
        UserError: The cuts do not rise or lie outside the clip, or the file cannot be written.
    """
    fps, length_s = _rate(real)
    end = min(length_s, _rate(fake)[1])
    if list(cuts_s) != sorted(set(cuts_s)) or not all(0 < cut < end for cut in cuts_s):
        raise UserError(
            f"cuts at {', '.join(f'{cut:g}' for cut in cuts_s)} s do not fit {real} with {fake}: "
            f"they must rise and lie between 0 and {end:.1f} s."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    writer: cv2.VideoWriter | None = None
    forged: list[bool] = []
    for shown, other in _side_by_side(real, fake):
        height, width = shown.image_HWC.shape[:2]
        if writer is None:
            writer = _writer(out, fps, (width, height))
        takes_fake = sum(cut <= len(forged) / fps for cut in cuts_s) % 2 == 1
        image_HWC = other.image_HWC if takes_fake else shown.image_HWC
        if image_HWC.shape[:2] != (height, width):
            image_HWC = cv2.resize(image_HWC, (width, height), interpolation=cv2.INTER_AREA)
        writer.write(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR))
        forged.append(takes_fake)
    if writer is not None:
        writer.release()
    edges = np.flatnonzero(np.diff(np.r_[False, forged, False].astype(int))) / fps
    spans = tuple((float(start), float(end)) for start, end in edges.reshape(-1, 2))
    return SplicedClip(out, spans, len(forged) / fps)


def write_splices(
    pairs: Sequence[SwapPair], out: Path, seed: int = 0
) -> tuple[list[SplicedClip], list[str]]:
    """Splices each pair once: real, forged, real.

    Args:
        pairs: As `swap_pairs` gives them.
        out: Folder for the clips, which are named by their number and the fake one.
        seed: Draws where each is cut.

    Returns:
        The clips, and one sentence for each pair that could not be spliced.
    """
    rng = np.random.default_rng(seed)
    made, failures = [], []
    for number, (real, fake, group) in enumerate(pairs):
        share, place = rng.uniform(*FORGED_SHARE), rng.random()
        try:
            end = min(_rate(real)[1], _rate(fake)[1])
            start = end * (0.05 + place * (0.9 - share))
            cuts = (start, start + end * share)
            clip = splice_clips(real, fake, cuts, out / f"{number:03}_{fake.stem}.avi")
            made.append(replace(clip, group=group))
        except (ClipError, UserError) as error:
            failures.append(f"{real} with {fake}: {error}")
    return made, failures


def _rate(path: Path) -> tuple[float, float]:
    """Frames a second and seconds of a clip."""
    check_clip(path)
    fps = float(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS))
    if not fps > 0 or cv2.haveImageReader(str(path)):
        raise UserError(f"{path} does not say how fast it is shown; splice videos.")
    return fps, count_frames(path) / fps


def _side_by_side(real: Path, fake: Path) -> Iterator[tuple[Frame, Frame]]:
    """Each frame of the real clip with the last one of the other that is not later."""
    others = sample_frames(fake, EVERY_FRAME)
    current = following = next(others, None)
    for shown in sample_frames(real, EVERY_FRAME):
        while following is not None and following.time_s <= shown.time_s + 1e-3:
            current, following = following, next(others, None)
        if current is None or (following is None and shown.time_s > current.time_s + 1e-3):
            return
        yield shown, current


def _writer(path: Path, fps: float, size: tuple[int, int]) -> cv2.VideoWriter:
    # OpenCV's own MJPEG writer: unlike FFmpeg's, it takes a quality.
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter.fourcc(*"MJPG"), fps, size
    )
    if not writer.isOpened():
        raise UserError(f"{path} cannot be written; check the folder and the space on it.")
    writer.set(cv2.VIDEOWRITER_PROP_QUALITY, QUALITY)
    return writer


def _look(path: Path) -> NDArray[np.float32] | None:
    try:
        first = next(sample_frames(path, SamplingSettings(frame_interval=1, max_frames=1)))
    except ClipError:
        return None
    return cv2.resize(first.image_HWC, (LOOK, LOOK), interpolation=cv2.INTER_AREA).astype(
        np.float32
    )
