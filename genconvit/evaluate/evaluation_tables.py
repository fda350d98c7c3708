"""An evaluation in the terminal: figures with intervals, groups and aggregations."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from genconvit.evaluate.aggregations import CHOOSE, COMPARED, AggregationResult
from genconvit.evaluate.estimate import Estimate
from genconvit.evaluate.evaluation import EvaluationReport
from genconvit.evaluate.pages import percent
from genconvit.evaluate.score_metrics import FIGURES
from genconvit.evaluate.shortcuts import ABOUT, ScoreProbes
from genconvit.evaluate.subgroups import Subgroups, WorstGroup
from genconvit.evaluate.terminal import metrics_table

NAMES = {
    "auc": "AUC",
    "average_precision": "AP",
    "eer": "EER",
    "eer_threshold": "P(fake) at EER",
    "tpr_at_fpr_1_percent": "TPR at 1 % FPR",
    "tpr_at_fpr_5_percent": "TPR at 5 % FPR",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "mcc": "MCC",
    "log_loss": "log loss",
    "brier": "Brier",
    "ece": "ECE",
}
"""Figures whose names are not written as they are."""


def evaluation_tables(report: EvaluationReport) -> RenderableType:
    """All figures of a report; where there are no labels, how many clips got which verdict."""
    if report.metrics is None or report.subgroups is None:
        table = _table("verdict", "clips", title="No labels: verdicts only", notes=[])
        for word, count in report.verdicts.items():
            table.add_row(word, str(count))
        return table
    parts: list[RenderableType] = [metrics_table(report.metrics), scores_table(report)]
    if len(report.subgroups.rows) > 1:
        parts.append(subgroups_table(report.subgroups))
    if report.aggregations:
        parts.append(aggregations_table(report.aggregations))
    if report.score_probes:
        parts.append(probes_table(report.score_probes))
    return Group(*parts)


def scores_table(report: EvaluationReport) -> Table:
    """The figures of clips with their intervals, beside those of single crops."""
    clips, crops = report.clip_scores, report.crop_scores
    assert clips is not None
    about = f"{clips.n} scores of {clips.fake} fake and {clips.real} real clips"
    table = _table("", "clips", *(["crops"] if crops else []), title=about, notes=clips.notes)
    for name in FIGURES:
        cells = [clips.estimate(name).text()]
        if crops:
            value = getattr(crops, name)
            cells.append("undefined" if value is None else f"{value:.3f}")
        table.add_row(_written(name), *cells)
    table.add_section()
    table.add_row("coverage", report.coverage.text())
    table.add_row("error among decided", report.decided_error.text())
    return table


def subgroups_table(subgroups: Subgroups) -> Table:
    """A row a group; the worst ones below."""
    notes = [
        *_worst("AUC", subgroups.worst_auc),
        *_worst("balanced error", subgroups.worst_error),
        *subgroups.notes,
    ]
    headers = ("clips\nfake/real", "AUC", "balanced\nerror", "fakes\nFAKE", "reals\nFAKE")
    table = _table("group", *headers, title="Groups", notes=notes)
    column = ""
    for group in subgroups.rows:
        if group.column != column:
            table.add_section()
        column = group.column
        name = group.value if column == "all" else f"{column} {group.value}"
        if group.against:
            name += f", with {group.against}"
        small = " (small)" if group.too_small else ""
        table.add_row(
            Text(name + small),
            f"{group.fake.clips}/{group.real.clips}",
            _two_lines(group.scores.estimate("auc")),
            _two_lines(group.error),
            *(
                percent(each.shares["FAKE"]) if each.clips else ""
                for each in (group.fake, group.real)
            ),
        )
    return table


def aggregations_table(results: list[AggregationResult]) -> Table:
    """A row an aggregation."""
    names = (_written(name) for name in COMPARED)
    notes = ["* The one in use.", CHOOSE]
    table = _table("", *names, title="From crops to a clip", notes=notes)
    for result in results:
        used = "*" if result.in_use else ""
        table.add_row(
            f"{result.name}{used}", *(_two_lines(getattr(result, name)) for name in COMPARED)
        )
    return table


def probes_table(probes: ScoreProbes) -> RenderableType:
    """A row a family of features that could be measured; why others could not, below."""
    if all(family.reason for family in probes.families):
        return Text("\n".join(["What scores follow", *probes.reasons]))
    table = _table(
        "", "correlation", "most of all", title="What scores follow", notes=[ABOUT, *probes.reasons]
    )
    for family in probes.families:
        if not family.reason:
            table.add_row(family.name, family.correlation.text(), family.strongest_text)
    return table


def _written(name: str) -> str:
    return NAMES.get(name, name)


def _two_lines(estimate: Estimate) -> str:
    """The interval below its value: columns stay narrow."""
    return estimate.text().replace(" [", "\n[")


def _worst(name: str, group: WorstGroup | None) -> list[str]:
    if group is None:
        return []
    return [f"Worst {name}: {group.column} {group.value}, {group.figure.text()}."]


def _table(first: str, *others: str, title: str, notes: list[str]) -> Table:
    table = Table(
        title=Text(title),
        caption=Text("\n".join(notes)) if notes else None,
        caption_justify="left",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),  # five figures with intervals fit into 80 columns
    )
    table.add_column(first, overflow="fold")
    for header in others:
        table.add_column(header, justify="right", no_wrap=True)
    return table
