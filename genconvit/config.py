"""Every setting: its type, default, range, unit and meaning.

A job's settings are one `Settings` object. `genconvit.overrides` builds it from the defaults, a
preset, a YAML file and the command line, in that order. Settings are frozen: a changed one is a
copy (`settings.model_copy`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from genconvit.config_data import (
    ORIGINAL_SAMPLING,
    AugmentSettings,
    ExtractSettings,
    PreprocessSettings,
    SamplingSettings,
    Section,
    SplitSettings,
    StreamSettings,
)
from genconvit.config_decision import DecisionSettings
from genconvit.config_serve import ServeSettings
from genconvit.config_train import LossSettings, TrainSettings
from genconvit.config_tune import TuneSettings
from genconvit.presets import PRESETS, V2_ONLY

__all__ = [
    "CLASSES",
    "ORIGINAL_SAMPLING",
    "AugmentSettings",
    "DecisionSettings",
    "ExtractSettings",
    "LossSettings",
    "ModelSettings",
    "PreprocessSettings",
    "SamplingSettings",
    "Section",
    "ServeSettings",
    "Settings",
    "SplitSettings",
    "StreamSettings",
    "TrainSettings",
    "TuneSettings",
]

CLASSES = ("fake", "real")
"""Class order of every logit: index 0 is fake, index 1 is real."""


Channels = Annotated[int, Field(ge=2, le=4096)]


class ModelSettings(Section):
    """The network (docs/architecture.md)."""

    arch: Literal["v2", "original"] = Field(
        "v2", description="Network family; original: GenConViT as published."
    )
    preset: Literal["base", "nano"] = Field(
        "base",
        description="base: the tiny backbones of timm, 224 px. nano: smaller, 64 px, for CPUs.",
    )
    net: Literal["v2", "genconvit", "ed", "vae"] = Field(
        "v2",
        description="v2: the fused head. genconvit: the mean of two branches (arch original: of "
        "two networks, the default there). ed, vae: one.",
    )
    attention: bool = Field(True, description="Cross-attention between the two branches.")
    residual: bool = Field(True, description="Add the attention's output to its query tokens.")
    fusion: Literal["swiglu", "sum", "concat"] = Field(
        "swiglu", description="How the branches are combined."
    )
    backbone_fusion: Literal["sum", "concat"] = Field(
        "sum", description="How ConvNeXt and Swin are combined."
    )
    backbone_input: Literal["both", "reconstruction", "difference"] = Field(
        "both",
        description="What the backbones see: image and reconstructions, or reconstructions alone. "
        "difference: what the image's features have that the reconstructions' have not.",
    )
    backbone_stride: Literal[4, 8, 16, 32] = Field(
        32,
        description="Pixels of the image a position of the backbones' maps stands for: smaller "
        "ones hold finer detail and spare the later stages.",
    )
    pooling: Literal["mean", "place"] = Field(
        "mean",
        description="How positions become one vector. place: by learned weights, which begin as "
        "the face, its outline and its surroundings.",
    )
    seam_branch: bool = Field(
        False,
        description="A third branch: fine detail along the face's outline, learned from real crops "
        "alone.",
    )
    image_size: int = Field(
        224, ge=64, le=512, multiple_of=32, description="Side of the network's input, pixels."
    )
    ae_latent: int = Field(256, ge=1, le=8192, description="Latent size of the autoencoder.")
    vae_latent: int = Field(
        256, ge=1, le=8192, description="Latent size of the variational autoencoder."
    )
    dropout_rate: float = Field(
        0.5, ge=0.0, le=0.95, description="Dropout in every head and in the fusion."
    )
    drop_path_rate: float = Field(
        0.1, ge=0.0, le=0.9, description="Stochastic depth in both backbones."
    )
    autoencoder_channels: tuple[Channels, Channels, Channels, Channels, Channels] = Field(
        (32, 64, 128, 192, 192),
        description="Channels after each of the autoencoders' five halvings.",
    )
    token_dim: int = Field(
        768, ge=8, le=4096, description="Width of a token in attention and fusion."
    )
    attention_heads: int = Field(8, ge=1, le=64, description="Heads of the cross-attention.")
    aux_heads: bool = Field(
        True, description="Heads of the branches beside the fused one, for loss.aux_weight."
    )
    backbone: str = Field(
        "convnext_tiny",
        description="Any timm ConvNeXt, or another convolutional network of timm's.",
    )
    backbone_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Reach timm.create_model; of a ConvNeXt."
    )
    embedder: str = Field("swin_tiny_patch4_window7_224", description="Any timm Swin.")
    embedder_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Reach timm.create_model."
    )
    pretrained: bool = Field(
        False, description="Start the backbones from timm's ImageNet weights (needs its hub)."
    )
    weights: Path | None = Field(
        None,
        description="Start the backbones from a .safetensors or .pth file, or a folder of them.",
    )

    @model_validator(mode="before")
    @classmethod
    def _preset_first(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        presets = PRESETS.get(values.get("arch", "v2"), {})
        preset = dict(presets.get(values.get("preset", "base"), {}))
        if values.get("backbone") not in (None, preset.get("backbone")):
            preset.pop("backbone_kwargs", None)  # they are those of the preset's own
        return {**preset, **values}

    @model_validator(mode="after")
    def _fits_the_arch(self) -> ModelSettings:
        if self.arch == "v2":
            return self
        if self.net == "v2":
            raise ValueError(f"net v2 belongs to arch v2; arch {self.arch} has genconvit, ed, vae")
        for name in V2_ONLY:
            if getattr(self, name) != type(self).model_fields[name].get_default(
                call_default_factory=True, validated_data={}
            ):
                raise ValueError(
                    f"{name} is a setting of arch v2, and arch {self.arch} has no such part; "
                    f"leave model.{name} out"
                )
        return self

    @model_validator(mode="after")
    def _seams_have_one_verdict(self) -> ModelSettings:
        if self.seam_branch and self.net == "genconvit":
            raise ValueError(
                "seam_branch adds to one verdict, and net genconvit has two; give net v2, ed or vae"
            )
        return self

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> ModelSettings:
        if self.pretrained and self.weights is not None:
            raise ValueError("pretrained and weights exclude each other; give one of them")
        return self


class Settings(Section):
    """All settings of a job."""

    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of every random number.")
    model: ModelSettings = Field(default_factory=ModelSettings)
    preprocess: PreprocessSettings = Field(default_factory=PreprocessSettings)
    sampling: SamplingSettings = Field(default_factory=SamplingSettings)
    split: SplitSettings = Field(default_factory=SplitSettings)
    extract: ExtractSettings = Field(default_factory=ExtractSettings)
    stream: StreamSettings = Field(default_factory=StreamSettings)
    augment: AugmentSettings = Field(default_factory=AugmentSettings)
    loss: LossSettings = Field(default_factory=LossSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    decision: DecisionSettings = Field(default_factory=DecisionSettings)
    tune: TuneSettings = Field(default_factory=TuneSettings)
    serve: ServeSettings = Field(default_factory=ServeSettings)

    @model_validator(mode="before")
    @classmethod
    def _loss_of_the_arch(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        model = values.get("model")
        arch = model.get("arch") if isinstance(model, dict) else getattr(model, "arch", None)
        if arch != "original" or not isinstance(values.get("loss", {}), dict):
            return values
        return {**values, "loss": {"vae_weight": 1.0, **values.get("loss", {})}}

    @model_validator(mode="after")
    def _fakes_to_learn_from(self) -> Settings:
        if self.stream.real_only and not self.augment.self_blend:
            raise ValueError(
                "stream.real_only leaves no fakes to learn from; give augment.self_blend a share, "
                "such as 0.5"
            )
        return self
