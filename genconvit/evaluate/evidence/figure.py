"""Evidence as pictures: heat maps over crops, reconstruction errors, and their legends.

The colour maps are matplotlib's magma and cividis, whose brightness rises evenly, so that they are
read alike with any colour vision and in print (https://doi.org/10.1371/journal.pone.0199239).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from genconvit.evaluate.figure import INK
from genconvit.evaluate.pages import clock, score
from genconvit.explain import BRANCHES, ClipEvidence, CropEvidence

Image = NDArray[np.uint8]

HEAT, ERROR = "magma", "cividis"
STRENGTH = 0.75
"""How much the colour of the most marked place covers the crop."""
LEAST_SIDE = 224
"""Pictures of smaller crops are enlarged to this, pixels."""
FOLDER = "evidence"


def overlay(crop_HWC: Image, heat_HW: NDArray[np.floating]) -> Image:
    """The heat map over the crop in grey: RGB (S, S, 3). Where the heat is 0, the crop is bare."""
    grey_HW = cv2.cvtColor(crop_HWC, cv2.COLOR_RGB2GRAY)
    grey_HWC = np.repeat(grey_HW[:, :, None], 3, axis=2)
    return _blend(grey_HWC, heat_HW)


def error_picture(error_HW: NDArray[np.floating], scale: float) -> Image:
    """Reconstruction errors from 0 to `scale` as colours: RGB (S, S, 3)."""
    return _coloured(error_HW / scale, ERROR)


def error_scale(crops: Sequence[CropEvidence]) -> float:
    """The end of a scale that all error maps of these crops share."""
    return max([0.01, *(float(error.max()) for crop in crops for error in crop.errors.values())])


def legend_strip(kind: Literal["heat", "error"]) -> Image:
    """The colours of a scale from its low to its high end: RGB (16, 256, 3)."""
    ramp_HW = np.tile(np.linspace(0, 1, 256), (16, 1))
    if kind == "error":
        return _coloured(ramp_HW, ERROR)
    return _blend(np.full((16, 256, 3), 128, np.uint8), ramp_HW)


def jpeg(image_HWC: Image) -> bytes:
    """A picture as JPEG, enlarged where it is small."""
    side = image_HWC.shape[1]
    if image_HWC.shape[0] == side < LEAST_SIDE:
        image_HWC = cv2.resize(image_HWC, (LEAST_SIDE, LEAST_SIDE), interpolation=cv2.INTER_CUBIC)
    coded = cv2.imencode(
        ".jpg", cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90]
    )[1]
    return coded.tobytes()


def evidence_figure(evidence: CropEvidence, title: str, scale: float) -> Figure:
    """One crop: itself, the heat map, the errors, and what is said of them.

    Args:
        evidence: Of the crop.
        title: What crop it is.
        scale: End of the errors' colours, as `error_scale` gives it.
    """
    findings = evidence.findings
    panels = 2 + len(evidence.errors)
    figure = Figure(figsize=(2.6 * panels, 4.1), dpi=150, layout="constrained")
    axes, bars = figure.subplots(2, panels, height_ratios=[1, 0.05])
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left", parse_math=False)
    _panel(axes[0], evidence.crop_HWC, f"P(fake) {score(findings.probability_fake)}")
    _panel(
        axes[1], overlay(evidence.crop_HWC, evidence.heat_HW), f"speaks for {findings.speaks_for}"
    )
    bars[0].set_axis_off()
    _bar(figure, bars[1], HEAT, 1.0, "of the strongest")
    for panel, bar, (name, error_HW) in zip(
        axes[2:], bars[2:], evidence.errors.items(), strict=True
    ):
        mean = findings.reconstruction_error[name]
        _panel(panel, error_picture(error_HW, scale), f"{name} error, mean {mean:.3f}")
        _bar(figure, bar, ERROR, scale, "of a range of 1")
    said = f"{findings.check.sentence}\n{findings.agreement.sentence}"
    figure.supxlabel(said, fontsize=8, color=INK, x=0.01, ha="left", parse_math=False, wrap=True)
    return figure


def write_evidence(out: Path, clip: str, evidence: ClipEvidence) -> list[str]:
    """Writes a PNG file for each explained crop.

    Args:
        out: Folder; `evidence/` is made in it.
        clip: Name of the clip with its folders; it and the place of the crop name the file.
        evidence: Of the clip.

    Returns:
        The files, relative to `out`, in the order of the crops.
    """
    # Clips of one name in two folders, or two names that a disk takes for one, stay apart.
    digest = hashlib.sha256(clip.encode()).hexdigest()[:8]
    stem = re.sub(r"[^\w.-]+", "_", clip).strip("._")[-80:] + f"-{digest}"
    scale = error_scale(evidence.crops)
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    names = []
    for point, crop in zip(evidence.points, evidence.crops, strict=True):
        name = f"{FOLDER}/{stem}-track{point.track}-frame{point.frame_index}.png"
        title = f"{clip}, track {point.track}, {clock(point.time_s)}"
        evidence_figure(crop, title, scale).savefig(out / name)
        names.append(name)
    return names


def error_name(branch: str) -> str:
    """What an error map is of, in words."""
    return f"reconstruction error of {BRANCHES[branch]}"


def _coloured(values_HW: NDArray[np.floating], name: str) -> Image:
    colours_HWC = matplotlib.colormaps[name](np.clip(values_HW, 0, 1), bytes=True)
    return np.asarray(colours_HWC)[:, :, :3]


def _blend(grey_HWC: Image, heat_HW: NDArray[np.floating]) -> Image:
    alpha_HW1 = STRENGTH * np.clip(heat_HW, 0, 1)[:, :, None]
    mixed_HWC = (1 - alpha_HW1) * grey_HWC + alpha_HW1 * _coloured(heat_HW, HEAT)
    return mixed_HWC.round().astype(np.uint8)


def _panel(axes: Axes, image_HWC: Image, title: str) -> None:
    axes.imshow(image_HWC, interpolation="bicubic")
    axes.set_title(title, fontsize=9, color=INK, loc="left")
    axes.set_axis_off()


def _bar(figure: Figure, axes: Axes, name: str, end: float, label: str) -> None:
    figure.colorbar(ScalarMappable(Normalize(0, end), name), cax=axes, orientation="horizontal")
    axes.set_xlabel(label, fontsize=8, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
