"""Which training recipe generalises: recipes x seeds x folds on the same crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import ray

from genconvit.data.audit.measure import Features
from genconvit.data.clip_table import ClipRecord
from genconvit.data.leakage import leak_sentences
from genconvit.data.shards import FrameDataset, is_dataset
from genconvit.data.training_data import TrainingData, refuse_leaks
from genconvit.errors import UserError
from genconvit.evaluate.metrics import binary_scores
from genconvit.files import locked, write_json
from genconvit.overrides import Assignment
from genconvit.recipe.folds import assign_folds, refuse_one_sided
from genconvit.recipe.plots import draw_recipes
from genconvit.recipe.recipes import Recipe, read_recipes
from genconvit.recipe.report import RecipesReport, make_report
from genconvit.recipe.resident import clips_of
from genconvit.recipe.runs import Run, RunRecord, finished, plan_runs, write_record
from genconvit.wording import listed, plural
from ray_jobs.bench_recipe_runs import fit_runs
from ray_jobs.bench_recipe_table import show
from ray_jobs.clip_features import split_features
from ray_jobs.cluster import connected
from ray_jobs.extract import dataset_for
from ray_jobs.failures import reason_of
from ray_jobs.options import Given
from ray_jobs.output import Output, new_out_folder
from ray_jobs.train_settings import refuse_missing, refuse_unwritable, settings_for

RECIPES = Path(__file__).parents[1] / "configs" / "recipes.yaml"
EXTRACTION = ("preprocess", "sampling", "split", "extract")
"""Sections that say how crops are made of clips."""
BASELINE = "ours"
REPORT = "recipes.json"


@dataclass(frozen=True)
class Plan:
    """What is trained and judged.

    Attributes:
        only: Some of the recipes, in this order; none: all.
        seeds: Runs of each recipe and fold.
        folds: Of the train split; 0 without cross-validation.
        validate: Also train on the whole train split, and judge by the val split.
        every: Also judge after each so many epochs.
        baseline: The recipe that others are compared with; by default `ours`, else the first one.
        at_once: Runs that share a GPU, or a machine without one.
        allow_leakage: Judge even by clips that are known from training.
    """

    only: tuple[str, ...] = ()
    seeds: int = 3
    folds: int = 5
    validate: bool = False
    every: int | None = None
    baseline: str | None = None
    at_once: int = 1
    allow_leakage: bool = False


def bench_recipe(
    data: str,
    given: Given,
    output: Output,
    plan: Plan,
    *,
    recipes: Path | None = None,
    out: Path | None = None,
) -> RecipesReport:
    """Trains and judges what is not done yet, and writes recipes.json and figures.

    Args:
        data: Shards, or clips, which are extracted first.
        given: Settings that all recipes have in common, and those of the extraction.
        output: Where to tell of it.
        plan: What is trained and judged.
        recipes: YAML file; by default `configs/recipes.yaml`.
        out: Folder for the results; runs that are done there are not done again.

    Raises:
        UserError: The recipes, the data or the cluster do not allow it, or every run failed.
    """
    if plan.folds == 1 or (plan.folds == 0 and not plan.validate):
        raise UserError("give --folds 2 or more, or --folds 0 with --validate.")
    of_crops, common = _divided(given)
    asked = read_recipes(
        recipes or RECIPES, only=plan.only, config=given.config, assignments=common
    )
    baseline = _baseline(asked, plan.baseline)
    out = (out or new_out_folder("bench-recipe")).resolve()
    refuse_missing([data])
    if of_crops and is_dataset(data):
        raise UserError(
            f"{of_crops[0].origin}: {data} holds shards, whose crops are made already; leave it "
            "out, or give --data the clips."
        )
    refuse_unwritable(out)
    with locked(out, partial(_refuse_busy, out)), connected(output) as ray_logs:
        dataset = dataset_for(data, Given(None, of_crops).settings(), output)
        asked = [_fitted(recipe, dataset, plan) for recipe in asked]
        runs = _plan_runs(asked, dataset, plan)
        found = [finished(out, run, dataset.digest, plan.every) for run in runs]
        done = {run.name: one for run, one in zip(runs, found, strict=True) if one is not None}
        todo = [run for run in runs if run.name not in done]
        output.say(
            f"{plural(len(asked), 'recipe')}, {plural(plan.seeds, 'seed')}, {_ways(plan)}: "
            f"{plural(len(runs), 'run')}, {len(done)} of them done already.\n"
            f"Results: {out}\nRay's logs: {ray_logs}"
        )
        with output.bar("training", total=sum(run.settings.train.epochs for run in todo)) as bar:

            def on_record(run: Run, record: RunRecord) -> None:
                write_record(out, run, record)
                done[run.name] = record
                _tell(record, output)

            if todo:
                fit_runs(
                    todo,
                    dataset,
                    at_once=plan.at_once,
                    every=plan.every,
                    on_epoch=bar.advance,
                    on_record=on_record,
                )
        features, unread = _features(dataset, plan)
    records = [done[run.name] for run in runs]
    report = make_report(
        asked,
        records,
        data=dataset.path,
        data_digest=dataset.digest,
        folds=plan.folds,
        seeds=plan.seeds,
        baseline=baseline,
        at_once=plan.at_once,
        features=features,
    )
    report = report.model_copy(update={"notes": [*report.notes, *unread]})
    write_json(out / REPORT, report.model_dump(mode="json"))
    figures = draw_recipes(out, report)
    show(report, output)
    output.say(f"Results: {out / REPORT}\n" + "\n".join(f"Figure: {path}" for path in figures))
    output.emit({"event": "bench", "out": str(out), **report.model_dump(mode="json")})
    if all(record.failure is not None for record in records):
        raise UserError(f"every run failed; the first: {records[0].failure}")
    return report


def _divided(given: Given) -> tuple[list[Assignment], list[Assignment]]:
    """What the command line says of the extraction, and of all recipes."""
    of_crops = [one for one in given.assignments if one.name.split(".")[0] in EXTRACTION]
    return of_crops, [one for one in given.assignments if one not in of_crops]


def _refuse_busy(out: Path) -> None:
    raise UserError(f"another process is training in {out}; wait for it, or stop it first.")


def _baseline(recipes: Sequence[Recipe], asked: str | None) -> str:
    names = [recipe.name for recipe in recipes]
    if asked is None:
        return BASELINE if BASELINE in names else names[0]
    if asked not in names:
        raise UserError(f"--baseline {asked}: the recipes are {listed(names)}.")
    return asked


def _fitted(recipe: Recipe, dataset: FrameDataset, plan: Plan) -> Recipe:
    """A recipe with what training takes from the data, checked before anything is trained."""
    try:
        settings = settings_for(TrainingData.of(dataset), recipe.settings, validated=plan.validate)
    except UserError as error:
        raise UserError(f"recipe {recipe.name}: {error}") from error
    return replace(recipe, settings=settings)


def _plan_runs(recipes: Sequence[Recipe], dataset: FrameDataset, plan: Plan) -> list[Run]:
    train = clips_of(dataset, "train")
    folds = assign_folds(train, plan.folds) if plan.folds else {}
    blended = all(recipe.settings.augment.self_blend > 0 for recipe in recipes)
    refuse_one_sided(train, folds, blended)
    _refuse_leaking_folds(dataset, train, folds, plan.allow_leakage)
    val: list[ClipRecord] | None = None
    if plan.validate:
        refuse_leaks(TrainingData.of(dataset), plan.allow_leakage)
        val = clips_of(dataset, "val")
    return plan_runs(recipes, plan.seeds, train, folds, val)


def _refuse_leaking_folds(
    dataset: FrameDataset, clips: Sequence[ClipRecord], folds: dict[str, int], allowed: bool
) -> None:
    """Groups are whole in a fold; the same file in two groups would still be in two folds."""
    if not folds or allowed:
        return
    split = [replace(clip, split=f"fold {folds[clip.name] + 1}") for clip in clips]
    leaks = leak_sentences(split)
    if leaks:
        raise UserError(
            f"{dataset.path} leaks between folds: {leaks[0].rstrip('.').replace('split', 'fold')}; "
            "genconvit audit tells all, and --allow-leakage trains all the same."
        )


def _features(
    dataset: FrameDataset, plan: Plan
) -> tuple[dict[str, dict[str, Features]], list[str]]:
    """What is measured of the crops of each split that judges, and why it could not be."""
    found, notes = {}, []
    for split in (["train"] if plan.folds else []) + (["val"] if plan.validate else []):
        try:
            found[split] = split_features(dataset, split)
        except ray.exceptions.RayError as error:  # what was trained is worth something without
            notes.append(f"The crops of the {split} split were not measured: {reason_of(error)}")
    return found, notes


def _ways(plan: Plan) -> str:
    ways = [plural(plan.folds, "fold")] if plan.folds else []
    return listed([*ways, *(["the val split"] if plan.validate else [])])


def _tell(record: RunRecord, output: Output) -> None:
    """A line a run."""
    name = f"{record.recipe} seed {record.seed} {record.fold}"
    event = {"event": "run", "recipe": record.recipe, "seed": record.seed, "fold": record.fold}
    if record.failure is not None:
        output.note(f"{name} failed: {record.failure}")
        output.emit({**event, "failure": record.failure})
        return
    auc = binary_scores([label == "fake" for label in record.labels], record.scores)["auc"]
    shown = "one class only" if auc is None else f"AUC {auc:.3f}"
    output.say(f"{name}  {shown}  {record.seconds:.1f} s")
    output.emit({**event, "auc": auc, "seconds": record.seconds, "device": record.device})
