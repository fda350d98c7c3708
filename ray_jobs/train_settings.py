"""Whether data and settings allow training, before anything is started."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from genconvit.checkpoint import read_info
from genconvit.config import Settings
from genconvit.data.detectors import with_detector_digest
from genconvit.data.shards import FrameDataset
from genconvit.data.training_data import TrainingData, check_mix
from genconvit.errors import UserError
from genconvit.models.registry import build_from_settings
from genconvit.overrides import resolve_settings
from genconvit.storage import absolute, is_url
from genconvit.train.loggers import check_loggers
from genconvit.train.run_folder import SETTINGS
from genconvit.trainable import check_trainable, without_idle_heads
from ray_jobs.options import Given

OF_A_NEW_RUN = {"dropout_rate", "drop_path_rate"}
"""Settings of a network that `--init` leaves to the new run: they change none of its weights."""


def refuse_missing(data: Sequence[str | Path]) -> None:
    """Whether there is something at every `--data`.

    Raises:
        UserError: There is not.
    """
    for one in data:
        if not is_url(one) and not Path(one).exists():
            raise UserError(f"{one} does not exist; check --data.")


def refuse_unwritable(out: Path) -> None:
    """Whether a run can be kept in a folder, told before anything is read or extracted.

    Raises:
        UserError: It cannot.
    """
    there = out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as probe:
            probe.write(b"probe")
            probe.flush()
        if not there:
            out.rmdir()
    except OSError as error:
        raise UserError(
            f"{out} cannot be written to ({error.strerror}); choose another --out."
        ) from error


def resumed_settings(folder: Path, out: Path | None, given: Given) -> Settings:
    """The settings in the folder of what goes on, and what the command line changes of them.

    Raises:
        UserError: `--out` names another folder.
    """
    if out is not None and out.resolve() != folder.resolve():
        raise UserError(f"--resume continues in {folder}; leave --out away.")
    return given.settings(base=resolve_settings(folder / SETTINGS))


def settings_for(
    dataset: FrameDataset | TrainingData,
    settings: Settings,
    *,
    begun: bool = False,
    validated: bool = True,
) -> Settings:
    """The settings with the dataset's preprocessing, checked against its crops.

    Args:
        dataset: What is trained on.
        settings: As asked for.
        begun: They are those of a run that goes on: what it began from is no longer needed.
        validated: The val split is read, unless they say `train.train_on_val`.

    Raises:
        UserError: The dataset was extracted otherwise than asked for, lacks a class or a
            validation split, or the settings leave a part of the network without a gradient.
    """
    preprocess = settings.preprocess
    asked = bool(preprocess.model_fields_set)
    if asked and with_detector_digest(preprocess).fingerprint() != dataset.preprocess.fingerprint():
        raise UserError(
            f"{dataset.path} was extracted with other preprocess settings than those given; "
            f"leave them out, or extract again."
        )
    if isinstance(dataset, TrainingData):
        check_mix(dataset, settings.stream)
    for label in ("fake", "real"):
        blended = label == "fake" and settings.augment.self_blend > 0
        if not dataset.counts["train"].get(label) and not blended:
            hint = " (or augment.self_blend, which makes fakes of real crops)"
            raise UserError(
                f"{dataset.path} has no {label} crops in its train split; training needs both "
                f"classes{hint if label == 'fake' else ''}."
            )
    needs_val = validated and not settings.train.train_on_val
    if needs_val and not any(dataset.counts["val"].values()):
        raise UserError(
            f"{dataset.path} has no val split; extract with split.val_fraction=0.2 or so."
        )
    check_loggers(settings.train.log_to)
    if settings.train.init is not None:  # workers have another current folder
        init = absolute(settings.train.init)
        train = settings.train.model_copy(update={"init": init})
        settings = settings.model_copy(update={"train": train})
    if not begun:
        settings = _as_its_beginning(settings, dataset)
    model = without_idle_heads(settings.model, settings.loss)
    if model.weights is not None:  # workers have another current folder
        model = model.model_copy(update={"weights": model.weights.resolve()})
    check_trainable(model, settings.loss)
    with torch.device("meta"):  # what does not fit is told here, not by a worker
        build_from_settings(model.model_copy(update={"pretrained": False, "weights": None}))
    sampling = settings.sampling if settings.sampling.model_fields_set else dataset.sampling
    return settings.model_copy(
        update={"preprocess": dataset.preprocess, "sampling": sampling, "model": model}
    )


def _as_its_beginning(settings: Settings, dataset: FrameDataset | TrainingData) -> Settings:
    """The settings with the network and the decision of the detector that `train.init` names.

    Raises:
        UserError: There is no such detector, it is another network than asked for, or it takes
            crops that were made otherwise.
    """
    if settings.train.init is None:
        return settings
    place = settings.train.init
    info = read_info(place)
    chosen = {name: getattr(settings.model, name) for name in settings.model.model_fields_set}
    for name, value in chosen.items():
        if name not in OF_A_NEW_RUN and value != getattr(info.model, name):
            raise UserError(
                f"--init {place} has model.{name}={getattr(info.model, name)}, and {value} is "
                f"asked for; leave model.{name} out."
            )
    if info.preprocess.fingerprint() != dataset.preprocess.fingerprint():
        raise UserError(
            f"--init {place} takes crops of preprocessing {info.preprocess.fingerprint()}, and "
            f"{dataset.path} has {dataset.preprocess.fingerprint()}; extract the clips with the "
            "detector's preprocess settings."
        )
    kept = {name: value for name, value in chosen.items() if name in OF_A_NEW_RUN}
    return settings.model_copy(
        update={
            "model": info.model.model_copy(update=kept),
            "decision": settings.decision if settings.decision.model_fields_set else info.decision,
        }
    )


def data_summary(dataset: TrainingData) -> dict[str, Any]:
    """What results.json says of the data."""
    return {"path": dataset.path, "digest": dataset.digest, "crops": dataset.counts}
