"""What `genconvit bench recipe` shows."""

from __future__ import annotations

from rich import box
from rich.table import Table

from genconvit.evaluate.shortcuts import FAMILIES, SOURCE, FamilyProbe
from genconvit.recipe.figures import ALL, PAIRS, SetResult, ViewResult
from genconvit.recipe.report import RecipesReport
from genconvit.wording import plural, shortened
from ray_jobs.output import Output

SHORT = {"cross-validation": "CV", "val split": "val"}
MOST_LETTERS = 24


def show(report: RecipesReport, output: Output) -> None:
    """A table of all recipes, one of their differences, and others where there is more to say."""
    output.say(_recipes(report))
    output.say(_clips(report))
    if any(name != report.baseline for _, view in report.views for name in view.sets[0].results):
        output.say(_differences(report))
        output.say("Difference of AUC, with the same draws of groups for both; * excludes 0.")
    for title, view in report.views:
        if any(one.name not in (ALL, PAIRS) for one in view.sets):
            output.say(_sources(title, view, report))
        if any(len(own) > 1 for own in view.curve.values()):
            output.say(_epochs(title, view))
    if any(family for _, view in report.views for family in _measured(view)):
        output.say(_follows(report))
        output.say(
            "What scores follow: Spearman correlation, within each class, of the score with what "
            "is predicted of it in groups not learned from; about 0 or below is nothing."
        )
    for recipe in report.recipes:
        for run, reason in recipe.failures.items():
            output.warn(f"{recipe.name}, {run}: {reason}")
    for note in report.notes:
        output.warn(note)


def _clips(report: RecipesReport) -> str:
    """What the table's columns are, and of which clips."""
    clips = "; ".join(
        f"{SHORT[title]}: {one.fake} fake and {one.real} real clips, {plural(view.pairs, 'pair')}"
        for title, view in report.views
        for one in view.sets[:1]
    )
    return (
        "AUC over clips, of the mean score of all seeds, with 95 % interval. seeds: AUC of each "
        "alone, mean and range. pairs: AUC over clips whose group and source have both classes; "
        "right: pairs in which the fake scores higher. min: of a run."
        + (f" {clips}." if clips else "")
    )


def _recipes(report: RecipesReport) -> Table:
    views = [(SHORT[title], view) for title, view in report.views]
    table = _table("recipe", "by", "AUC", "seeds", "pairs", "right", "min")
    for recipe in report.recipes:
        minutes = "" if recipe.minutes is None else _minutes(recipe.minutes)
        name = _short(recipe.name)
        if not views:
            table.add_row(name, "", "failed")
        for short, view in views:
            table.add_row(name, short, *_cells(recipe.name, view), minutes)
            name = minutes = ""
    return table


def _cells(name: str, view: ViewResult) -> list[str]:
    sets = {one.name: one for one in view.sets}
    result = sets[ALL].results.get(name)
    if result is None:
        return ["failed", "", "", ""]
    cells = [result.auc.text(), _seeds(result), "", ""]
    if view.pairs:
        share = view.pairs_right[name].value or 0.0
        cells[2:] = [sets[PAIRS].results[name].auc.value_text(), f"{100 * share:.0f} %"]
    return cells


def _seeds(result: SetResult) -> str:
    known = [auc for auc in result.seeds if auc is not None]
    if result.mean is None:
        return ""
    return f"{result.mean:.3f} ({min(known):.2f}-{max(known):.2f})"


def _minutes(minutes: float) -> str:
    return f"{minutes:.1f}" if minutes >= 1 else f"{minutes:.2f}"


def _differences(report: RecipesReport) -> Table:
    table = _table(f"less {_short(report.baseline)}", "by", ALL, PAIRS)
    for recipe in report.recipes:
        name = _short(recipe.name)
        for title, view in report.views if recipe.name != report.baseline else ():
            sets = {one.name: one.results.get(recipe.name) for one in view.sets}
            if sets[ALL] is None:
                continue
            table.add_row(name, SHORT[title], *(_difference(sets.get(one)) for one in (ALL, PAIRS)))
            name = ""
    return table


def _difference(result: SetResult | None) -> str:
    if result is None or result.difference.value is None:
        return ""
    return result.difference.difference() + (" *" if result.difference.excludes_zero else "  ")


def _sources(title: str, view: ViewResult, report: RecipesReport) -> Table:
    sets = [one for one in view.sets if one.name not in (ALL, PAIRS)]
    table = _table(
        f"AUC, {title}",
        *(f"{one.name.removeprefix('source ')} ({one.fake} + {one.real})" for one in sets),
    )
    for recipe in report.recipes:
        found = [one.results.get(recipe.name) for one in sets]
        if any(found):
            cells = ["" if one is None else one.auc.text() for one in found]
            table.add_row(_short(recipe.name), *cells)
    return table


def _measured(view: ViewResult) -> list[FamilyProbe]:
    families = [one for probes in view.score_probes.values() for one in probes.families]
    return [family for family in families if not family.reason]


def _follows(report: RecipesReport) -> Table:
    table = _table("scores follow", "by", *FAMILIES, SOURCE)
    for recipe in report.recipes:
        name = _short(recipe.name)
        for title, view in report.views:
            probes = view.score_probes.get(recipe.name)
            if probes is None:
                continue
            # The interval below its value, as four of them side by side do not fit.
            cells = [
                "" if one.reason else one.correlation.text().replace(" [", "\n[")
                for one in probes.families
            ]
            table.add_row(name, SHORT[title], *cells)
            name = ""
    return table


def _epochs(title: str, view: ViewResult) -> Table:
    epochs = sorted({epoch for own in view.curve.values() for epoch in own})
    table = _table(f"AUC of seeds, {SHORT[title]}", *(f"epoch {epoch}" for epoch in epochs))
    for name, own in view.curve.items():
        if own:
            table.add_row(
                _short(name), *(f"{own[epoch]:.3f}" if epoch in own else "" for epoch in epochs)
            )
    return table


def _table(first: str, *others: str) -> Table:
    # A space between columns: names of 19 letters then fit a terminal of 80.
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column(first, no_wrap=True, min_width=8)
    for name in others:
        table.add_column(name, justify="left" if name == "by" else "right")
    return table


def _short(name: str) -> str:
    return shortened(name, MOST_LETTERS)
