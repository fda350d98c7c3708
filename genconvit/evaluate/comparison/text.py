"""A comparison in sentences, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterable, Sequence

from genconvit.config import CLASSES
from genconvit.evaluate.bootstrap import METRICS
from genconvit.evaluate.comparison.results import ComparisonReport, Variant
from genconvit.evaluate.metrics import VERDICTS
from genconvit.evaluate.report import COLUMNS, csv_row

TITLES = {"accuracy": "Accuracy", "f1": "F1", "auc": "AUC", "eer": "EER", "coverage": "Coverage"}
"""How the figures of `METRICS` are written."""
MAIN = ("accuracy", "f1", "auc", "eer")
"""Those in the table of a README, and those whose differences are shown."""


def summary(report: ComparisonReport) -> list[str]:
    """What the figures say, in sentences: the best AUC, then each variant against the first."""
    if not report.judged:
        return ["No variant could be judged."]
    values = {variant.name: variant.metrics.auc.value for variant in report.judged}
    top = max((value for value in values.values() if value is not None), default=None)
    if top is None:
        return ["AUC is undefined: it needs fake and real clips with a score."]
    if not report.judged[1:]:
        return [f"{report.judged[0].name} has an AUC of {top:.3f}; nothing is left to compare."]
    best = [name for name, value in values.items() if value == top]
    if len(best) == 1:
        lines = [f"{best[0]} has the highest AUC, {top:.3f}."]
    elif len(best) == len(values):
        lines = [f"All variants have the same AUC, {top:.3f}."]
    else:
        lines = [f"{len(best)} variants share the highest AUC, {top:.3f}: {'; '.join(best)}."]
    for variant in report.judged[1:]:
        difference = variant.differences.auc
        if difference.value is None:
            continue
        shown = "no difference shown"
        if difference.excludes_zero:
            shown = "better" if difference.value > 0 else "worse"
        lines.append(
            f"{variant.name} against {report.judged[0].name}: "
            f"AUC {difference.difference()}, {shown}."
        )
    return lines


def failures(report: ComparisonReport) -> list[str]:
    """One sentence for each variant that failed."""
    return [
        f"{each.name} failed: {each.failure}"
        for each in report.variants
        if each.failure is not None
    ]


def cost(value: float) -> str:
    """A cost with two decimals, in the unit that its column names."""
    return f"{value:,.2f}"


def wrapped(name: str, width: int) -> str:
    """A name in lines that end at its commas where they can."""
    return textwrap.fill(name.replace(",", ", "), width).replace(", ", ",")


def markdown(report: ComparisonReport) -> str:
    """The tables of comparison.md, which can be pasted into a README."""
    titles = [TITLES[name] for name in MAIN]
    costs = list(report.variants[0].costs())
    figures = [
        [
            variant.name,
            *(variant.metrics[name].text() for name in MAIN),
            *map(cost, variant.costs().values()),
        ]
        for variant in report.judged
    ]
    parts = [_bullets(summary(report)), _table(["Variant", *titles, *costs], figures)]
    if report.judged[1:]:
        differences = [
            [variant.name, *(variant.differences[name].difference() for name in MAIN)]
            for variant in report.judged[1:]
        ]
        first = f"Differences to {_escaped(report.judged[0].name)}:"
        parts += [first, _table(["Variant", *titles], differences)]
    about = (
        f"{report.clips} clips ({report.fake} fake, {report.real} real), {report.about}. "
        f"Costs on {report.device}. In brackets: 95 % intervals, paired bootstrap over groups of "
        "clips."
    )
    parts.append(_escaped(about))
    parts.append(_bullets([*failures(report), *report.notes]))
    parts.append(f"    {report.command}")
    return "\n\n".join(part for part in parts if part) + "\n"


def comparison_csv(report: ComparisonReport) -> str:
    """One row a variant: figures, intervals, differences, counts and costs."""
    ends = (("value", ""), ("low", "_low"), ("high", "_high"))
    kinds = (("metrics", ""), ("differences", "_difference"))
    estimates = [
        (kind, name, end, f"{name}{infix}{suffix}")
        for kind, infix in kinds
        for name in METRICS
        for end, suffix in ends
    ]
    counts = [(label, word) for label in CLASSES for word in VERDICTS]
    costs = ("parameters", "flops", "images_per_s", "ms_per_clip")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            *("variant", "slug", "failure", "seeds", "clips"),
            *(column for *_, column in estimates),
            *(f"{label}_judged_{word.lower()}" for label, word in counts),
            *costs,
        ]
    )
    for each in report.variants:
        seeds = " ".join(str(seed) for seed in each.seeds if seed is not None)
        judged = each.failure is None
        writer.writerow(
            [
                *(each.name, each.slug, each.failure, seeds, report.clips if judged else None),
                *(getattr(getattr(each, kind)[name], end) for kind, name, end, _ in estimates),
                *(each.confusion.get(label, {}).get(word) for label, word in counts),
                *(getattr(each, name) if judged else None for name in costs),
            ]
        )
    return file.getvalue()


def verdicts_csv(variant: Variant) -> str:
    """detailed_results.csv of all runs in one, with their seeds."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["seed", *COLUMNS])
    for run in variant.runs:
        writer.writerows([run.seed, *csv_row(row)] for row in run.rows)
    return file.getvalue()


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_escaped(line)}" for line in lines)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [
        header,
        ["---", *["---:"] * (len(header) - 1)],
        *([_escaped(c) for c in r] for r in rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escaped(text: str) -> str:
    """Text that ends no cell and starts no tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
