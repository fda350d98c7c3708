"""Published GenConViT checkpoints to the `original` network of this project.

What the files hold is told by their keys alone: https://github.com/erprogs/GenConViT publishes
`genconvit_ed_inference.pth` and `genconvit_vae_inference.pth` under CC BY-NC 4.0.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from genconvit.checkpoint import DetectorInfo
from genconvit.config import (
    DecisionSettings,
    ModelSettings,
    PreprocessSettings,
    SamplingSettings,
)
from genconvit.errors import UserError
from genconvit.models.registry import build_from_settings

Net = Literal["ed", "vae"]

LICENCE = "CC BY-NC 4.0"
"""Of the published weights: no commercial use, and credit to their authors."""

# The crops that the networks were trained on: the face's box alone, and no JPEG in between.
PREPROCESS = PreprocessSettings(shape="tight", margin=0.0, jpeg_quality=100)

# What no forward pass reaches. Both files hold a Swin twice, assigned to a backbone that never
# calls it, under the names of whichever timm saved it.
_DEAD: dict[Net, dict[str, str]] = {
    "ed": {
        "embedder.": "Swin, never called",
        "backbone.patch_embed.": "the same Swin inside the ConvNeXt, never called",
    },
    "vae": {
        "embedder.": "Swin, never called",
        "convnext_backbone.patch_embed.": "the same Swin inside the ConvNeXt, never called",
        "encoder.fc1.": "layer without a call",
        "encoder.fc2.": "layer without a call",
        "encoder.var.": "variance, which never reaches the output",
        "fc3.": "layer without a call",
    },
}
_RENAMED = (
    (re.compile(r"^convnext_backbone\."), "backbone."),
    (re.compile(r"^(encoder|decoder)\.features\."), r"\1."),
    (re.compile(r"^encoder\.mu\."), "mu."),
    (re.compile(r"^fc\."), "head.1."),
    (re.compile(r"^fc2\."), "head.3."),
)
# A key that only one of the two files has.
_MARK: dict[Net, str] = {"ed": "encoder.features.12.weight", "vae": "encoder.mu.weight"}


class CheckpointError(UserError):
    """A file that is no published checkpoint of the network; `problems` names every key."""

    def __init__(self, message: str, problems: list[str]) -> None:
        super().__init__(message)
        self.problems = problems


@dataclass(frozen=True)
class Dropped:
    """Tensors of a file that have no effect."""

    prefix: str
    reason: str
    parameters: int


@dataclass(frozen=True)
class Published:
    """One file, read.

    Attributes:
        net: Which network it is.
        weights: Its live tensors, named as in `Original` behind `ed.` or `vae.`.
        dropped: What was left out.
        epoch: The epoch that a training checkpoint tells.
    """

    net: Net
    weights: dict[str, Tensor]
    dropped: list[Dropped]
    epoch: int | None = None


def read_published(file: Path, net: Net, model: ModelSettings) -> Published:
    """Reads a published file: a bare state dict, or what training saved.

    Args:
        file: The .pth file. It is never unpickled beyond tensors and plain values.
        net: Which network it should hold.
        model: The `original` network that it must fit.

    Raises:
        CheckpointError: A key is missing, unexpected or misshapen.
        UserError: The file cannot be read, or holds the other network.
    """
    content = _load(file)
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not any(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{file} holds no state dict; give a published GenConViT checkpoint.")
    epoch = content.get("epoch")
    published = from_state_dict(state, net, model, str(file))
    return replace(published, epoch=epoch if isinstance(epoch, int) else None)


def from_state_dict(
    state: Mapping[str, Any], net: Net, model: ModelSettings, origin: str
) -> Published:
    """As `read_published`, of a state dict in memory; `origin` names it in messages.

    Raises:
        CheckpointError: A key is missing, unexpected or misshapen.
        UserError: It is that of the other network.
    """
    state = {
        key.removeprefix("module."): value
        for key, value in state.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    other: Net = "vae" if net == "ed" else "ed"
    if _MARK[net] not in state and _MARK[other] in state:
        raise UserError(f"{origin} is a checkpoint of the {other} network; give it as --{other}.")
    dropped: dict[str, int] = {}
    published: dict[str, Tensor] = {}
    counted: set[int] = set()
    for key, tensor in state.items():
        prefix = next((prefix for prefix in _DEAD[net] if key.startswith(prefix)), None)
        if prefix is None:
            published[key] = tensor
        elif tensor.data_ptr() not in counted:  # both copies of the Swin are stored once
            counted.add(tensor.data_ptr())
            dropped[prefix] = dropped.get(prefix, 0) + tensor.numel()
    return Published(
        net,
        _renamed(published, origin, net, model),
        [Dropped(p.rstrip("."), _DEAD[net][p], count) for p, count in dropped.items()],
    )


def published_info(
    files: dict[Net, Path], networks: list[Published], model: ModelSettings
) -> DetectorInfo:
    """The description of a detector that holds these networks."""
    return DetectorInfo(
        model=model,
        preprocess=PREPROCESS.model_copy(update={"size": model.image_size}),
        sampling=SamplingSettings(),
        decision=DecisionSettings(),
        training={
            "converted_from": {net: file.name for net, file in files.items()},
            "epoch": {n.net: n.epoch for n in networks if n.epoch is not None} or "unknown",
        },
        licence=LICENCE,
    )


def model_for(nets: list[Net]) -> ModelSettings:
    """The published network: one of the two, or both."""
    return ModelSettings(arch="original", net=nets[0] if len(nets) == 1 else "genconvit")


def _load(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"{file} is not a file; give a published GenConViT checkpoint.")
    try:
        # Not copied into memory as a whole: half of a VAE file is dropped.
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} is no PyTorch checkpoint, or holds objects that could run code, and is not "
            "read; give the published file, or one that holds its state dict alone."
        ) from error
    except Exception as error:  # what is no checkpoint fails in as many ways as there are files
        raise UserError(
            f"{file} cannot be read as a PyTorch checkpoint; give the published file, or copy it "
            "again."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no state dict; give a published GenConViT checkpoint.")
    return content


def _is_zip(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(2) == b"PK"


def _renamed(
    published: dict[str, Tensor], origin: str, net: Net, model: ModelSettings
) -> dict[str, Tensor]:
    """The tensors under this project's names; every key that does not fit is a problem."""
    with torch.device("meta"):
        network = build_from_settings(model.model_copy(update={"net": net}))
    wanted = network.state_dict()
    biases = {f"vae.encoder.{at}.bias": f"vae.encoder.{at + 1}.running_mean" for at in (0, 3, 6, 9)}
    if net == "vae":
        wanted |= {bias: wanted[mean] for bias, mean in biases.items()}
    names = {key: f"{net}.{_rename(key)}" for key in published}
    problems = [f"{key} is unexpected" for key, name in names.items() if name not in wanted]
    problems += [
        f"{key} is {tuple(published[key].shape)} and should be {tuple(wanted[name].shape)}"
        for key, name in names.items()
        if name in wanted and published[key].shape != wanted[name].shape
    ]
    found = set(names.values())
    problems += [f"{_published_name(name, net)} is missing" for name in wanted if name not in found]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{origin} is no published {net} network: {'; '.join(problems[:3])}{more}; give the "
            "file as it was published.",
            problems,
        )
    # Saved in half precision or not, the networks compute in float32.
    weights = {
        names[key]: tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in published.items()
    }
    if net == "vae":
        # A bias in front of a batch norm only shifts the mean that the norm takes away again.
        for bias, mean in biases.items():
            weights[mean] = weights[mean] - weights.pop(bias)
    return weights


def _rename(key: str) -> str:
    for pattern, replacement in _RENAMED:
        key = pattern.sub(replacement, key)
    return key


def _published_name(name: str, net: Net) -> str:
    """The inverse of `_rename`, for messages."""
    name = name.removeprefix(f"{net}.")
    name = re.sub(r"^(encoder|decoder)\.", r"\1.features.", name)
    name = re.sub(r"^mu\.", "encoder.mu.", name)
    name = re.sub(r"^head\.1\.", "fc.", name)
    name = re.sub(r"^head\.3\.", "fc2.", name)
    return re.sub(r"^backbone\.", "convnext_backbone.", name) if net == "vae" else name
