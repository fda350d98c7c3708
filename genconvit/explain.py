"""Why a crop is judged as it is: a heat map, reconstruction errors, the branches' own heads.

The heat map is Grad-CAM (https://arxiv.org/abs/1610.02391) of the verdict's logits over maps of
every backbone and view, with two changes. Gradients are not averaged over the map, since attention
gives one place another weight than the next (HiResCAM, https://arxiv.org/abs/2011.08891). And they
are integrated from a blurred crop to the crop (https://arxiv.org/abs/2102.07805): the heads begin
with a norm, for which a plain gradient times its map adds up to nothing, whatever the score. Of the
forms that were tried this one passed the check of `evaluate/map_check.py` best (docs/evidence.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import expit
from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn

from genconvit.config import DecisionSettings
from genconvit.data.crops import decode_crop
from genconvit.data.tensors import to_images
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import crop_probability, judge_points
from genconvit.evaluate.evidence.map_check import RANDOM_MAPS, MapCheck, blurred, check_map
from genconvit.models.autoencoder import normalize, unnormalize
from genconvit.models.output import NetworkOutput
from genconvit.predict import Detector
from genconvit.verdict import TimelinePoint, Verdict
from genconvit.wording import plural

Side = Literal["FAKE", "REAL"]
Map = NDArray[np.float32]

BRANCHES = {"ed": "the autoencoder branch", "vae": "the variational branch"}
SMOOTHING = 1 / 64
"""Standard deviation of the low-pass over reconstruction errors, as a share of the crop's side:
single pixels are noise and JPEG blocks."""
STAGE = 1
"""Whose maps are looked at: the second, an 8th of the crop's side; the first where it is alone."""
INTEGRATION_STEPS = 8
"""From the blurred crop to the crop, both included."""
CROPS_A_TRACK, TRACKS = 2, 4
"""How much of a clip is explained: the check looks at some 150 changed copies of every crop."""


class BranchAgreement(BaseModel):
    """P(fake) of each branch alone beside that of the verdict; None where it says nothing alone."""

    model_config = ConfigDict(frozen=True)

    fused: float
    ed: float | None
    vae: float | None
    seams: float | None = Field(
        None, description="Of the seam branch; it has no head and no part in `agree`."
    )
    agree: bool | None = Field(
        description="Whether all are on one side of 0.5; None without heads."
    )
    sentence: str


class CropFindings(BaseModel):
    """What can be said of one crop in numbers."""

    model_config = ConfigDict(frozen=True)

    probability_fake: float
    speaks_for: Side = Field(description="What the heat map is of: the likelier class.")
    reconstruction_error: dict[Literal["ed", "vae"], float] = Field(
        description="Mean absolute error of each branch's reconstruction, of a range of 0 to 1."
    )
    agreement: BranchAgreement
    check: MapCheck


@dataclass(frozen=True)
class CropEvidence:
    """The evidence of one crop, S pixels wide.

    Attributes:
        findings: The numbers.
        crop_HWC: The crop, RGB (S, S, 3).
        heat_HW: (S, S) from 0 to 1: what speaks for `findings.speaks_for`; 0 throughout where
            nothing does.
        errors: For `ed` and `vae`, where there is a reconstruction, its absolute error (S, S), mean
            over colours, of a range of 0 to 1.
    """

    findings: CropFindings
    crop_HWC: NDArray[np.uint8]  # noqa: N815
    heat_HW: Map  # noqa: N815
    errors: dict[Literal["ed", "vae"], Map]


@dataclass(frozen=True)
class ClipEvidence:
    """The evidence of the crops that decided most, parallel to their points of the timeline."""

    points: list[TimelinePoint]
    crops: list[CropEvidence]

    def sentence(self) -> str:
        """What the check says of the maps."""
        passed = sum(crop.findings.check.passes for crop in self.crops)
        if not self.crops:
            return "There is no crop to explain."
        return f"The map passes its check on {passed} of {plural(len(self.crops), 'crop')}."


