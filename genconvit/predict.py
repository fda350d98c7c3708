"""A trained detector at work: clip or image in, verdict with timeline out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from genconvit.checkpoint import DetectorInfo, load_network
from genconvit.config import DecisionSettings, SamplingSettings
from genconvit.data.crops import ClipCrops, decode_crop, extract_crops
from genconvit.data.tensors import to_images
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import decide
from genconvit.models.autoencoder import normalize
from genconvit.verdict import TimelinePoint, Verdict

CROPS_A_PASS = 32


@dataclass(frozen=True)
class Detector:
    """A network with all that it needs to judge a clip.

    Attributes:
        network: Takes ImageNet-normalised float32 (B, 3, S, S); its output's `.logits` are (B, 2)
            for (fake, real).
        info: Settings, preprocessing and how it was trained.
        device: Where the network is.
    """

    network: nn.Module
    info: DetectorInfo
    device: torch.device

    def judge(
        self,
        clip: str | Path,
        *,
        sampling: SamplingSettings | None = None,
        decision: DecisionSettings | None = None,
    ) -> Verdict:
        """Judges one clip or still image.

        Args:
            clip: Path of a file.
            sampling: Which frames to look at; by default those of the training.
            decision: Threshold and undecided band; by default the detector's own.

        Raises:
            ClipError: The file cannot be read as a clip or image.
        """
        return self.judge_with_crops(clip, sampling=sampling, decision=decision)[0]

    def judge_with_crops(
        self,
        clip: str | Path,
        *,
        sampling: SamplingSettings | None = None,
        decision: DecisionSettings | None = None,
    ) -> tuple[Verdict, list[bytes]]:
        """As `judge`; also returns the crops as JPEG, one for each point of the timeline.

        Raises:
            ClipError: The file cannot be read as a clip or image.
        """
        found = extract_crops(Path(clip), self.info.preprocess, sampling or self.info.sampling)
        return self.judge_crops(str(clip), found, decision)

    def judge_crops(
        self,
        name: str,
        found: ClipCrops,
        decision: DecisionSettings | None = None,
        *,
        batch_size: int = CROPS_A_PASS,
    ) -> tuple[Verdict, list[bytes]]:
        """Judges a clip whose crops are ready; returns the crops in the timeline's order."""
        crops = sorted(found.crops, key=lambda crop: (crop.frame_index, crop.track))
        size = self.info.model.image_size
        scores: list[float] = []
        for start in range(0, len(crops), batch_size):
            images = [decode_crop(crop.jpeg, size) for crop in crops[start : start + batch_size]]
            scores += self.score(np.stack(images), batch_size).tolist()
        timeline = [
            TimelinePoint(
                time_s=round(crop.time_s, 3),
                frame_index=crop.frame_index,
                track=crop.track,
                box=crop.box,
                probability_fake=score,
            )
            for crop, score in zip(crops, scores, strict=True)
        ]
        verdict = decide(name, timeline, found.frames_sampled, decision or self.info.decision)
        return verdict, [crop.jpeg for crop in crops]

    @torch.inference_mode()
    def score(self, crops_BHWC: np.ndarray, batch_size: int = CROPS_A_PASS) -> np.ndarray:
        """P(fake) of decoded crops.

        Args:
            crops_BHWC: uint8 RGB (B, S, S, 3), S the network's image size.
            batch_size: Crops a pass through the network.

        Returns:
            float64 (B,).
        """
        scores = [np.empty(0)]
        for start in range(0, len(crops_BHWC), batch_size):
            images = to_images(crops_BHWC[start : start + batch_size], self.device)
            logits = self.network(normalize(images)).logits
            scores.append(logits.double().softmax(dim=1)[:, 0].cpu().numpy())
        return np.concatenate(scores)


def load_detector(path: str | Path, device: str = "auto") -> Detector:
    """Loads a detector's folder, ready to judge.

    Args:
        path: The folder, such as `RUN/best`.
        device: `cpu`, `cuda`, or `auto` for CUDA where there is one.

    Raises:
        UserError: It is no detector, is damaged, or there is no such device.
    """
    network, info = load_network(Path(path))
    target = pick_device(device)
    return Detector(network.to(target), info, target)


def pick_device(device: str) -> torch.device:
    """`auto`, `cpu` or `cuda` to a device that is there.

    Raises:
        UserError: CUDA was asked for and there is none.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UserError(f"device {device!r}: give auto, cpu, cuda or cuda:N.")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {device}: no CUDA GPU is visible here; use device cpu or auto.")
    return torch.device(device)
