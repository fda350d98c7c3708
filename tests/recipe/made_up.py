"""Runs that nobody did: made-up scores of made-up clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from genconvit.overrides import parse_assignment, resolve_settings
from genconvit.recipe.recipes import Recipe
from genconvit.recipe.report import RecipesReport, make_report
from genconvit.recipe.runs import RunRecord

DRAWS = 200


def records(
    recipe: str, seeds: int, folds: int, clips: int, *, generator: np.random.Generator, lift: float
) -> list[RunRecord]:
    """Runs of a recipe that judged made-up clips; fakes score higher by `lift`."""
    fake = np.arange(clips) % 2 == 0
    names = [f"c{number:03d}" for number in range(clips)]
    found = []
    for seed in range(seeds):
        last = generator.normal(0, 1, clips) + lift * fake
        for fold in range(folds):
            held = [number for number in range(clips) if number // 2 % folds == fold]
            found.append(
                RunRecord(
                    recipe=recipe,
                    seed=seed,
                    fold=f"fold{fold + 1}",
                    settings={},
                    settings_digest="",
                    data_digest="",
                    clips=[names[number] for number in held],
                    labels=["fake" if fake[number] else "real" for number in held],
                    groups=[f"g{number // 4}" for number in held],
                    sources=[f"s{number // 4 % 2}" for number in held],
                    methods=[""] * len(held),
                    curve={1: [0.5] * len(held), 2: [float(last[number]) for number in held]},
                    seconds=1.0,
                    device="CPU",
                    failure=None,
                )
            )
    return found


def report(
    *names: str, features: Mapping[str, Mapping[str, Sequence[float]]] | None = None
) -> RecipesReport:
    """Three seeds and two folds of each, judged by the val split, too; the last one failed."""
    generator = np.random.default_rng(0)
    runs: list[RunRecord] = []
    for place, name in enumerate(names):
        own = records(name, 3, 2, 96, generator=generator, lift=0.5 + place)
        val = [
            run.model_copy(update={"fold": "val"})
            for run in records(name, 3, 1, 48, generator=generator, lift=0.5)
        ]
        if place == len(names) - 1:
            nothing = {"failure": "out of memory", "curve": {}, "clips": [], "seconds": None}
            own, val = ([run.model_copy(update=nothing) for run in each] for each in (own, val))
        runs += [*own, *val]
    recipes = [
        Recipe(name, resolve_settings(assignments=[parse_assignment(f"train.epochs={2 + place}")]))
        for place, name in enumerate(names)
    ]
    return make_report(
        recipes,
        runs,
        data="shards",
        data_digest="digest",
        folds=2,
        seeds=3,
        baseline=names[0],
        at_once=1,
        draws=DRAWS,
        features=features,
    )
