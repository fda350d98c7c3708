"""Variants of a comparison: what the user wrote, and the runs and detectors that it stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from genconvit.checkpoint import DESCRIPTION, load_network
from genconvit.config import ModelSettings, Settings
from genconvit.data.training_data import TrainingData
from genconvit.errors import UserError
from genconvit.overrides import Assignment, resolve_settings
from genconvit.storage import is_url
from genconvit.train.run_folder import SETTINGS, RunFolder
from ray_jobs.options import Given
from ray_jobs.train_settings import data_summary, settings_for

ARCHITECTURES = get_args(ModelSettings.model_fields["arch"].annotation)
SHARED_ALONE = (
    *("train.num_workers", "train.device", "seed"),
    *("split.", "preprocess.", "sampling.", "decision.", "tune.", "serve."),
)
"""Settings that all variants have in common, or their results could not be compared."""


@dataclass(frozen=True)
class Variant:
    """A variant as the user wrote it: settings to train with, or a detector to load."""

    name: str
    assignments: list[Assignment] = field(default_factory=list)
    detector: str | None = None

    @property
    def slug(self) -> str:
        """Its name as a part of file names."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", self.name).strip("-.")


@dataclass(frozen=True)
class Run:
    """One detector of a variant.

    Attributes:
        variant: The variant's name.
        detector: Its folder or URL.
        seed: Of its training; None where it was loaded.
        folder: Its training run; None where it was loaded.
    """

    variant: str
    detector: str
    seed: int | None = None
    folder: RunFolder | None = None


def parse_variant(text: str) -> Variant:
    """Reads `ARCH[,setting=value...]`, or the folder or URL of a detector or of a run.

    A setting without a section is one of `model`.

    Raises:
        UserError: It is neither, or sets what all variants share.
    """
    arch, *switches = _split(text)
    if arch in ARCHITECTURES:
        assignments = [Assignment("model.arch", arch, f"variant {text}")]
        return Variant(text, assignments + [_switch(switch, text) for switch in switches])
    if is_url(text):
        return Variant(text, detector=text)
    for folder in (Path(text), Path(text) / "best"):
        if (folder / DESCRIPTION).is_file():
            return Variant(text, detector=str(folder.resolve()))
    raise UserError(
        f"variant {text}: there is neither such an architecture ({', '.join(ARCHITECTURES)}) nor "
        "a detector in such a folder; write v2,attention=false or RUN/best."
    )


def check_variant(variant: Variant, given: Given, data: Path | None) -> None:
    """What can be told of a variant without a cluster and without its data.

    Raises:
        UserError: Its settings do not fit each other, its detector is damaged, or there is nothing
            to train on.
    """
    if variant.detector is not None:
        load_network(variant.detector)
    elif data is None:
        raise UserError(f"variant {variant.name} must be trained; give --data.")
    else:
        if _settings_of(variant, given, 0).train.train_on_val:
            raise UserError(
                f"variant {variant.name}: compare validates what it trains, and "
                "train.train_on_val leaves nothing to validate by; leave it out."
            )


def plan_runs(
    variant: Variant, given: Given, seeds: Sequence[int], dataset: TrainingData | None, out: Path
) -> list[Run]:
    """The detectors that a variant stands for: one a seed, or the one that is loaded.

    Args:
        variant: One that `check_variant` let pass.
        given: What all variants have in common.
        seeds: Of the trainings.
        dataset: To train on; None where every variant is loaded.
        out: The comparison's folder.

    Raises:
        UserError: Its settings do not fit the data or a run that was begun in `out`.
    """
    if variant.detector is not None or dataset is None:
        return [Run(variant.name, variant.detector or "")]
    runs = []
    for seed in seeds:
        settings = _settings_of(variant, given, seed, dataset)
        path = out / "variants" / variant.slug / f"seed{seed}"
        folder = RunFolder(path, settings, data_summary(dataset))
        folder.check()
        _refuse_other_budget(folder)
        runs.append(Run(variant.name, str(folder.best), seed, folder))
    return runs


def _settings_of(
    variant: Variant, given: Given, seed: int, dataset: TrainingData | None = None
) -> Settings:
    own = [*variant.assignments, Assignment("seed", str(seed), f"seed {seed}")]
    try:
        settings = resolve_settings(given.config, [*given.assignments, *own])
        return settings_for(dataset, settings) if dataset else settings
    except UserError as error:
        raise UserError(f"variant {variant.name}: {error}") from error


def _refuse_other_budget(folder: RunFolder) -> None:
    """A run may go on with more epochs; variants that were given different ones do not compare."""
    if not (folder.path / SETTINGS).is_file():
        return
    begun = resolve_settings(folder.path / SETTINGS).train
    for name in ("epochs", "early_stopping_patience", "early_stopping_min_delta"):
        if getattr(begun, name) != getattr(folder.settings.train, name):
            raise UserError(
                f"{folder.path} was begun with train.{name}={getattr(begun, name):g}; give that, "
                "or another --out."
            )


def _split(text: str) -> list[str]:
    """Parts between commas, but for those inside lists and mappings."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _switch(switch: str, variant: str) -> Assignment:
    name, equals, value = (part.strip() for part in switch.partition("="))
    if not equals:
        raise UserError(f"variant {variant}: write setting=value, not {switch!r}.")
    if name.startswith(SHARED_ALONE):
        raise UserError(f"variant {variant}: {name} is the same for all; give it beside them.")
    full = name if "." in name else f"model.{name}"
    return Assignment(full, value, f"{switch} of variant {variant}")
