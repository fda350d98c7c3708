"""A trained detector at work: clip or image in, verdict with timeline out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from genconvit.checkpoint import DetectorInfo, load_network
from genconvit.config import ORIGINAL_SAMPLING, DecisionSettings, SamplingSettings
from genconvit.data.crops import ClipCrops, decode_crop, extract_crops
from genconvit.data.tensors import to_images
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import crop_probability, decide
from genconvit.kernels.check import has_bf16
from genconvit.models.accelerate import accelerate
from genconvit.models.autoencoder import normalize
from genconvit.train.precision import Precision
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
        dtype: What matrix products and convolutions are computed in.
    """

    network: nn.Module
    info: DetectorInfo
    device: torch.device
    dtype: torch.dtype = torch.float32

    @property
    def temperature(self) -> float:
        """Divides the logits of a crop before the softmax."""
        return self.info.temperature

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
            sampling: Which frames to look at; by default the detector's, or the published ones
                where `decision` asks for the published aggregation.
            decision: Aggregation, threshold and undecided band; by default the detector's own.

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
        if sampling is None:
            published = decision is not None and decision.aggregation == "original"
            sampling = ORIGINAL_SAMPLING if published else self.info.sampling
        found = extract_crops(Path(clip), self.info.preprocess, sampling)
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
        decision = decision or self.info.decision
        crops = sorted(found.crops, key=lambda crop: (crop.frame_index, crop.track))
        size = self.info.model.image_size
        timeline: list[TimelinePoint] = []
        for start in range(0, len(crops), batch_size):
            batch = crops[start : start + batch_size]
            images = np.stack([decode_crop(crop.jpeg, size) for crop in batch])
            logits_BRK = self.logits(images, batch_size)
            for crop, rows_RK in zip(batch, logits_BRK, strict=True):
                where = (crop.frame_index, crop.time_s, crop.track, crop.box)
                timeline.append(timeline_point(*where, rows_RK, decision, self.temperature))
        verdict = decide(name, timeline, found.frames_sampled, decision)
        return verdict, [crop.jpeg for crop in crops]

    @torch.inference_mode()
    def logits(
        self, crops_BHWC: np.ndarray, batch_size: int = CROPS_A_PASS, *, with_seams: bool = True
    ) -> np.ndarray:
        """Logits of decoded crops, from no more work than the verdict needs.

        Args:
            crops_BHWC: uint8 RGB (B, S, S, 3), S the network's image size.
            batch_size: Crops a pass through the network.
            with_seams: Without, what the seam branch adds is left out.

        Returns:
            float64 (B, R, 2), in the order (fake, real). R is 2 with `net` genconvit, whose
            verdict is the mean of the ED and the VAE row, and else 1.
        """
        passes = [np.empty((0, 1, 2))]
        for start in range(0, len(crops_BHWC), batch_size):
            images = to_images(crops_BHWC[start : start + batch_size], self.device)
            with Precision(self.device.type, self.dtype).autocast():
                output = self.network(normalize(images), verdict_only=True)
            if output.seam_logits is not None and not with_seams:
                output.logits = output.logits - output.seam_logits
            both = output.ed_logits is not None and output.vae_logits is not None
            rows = [output.ed_logits, output.vae_logits] if both else [output.logits]
            passes.append(torch.stack(rows, dim=1).double().cpu().numpy())
        return np.concatenate(passes[1:] or passes)


def timeline_point(
    frame_index: int,
    time_s: float,
    track: int,
    box: tuple[int, int, int, int],
    logits_RK: np.ndarray,
    decision: DecisionSettings,
    temperature: float,
) -> TimelinePoint:
    """A crop's place in its clip and its logits (R, 2) as a point of the timeline."""
    p_fake, sigmoids = crop_probability(logits_RK, decision, temperature)
    return TimelinePoint(
        time_s=round(time_s, 3),
        frame_index=frame_index,
        track=track,
        box=box,
        probability_fake=p_fake,
        sigmoids=sigmoids,
    )


def load_detector(path: str | Path, device: str = "auto", *, fast: bool = False) -> Detector:
    """Loads a detector's folder, ready to judge.

    Args:
        path: The folder, such as `RUN/best`, or a URL, such as `s3://bucket/detector`.
        device: `cpu`, `cuda`, or `auto` for CUDA where there is one.
        fast: For many clips on a GPU: bfloat16, in which a run validates there, and fused kernels,
            which take seconds to start. A CPU computes in float32 either way.

    Raises:
        UserError: It is no detector, is damaged, or there is no such device.
    """
    network, info = load_network(path)
    target = pick_device(device)
    network = network.to(target)
    if not fast or target.type != "cuda" or not has_bf16():
        return Detector(network, info, target)
    network = accelerate(network.to(memory_format=torch.channels_last), compile=False)
    return Detector(network, info, target, torch.bfloat16)


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