def explain_crop(
    detector: Detector,
    crop_HWC: NDArray[np.uint8],
    *,
    random_maps: int = RANDOM_MAPS,
    seed: int = 0,
) -> CropEvidence:
    """Explains the score of one crop. The network is left as it was.

    Args:
        detector: Its network, of any architecture, on any device.
        crop_HWC: uint8 RGB (S, S, 3), S the network's image size.
        random_maps: What the heat map is compared with; fewer are faster and less sure.
        seed: Of the random maps.

    Raises:
        UserError: The crop has another size, or the network has no backbone to look into.
    """
    size = detector.info.model.image_size
    if crop_HWC.shape != (size, size, 3):
        raise UserError(
            f"the crop has the shape {crop_HWC.shape}, and the detector takes ({size}, {size}, 3); "
            "resize it."
        )
    temperature = detector.temperature
    pixels_1CHW = to_images(crop_HWC[None], detector.device)
    output, toward_fake_HW = _integrated_cam(
        detector.network, to_images(blurred(crop_HWC)[None], detector.device), pixels_1CHW
    )
    p_fake = _p_fake(detector, crop_HWC[None], temperature)[0]
    side: Side = "FAKE" if p_fake > 0.5 else "REAL"
    signed_HW = toward_fake_HW if side == "FAKE" else -toward_fake_HW
    errors = {
        name: _error_map(reconstruction, pixels_1CHW)
        for name, reconstruction in _reconstructions(output, detector).items()
    }

    def probability(crops_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
        # The map is of the backbones. What a place that is blurred says of seams is not its doing.
        p_fake_B = _p_fake(detector, crops_BHWC, temperature, with_seams=False)
        return p_fake_B if side == "FAKE" else 1 - p_fake_B

    findings = CropFindings(
        probability_fake=p_fake,
        speaks_for=side,
        reconstruction_error={name: float(error.mean()) for name, error in errors.items()},
        agreement=_agreement(p_fake, output, temperature),
        check=check_map(probability, crop_HWC, signed_HW, side, random_maps=random_maps, seed=seed),
    )
    peak = float(signed_HW.max())
    heat_HW = np.clip(signed_HW / peak, 0, 1) if peak > 0 else np.zeros_like(signed_HW)
    return CropEvidence(findings, crop_HWC, heat_HW, errors)


def evidence_for(
    detector: Detector,
    verdict: Verdict,
    crops_jpeg: Sequence[bytes],
    *,
    decision: DecisionSettings | None = None,
    count: int = CROPS_A_TRACK,
    advance: Callable[[], object] = lambda: None,
) -> ClipEvidence:
    """Explains the crops of a clip that decided most, the ones of each track in order of time.

    Args:
        detector: What judged the clip.
        verdict: Its verdict.
        crops_jpeg: The crops, one a point of the timeline, as `Detector.judge_with_crops` gives
            them.
        decision: What the verdict rests on; by default the detector's own.
        count: Crops a track: those with the highest P(fake) where it is FAKE, the lowest where it
            is REAL, from both ends where it is UNDECIDED. Of many tracks the longest 4.
        advance: Called after each crop.
    """
    chosen = deciding(verdict, decision or detector.info.decision, count)
    size = detector.info.model.image_size
    crops = []
    for place in chosen:
        crops.append(explain_crop(detector, decode_crop(crops_jpeg[place], size)))
        advance()
    return ClipEvidence([verdict.timeline[place] for place in chosen], crops)


def deciding(verdict: Verdict, decision: DecisionSettings, count: int = CROPS_A_TRACK) -> list[int]:
    """Places in the timeline of the crops that `evidence_for` explains."""
    longest = sorted(verdict.tracks, key=lambda track: (-track.crops, track.track))[:TRACKS]
    chosen: list[int] = []
    for track in sorted(summary.track for summary in longest):
        places = [i for i, point in enumerate(verdict.timeline) if point.track == track]
        if not places:  # of a timeline that is shown in part
            continue
        word = judge_points([verdict.timeline[i] for i in places], decision)[1]
        places.sort(key=lambda i: verdict.timeline[i].probability_fake)
        highest = {"FAKE": count, "REAL": 0, "UNDECIDED": (count + 1) // 2}[word]
        chosen += sorted({*places[: count - highest], *places[max(0, len(places) - highest) :]})
    return chosen


def _p_fake(
    detector: Detector,
    crops_BHWC: NDArray[np.uint8],
    temperature: float,
    *,
    with_seams: bool = True,
) -> NDArray[np.float64]:
    rows_BRK = detector.logits(crops_BHWC, with_seams=with_seams)
    mean = DecisionSettings()
    return np.array([crop_probability(rows_RK, mean, temperature)[0] for rows_RK in rows_BRK])


def _integrated_cam(
    network: nn.Module, from_1CHW: Tensor, to_1CHW: Tensor
) -> tuple[NetworkOutput, Map]:
    """What a network says of `to`, and where that comes from as `from` turns into it.

    Returns:
        The whole output, and (S, S) of what speaks for fake (above 0) and for real (below).
    """
    size = to_1CHW.shape[-1]
    first: list[Tensor] = []
    sums: list[Tensor] = []
    with torch.inference_mode(False), torch.enable_grad(), _feature_maps(network) as maps:
        for share in torch.linspace(0, 1, INTEGRATION_STEPS).tolist():
            maps.clear()
            # Frozen parameters need no gradient; the image does, so that every map has one.
            mixed_1CHW = torch.lerp(from_1CHW, to_1CHW, share)
            output: NetworkOutput = network(normalize(mixed_1CHW).requires_grad_())
            fake, real = output.logits[0]
            found = torch.autograd.grad(fake - real, [each for each, _ in maps])
            first = first or [each.detach() for each, _ in maps]
            sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else list(found)
    total_HW = torch.zeros(size, size, device=to_1CHW.device)
    for (map_, channels), before, gradient in zip(maps, first, sums, strict=True):
        change_VHW = (gradient / INTEGRATION_STEPS * (map_.detach() - before)).sum(channels)
        cam_11hw = change_VHW.sum(0)[None, None].float()
        total_HW += F.interpolate(cam_11hw, (size, size), mode="bilinear")[0, 0]
    return output, total_HW.cpu().numpy()


@contextmanager
def _feature_maps(network: nn.Module) -> Iterator[list[tuple[Tensor, int]]]:
    """Collects the maps of `STAGE` in a pass, each with the place of its channels.

    A backbone that is called for several views gives one map a call; views in one batch stay in it.

    Raises:
        UserError: There is no backbone.
    """
    maps: list[tuple[Tensor, int]] = []
    here = get_ident()

    def collect(channels: int, output: Tensor) -> None:
        if get_ident() == here:  # a server's other threads put crops through the same network
            maps.append((output, channels))

    hooks = []
    for module in network.modules():
        if isinstance(module, ConvNeXt):
            hooks.append((_stage(module.stages), 1))
        elif isinstance(module, SwinTransformer | SwinTransformerV2):
            hooks.append((_stage(module.layers), 3))
    if not hooks:
        raise UserError("the network has no ConvNeXt and no Swin; its verdict cannot be explained.")
    handles = [
        part.register_forward_hook(
            lambda _module, _inputs, output, channels=channels: collect(channels, output)
        )
        for part, channels in hooks
    ]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _stage(stages: nn.Sequential) -> nn.Module:
    return stages[min(STAGE, len(stages) - 1)]


def _reconstructions(
    output: NetworkOutput, detector: Detector
) -> dict[Literal["ed", "vae"], Tensor]:
    """Reconstructions (1, 3, s, s) in [0, 1], by branch."""
    found: dict[Literal["ed", "vae"], Tensor] = {}
    if output.ed_reconstruction is not None:
        found["ed"] = output.ed_reconstruction.detach()
    if output.vae_reconstruction is not None:
        vae = output.vae_reconstruction.detach()
        found["vae"] = unnormalize(vae) if detector.info.model.arch == "original" else vae
    return found


def _error_map(reconstruction_1CHW: Tensor, pixels_1CHW: Tensor) -> Map:
    """Absolute error at the reconstruction's size, mean over colours, as large as the crop."""
    size, own = pixels_1CHW.shape[-1], reconstruction_1CHW.shape[-1]
    target_1CHW = (
        pixels_1CHW if own == size else F.interpolate(pixels_1CHW, (own, own), mode="area")
    )
    error_HW = (reconstruction_1CHW - target_1CHW).abs().mean(dim=1)[0].cpu().numpy()
    error_HW = cv2.resize(error_HW, (size, size), interpolation=cv2.INTER_LINEAR)
    smooth_HW: Map = cv2.GaussianBlur(error_HW, (0, 0), SMOOTHING * size)
    return smooth_HW


def _agreement(p_fake: float, output: NetworkOutput, temperature: float) -> BranchAgreement:
    """What the branches' own heads say."""

    def probability(logits_12: Tensor | None) -> float | None:
        if logits_12 is None:
            return None
        fake, real = logits_12.detach()[0].double().cpu().numpy() / temperature
        return float(expit(fake - real))

    own = {"ed": probability(output.ed_logits), "vae": probability(output.vae_logits)}
    seams = probability(output.seam_logits)
    seams_said = "" if seams is None else f" Seams alone: {seams:.2f}."
    heads = {name: p for name, p in own.items() if p is not None}
    if not heads:
        return BranchAgreement(
            fused=p_fake,
            ed=None,
            vae=None,
            seams=seams,
            agree=None,
            sentence="The branches have no own heads." + seams_said,
        )
    sides = {name: p > 0.5 for name, p in heads.items()}
    others = [name for name, fake in sides.items() if fake != (p_fake > 0.5)]
    word, opposite = ("FAKE", "REAL") if p_fake > 0.5 else ("REAL", "FAKE")
    values = ", ".join(f"{name} {p:.2f}" for name, p in heads.items())
    if not others:
        said = f"Both branches lean to {word}, as the verdict does"
    elif len(others) == len(heads):
        said = f"Both branches lean to {opposite}, against the fused head"
    else:
        said = f"The branches disagree: {BRANCHES[others[0]]} leans to {opposite}"
    return BranchAgreement(
        fused=p_fake,
        ed=own["ed"],
        vae=own["vae"],
        seams=seams,
        agree=not others,
        sentence=f"{said} ({values}; fused {p_fake:.2f}).{seams_said}",
    )
