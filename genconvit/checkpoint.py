"""A detector on disk: everything that is needed to judge a clip, in one folder.

DETECTOR/model.safetensors    the weights
DETECTOR/detector.json        network, preprocessing, decision and how it was trained
(`DetectorInfo`)
DETECTOR/README.md            the model card
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genconvit.config import (
    CLASSES,
    DecisionSettings,
    ModelSettings,
    PreprocessSettings,
    SamplingSettings,
    Settings,
)
from genconvit.errors import UserError
from genconvit.files import read_json, replaced_folder, write_json
from genconvit.model_card import model_card
from genconvit.models.registry import build_from_settings

WEIGHTS = "model.safetensors"
DESCRIPTION = "detector.json"
CARD = "README.md"


class DetectorInfo(BaseModel):
    """What `detector.json` holds."""

    model_config = ConfigDict(protected_namespaces=())

    format: Literal[1] = 1
    classes: tuple[str, str] = CLASSES
    model: ModelSettings
    preprocess: PreprocessSettings
    sampling: SamplingSettings
    decision: DecisionSettings
    training: dict[str, Any] = Field(
        default_factory=dict,
        description="Seed, epoch, data digest, loss weights, validation metrics, versions.",
    )
    preprocess_fingerprint: str = ""
    weights_sha256: str = ""

    @property
    def id(self) -> str:
        """Short name of these exact weights."""
        return f"{self.model.arch}-{self.model.preset}-{self.weights_sha256[:8]}"

    def settings(self) -> Settings:
        """The settings that a detector brings along."""
        return Settings(
            model=self.model,
            preprocess=self.preprocess,
            sampling=self.sampling,
            decision=self.decision,
        )

    def summary(self) -> dict[str, Any]:
        """What a report says of the detector."""
        return {
            "id": self.id,
            "weights_sha256": self.weights_sha256,
            "preprocess_fingerprint": self.preprocess_fingerprint,
            "model": self.model.model_dump(mode="json"),
            "preprocess": self.preprocess.model_dump(mode="json"),
            "training": self.training,
        }


def save_detector(
    path: Path,
    weights: dict[str, Tensor],
    info: DetectorInfo,
    extra: dict[str, bytes] | None = None,
) -> DetectorInfo:
    """Writes a detector's folder aside, then puts it in place.

    Args:
        path: The folder; an older one there is replaced.
        weights: The network's state dict.
        info: Its description; the digests are filled in here.
        extra: Further files by name.

    Returns:
        The description as written.
    """
    with replaced_folder(path) as aside:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        save_file(tensors, aside / WEIGHTS)
        info = info.model_copy(
            update={
                "weights_sha256": _sha256(aside / WEIGHTS),
                "preprocess_fingerprint": info.preprocess.fingerprint(),
            }
        )
        write_json(aside / DESCRIPTION, info.model_dump(mode="json"))
        card = model_card(info.model_dump(mode="json"), info.id)
        (aside / CARD).write_text(card, encoding="utf-8")
        for name, content in (extra or {}).items():
            (aside / name).write_bytes(content)
    return info


def read_info(path: Path) -> DetectorInfo:
    """Reads a detector's description.

    Raises:
        UserError: `path` is no detector, or it is damaged.
    """
    if path.is_file():
        raise UserError(
            f"{path} is a file; a detector is a folder with {WEIGHTS} and {DESCRIPTION}, "
            f"such as the best/ that genconvit train writes."
        )
    if not path.is_dir():
        raise UserError(f"{path} does not exist; give the folder of a detector.")
    if not (path / DESCRIPTION).is_file():
        inner = path / "best"
        hint = f"; did you mean {inner}?" if (inner / DESCRIPTION).is_file() else "."
        raise UserError(f"{path} holds no {DESCRIPTION}, so it is no detector{hint}")
    content = read_json(path / DESCRIPTION, "the detector's description")
    try:
        info = DetectorInfo.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path / DESCRIPTION}: {where}: {first['msg']}; it is damaged or from another version."
        ) from None
    if info.preprocess_fingerprint != info.preprocess.fingerprint():
        raise UserError(
            f"{path / DESCRIPTION} was edited: its preprocessing is not the one it was trained "
            "with; "
            f"restore the file."
        )
    return info


def load_network(path: Path) -> tuple[nn.Module, DetectorInfo]:
    """Builds the network of a detector and loads its weights, in eval mode on the CPU.

    Raises:
        UserError: `path` is no detector, or it is damaged.
    """
    info = read_info(path)
    file = path / WEIGHTS
    if not file.is_file():
        raise UserError(f"{path} holds no {WEIGHTS}; copy the whole folder.")
    if _sha256(file) != info.weights_sha256:
        raise UserError(f"{file} is damaged or was exchanged: its digest is not the recorded one.")
    # The weights are in the file: nothing is fetched or read for the start.
    network = build_from_settings(
        info.model.model_copy(update={"pretrained": False, "weights": None})
    )
    try:
        network.load_state_dict(load_file(file))
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{file} does not fit the network of {DESCRIPTION}: {reason}") from error
    return network.eval(), info


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
