"""How fast detectors judge, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
import torch

from genconvit.data.crops import ClipCrops, decode_crop
from genconvit.predict import CROPS_A_PASS, Detector

ROUNDS = 5


@dataclass(frozen=True)
class Speed:
    """How fast a detector is.

    Attributes:
        images_per_s: Decoded crops scored a second, in passes of `CROPS_A_PASS`.
        ms_per_clip: From the stored crops of one clip to its verdict. Decoding the video and
            finding faces come before it and are not in it.
    """

    images_per_s: float
    ms_per_clip: float


def measure_speeds(
    detectors: Sequence[Detector], clips: Sequence[Sequence[ClipCrops]], rounds: int = ROUNDS
) -> list[Speed]:
    """Times each detector in turn, round by round, so that a drift of the machine meets all.

    Args:
        detectors: On their devices.
        clips: For each detector, crops of the same clips, made for it.
        rounds: Timed rounds after one that warms up.

    Returns:
        Medians over the rounds, one a detector.
    """
    passes: list[list[float]] = [[] for _ in detectors]
    clip_times: list[list[float]] = [[] for _ in detectors]
    batches = [_batch(d, found) for d, found in zip(detectors, clips, strict=True)]
    for turn in range(rounds + 1):
        for place, detector in enumerate(detectors):
            a_pass = _seconds(detector, partial(detector.logits, batches[place]))
            of_clips = [
                _seconds(detector, partial(detector.judge_crops, "", found))
                for found in clips[place]
            ]
            if turn:
                passes[place].append(a_pass)
                clip_times[place].append(sum(of_clips) / len(of_clips))
    return [
        Speed(CROPS_A_PASS / median(own), 1000 * median(own_clips))
        for own, own_clips in zip(passes, clip_times, strict=True)
    ]


def ms_per_clip(detector: Detector, rounds: int = ROUNDS) -> float:
    """Milliseconds for the logits of a clip's crops, as many as the detector looks at.

    The crops are made up; decoding and finding faces are not in it.

    Args:
        detector: On its device.
        rounds: Timed rounds after one that warms up; the answer is their median.
    """
    frames, side = detector.info.sampling.frames or CROPS_A_PASS, detector.info.model.image_size
    crops_BHWC = np.random.default_rng(0).integers(0, 256, (frames, side, side, 3), np.uint8)
    work = partial(detector.logits, crops_BHWC)
    return 1000 * median([_seconds(detector, work) for _ in range(rounds + 1)][1:])


def _batch(detector: Detector, clips: Sequence[ClipCrops]) -> np.ndarray:
    """A full pass of real crops, repeated where there are few."""
    crops = [crop for found in clips for crop in found.crops][:CROPS_A_PASS]
    images = [decode_crop(crop.jpeg, detector.info.model.image_size) for crop in crops]
    return np.stack([images[place % len(images)] for place in range(CROPS_A_PASS)])


def _seconds(detector: Detector, work: Callable[[], object]) -> float:
    _wait_for(detector)
    started = time.perf_counter()
    work()
    _wait_for(detector)
    return time.perf_counter() - started


def _wait_for(detector: Detector) -> None:
    if detector.device.type == "cuda":
        torch.cuda.synchronize(detector.device)
