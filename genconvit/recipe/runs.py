"""The runs of recipes: which there are, and what is kept of each.

    OUT/runs/RECIPE-seedK-foldN.json     a fold held out of the train split
    OUT/runs/RECIPE-seedK-val.json       the whole train split, judged by the val split

A file is written when its run has ended, so that the same command goes on with those that are
missing. One that failed says why and is run again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genconvit.config import Settings
from genconvit.data.clip_table import ClipRecord
from genconvit.data.shards import digest_of
from genconvit.errors import UserError
from genconvit.files import read_json, write_json
from genconvit.recipe.recipes import Recipe, run_settings
from genconvit.wording import first_mistake

RUNS = "runs"
VAL = "val"


@dataclass(frozen=True)
class Run:
    """A run that there is to be.

    Attributes:
        recipe: The name of its recipe.
        settings: With its seed.
        fold: `fold1` and so on, or `val`.
        trained_on: Clips of the train split, by name.
        judged_by: Clips of the train split, or of the val split where the fold is `val`.
    """

    recipe: str
    settings: Settings
    fold: str
    trained_on: tuple[str, ...]
    judged_by: tuple[ClipRecord, ...]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.recipe}-seed{self.settings.seed}-{self.fold}"

    def epochs(self, every: int | None) -> set[int]:
        """The epochs after which it is judged."""
        last = self.settings.train.epochs
        return {last, *range(every or last, last + 1, every or last)}


class RunRecord(BaseModel):
    """The content of a run's file."""

    model_config = ConfigDict(frozen=True)

    recipe: str
    seed: int
    fold: str
    settings: dict[str, Any] = Field(description="What the run depends on, by dotted name.")
    settings_digest: str
    data_digest: str = Field(description="Of the shards, and of which clips do what.")
    clips: list[str] = Field(description="The clips that it judged, by name.")
    labels: list[str]
    groups: list[str]
    sources: list[str]
    methods: list[str]
    curve: dict[int, list[float]] = Field(
        description="P(fake) of each clip after some epochs; the last epoch is one of them."
    )
    seconds: float | None
    device: str
    failure: str | None

    @property
    def scores(self) -> list[float]:
        """P(fake) of each clip after the last epoch."""
        return self.curve[max(self.curve)]


def plan_runs(
    recipes: Sequence[Recipe],
    seeds: int,
    train: Sequence[ClipRecord],
    folds: Mapping[str, int],
    val: Sequence[ClipRecord] | None,
) -> list[Run]:
    """All runs, seed by seed, so that a command that is stopped leaves whole seeds.

    Args:
        recipes: The recipes.
        seeds: How many, from 0.
        train: The clips of the train split.
        folds: The fold of each, from 0; empty without cross-validation.
        val: Those of the val split; None where it stays closed.
    """
    parts: list[tuple[str, tuple[str, ...], tuple[ClipRecord, ...]]] = []
    for fold in sorted(set(folds.values())):
        learned = tuple(clip.name for clip in train if folds[clip.name] != fold)
        held = tuple(clip for clip in train if folds[clip.name] == fold)
        parts.append((f"fold{fold + 1}", learned, held))
    if val is not None:
        parts.append((VAL, tuple(clip.name for clip in train), tuple(val)))
    return [
        Run(recipe.name, recipe.of_seed(seed), *part)
        for seed in range(seeds)
        for recipe in recipes
        for part in parts
    ]


def record_of(
    run: Run,
    dataset_digest: str,
    *,
    clips: Sequence[str] = (),
    curve: Mapping[int, Sequence[float]] | None = None,
    seconds: float | None = None,
    device: str = "",
    failure: str | None = None,
) -> RunRecord:
    """What is kept of a run that has ended.

    Args:
        run: The run.
        dataset_digest: Of the shards.
        clips: The clips that it judged (C).
        curve: Their scores (C), by epoch.
        seconds: What it took.
        device: The name of what it was computed on.
        failure: Why it failed.
    """
    known = {clip.name: clip for clip in run.judged_by}
    judged = [known[name] for name in clips]
    settings = run_settings(run.settings)
    return RunRecord(
        recipe=run.recipe,
        seed=run.settings.seed,
        fold=run.fold,
        settings=settings,
        settings_digest=_settings_digest(settings),
        data_digest=_data_digest(run, dataset_digest),
        clips=list(clips),
        labels=[clip.label for clip in judged],
        groups=[clip.group for clip in judged],
        sources=[clip.source for clip in judged],
        methods=[clip.method for clip in judged],
        curve={epoch: list(scores) for epoch, scores in (curve or {}).items()},
        seconds=seconds,
        device=device,
        failure=failure,
    )


def write_record(out: Path, run: Run, record: RunRecord) -> None:
    """Writes a run's file, whole or not at all."""
    write_json(_path(out, run), record.model_dump(mode="json"))


def finished(out: Path, run: Run, dataset_digest: str, every: int | None) -> RunRecord | None:
    """The record of a run that is done; None where it is missing, failed, or lacks epochs.

    Args:
        out: The folder of the command.
        run: The run.
        dataset_digest: Of the shards.
        every: See `Run.epochs`.

    Raises:
        UserError: It was done with other settings, or with other clips or folds.
    """
    path = _path(out, run)
    if not path.is_file():
        return None
    try:
        record = RunRecord.model_validate(read_json(path, "a run's record"))
    except ValidationError as error:
        raise UserError(f"{path} is damaged ({first_mistake(error)}); remove it.") from error
    if record.failure is not None:
        return None
    now = run_settings(run.settings)
    if record.settings_digest != _settings_digest(now):
        other = [name for name in now if record.settings.get(name) != _plain(now[name])]
        name = (other or ["a setting"])[0]
        raise UserError(
            f"{path} was run with {name}={record.settings.get(name)}, and now it is "
            f"{now.get(name)}; give another --out, or the recipe another name."
        )
    if record.data_digest != _data_digest(run, dataset_digest):
        raise UserError(
            f"{path} was run on other shards or with other --folds; give those, or another --out."
        )
    return record if run.epochs(every) <= set(record.curve) else None


def _path(out: Path, run: Run) -> Path:
    return out / RUNS / f"{run.name}.json"


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return json.loads(json.dumps(value, default=str))


def _settings_digest(settings: Mapping[str, Any]) -> str:
    return digest_of([json.dumps(settings, sort_keys=True, default=str)])


def _data_digest(run: Run, dataset_digest: str) -> str:
    judged = sorted(clip.name for clip in run.judged_by)
    return digest_of([dataset_digest, *sorted(run.trained_on), "", *judged])
