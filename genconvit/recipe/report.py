"""What a comparison of recipes found: the content of recipes.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from genconvit.evaluate.resampling import DRAWS, few_groups
from genconvit.recipe.figures import ViewResult, view_result
from genconvit.recipe.recipes import Recipe, differences
from genconvit.recipe.runs import VAL, RunRecord
from genconvit.wording import listed, plural

VIEWS = {"cv": "cross-validation", "val": "val split"}
"""How recipes are judged, by the report's field."""


class RecipeResult(BaseModel):
    """A recipe, and what became of its runs."""

    model_config = ConfigDict(frozen=True)

    name: str
    settings: dict[str, Any] = Field(description="What differs from the baseline's.")
    runs: int = Field(description="Those that are done.")
    minutes: float | None = Field(description="Of a run, the mean.")
    failures: dict[str, str] = Field(description="Why runs failed, by seed and fold.")


class RecipesReport(BaseModel):
    """The content of recipes.json."""

    model_config = ConfigDict(frozen=True)

    data: str
    data_digest: str
    folds: int = Field(description="Of the train split; 0 without cross-validation.")
    seeds: int
    baseline: str
    draws: int = Field(description="Draws of groups of clips behind the 95 % intervals.")
    at_once: int = Field(description="Runs that shared a GPU, or a machine without one.")
    devices: list[str]
    recipes: list[RecipeResult]
    cv: ViewResult | None = Field(description="Clips of the train split, each judged held out.")
    val: ViewResult | None = Field(description="Clips of the val split.")
    notes: list[str]

    @property
    def views(self) -> Iterator[tuple[str, ViewResult]]:
        """Those that there are, by title."""
        for name, title in VIEWS.items():
            view: ViewResult | None = getattr(self, name)
            if view is not None:
                yield title, view


def make_report(
    recipes: Sequence[Recipe],
    records: Sequence[RunRecord],
    *,
    data: str,
    data_digest: str,
    folds: int,
    seeds: int,
    baseline: str,
    at_once: int,
    draws: int = DRAWS,
    features: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> RecipesReport:
    """Puts runs together.

    Args:
        recipes: All recipes.
        records: Of all their runs, those that failed too.
        data: Where the shards are.
        data_digest: Of them.
        folds: Of the train split; 0 without.
        seeds: Of each recipe.
        baseline: The recipe that others are compared with.
        at_once: Runs that shared a device.
        draws: Sets of groups to draw.
        features: Of the clips of each split, by name; without a split whose crops could not be
            measured.
    """
    done = [record for record in records if record.failure is None]
    own = {recipe.name: [r for r in done if r.recipe == recipe.name] for recipe in recipes}
    first = next(recipe for recipe in recipes if recipe.name == baseline).settings
    held_out = {name: [r for r in runs if r.fold != VAL] for name, runs in own.items()}
    by_val = {name: [r for r in runs if r.fold == VAL] for name, runs in own.items()}
    results = [
        RecipeResult(
            name=recipe.name,
            settings=differences(recipe.settings, first),
            runs=len(own[recipe.name]),
            minutes=_minutes(own[recipe.name]),
            failures={
                f"seed {r.seed}, {r.fold}": r.failure
                for r in records
                if r.recipe == recipe.name and r.failure is not None
            },
        )
        for recipe in recipes
    ]
    cv, val = (
        view_result(runs, count, baseline, draws, (features or {}).get(split))
        if any(runs.values())
        else None
        for runs, count, split in ((held_out, folds, "train"), (by_val, 1, "val"))
    )
    return RecipesReport(
        data=data,
        data_digest=data_digest,
        folds=folds,
        seeds=seeds,
        baseline=baseline,
        draws=draws,
        at_once=at_once,
        devices=sorted({record.device for record in done}),
        recipes=results,
        cv=cv,
        val=val,
        notes=[
            *_notes(VIEWS["cv"], cv, held_out, seeds),
            *_notes(VIEWS["val"], val, by_val, seeds),
        ],
    )


def _minutes(records: Sequence[RunRecord]) -> float | None:
    seconds = [record.seconds for record in records if record.seconds is not None]
    return fmean(seconds) / 60 if seconds else None


def _notes(
    title: str, view: ViewResult | None, records: Mapping[str, Sequence[RunRecord]], seeds: int
) -> list[str]:
    if view is None:
        return []
    notes = []
    groups = {
        name: group
        for runs in records.values()
        for record in runs
        for name, group in zip(record.clips, record.groups, strict=True)
    }
    notes += [f"{title.capitalize()}: {note}" for note in few_groups([*groups.values()])]
    short = [name for name, whole in view.seeds.items() if 0 < len(whole) < seeds]
    if short:
        notes.append(
            f"{title.capitalize()}: {listed(short)} failed in a part of {plural(seeds, 'seed')}; "
            "the figures are of the others."
        )
    return notes + _probe_notes(title.capitalize(), view)


def _probe_notes(title: str, view: ViewResult) -> list[str]:
    """Warnings of each recipe, and what could not be measured, which is the same for most."""
    notes = [
        f"{title}, {name}: {warning}"
        for name, probes in view.score_probes.items()
        for warning in probes.warnings
    ]
    reasons: dict[str, list[str]] = {}
    for name, probes in view.score_probes.items():
        for reason in probes.reasons:
            reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        whose = "" if len(names) == len(view.score_probes) else f", {listed(names)}"
        notes.append(f"{title}{whose}, what scores follow: {reason}")
    return notes
