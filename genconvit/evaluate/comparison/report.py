"""What a comparison of variants leaves in its folder: tables, figures and a page."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from genconvit.config import DecisionSettings
from genconvit.evaluate.bootstrap import (
    DRAWS,
    METRICS,
    Compared,
    Estimates,
    compare_variants,
)
from genconvit.evaluate.comparison.figures import draw_comparison
from genconvit.evaluate.comparison.results import ComparisonReport, Variant, VariantResult
from genconvit.evaluate.comparison.text import (
    MAIN,
    TITLES,
    comparison_csv,
    cost,
    failures,
    markdown,
    summary,
    verdicts_csv,
    wrapped,
)
from genconvit.evaluate.metrics import ClipMetrics, clip_metrics
from genconvit.evaluate.pages import data_uri, facts, render
from genconvit.verdict import Verdict

NAME_WIDTH = 16
"""Letters in a line of a variant's name in the terminal."""
OPTIONAL = ("comparison_*.png", "confusion_matrix_*.png", "detailed_results_*.csv")
"""What a comparison may have written that the next one in its folder does not."""


def write_comparison(
    out: Path,
    variants: Sequence[Variant],
    *,
    decision: DecisionSettings,
    command: str,
    about: str,
    device: str,
    notes: Sequence[str] = (),
) -> ComparisonReport:
    """Writes comparison.json, .csv, .md and .html, the figures and the verdicts.

    Every file is complete when it appears. Figures and verdicts of an earlier comparison that have
    no successor are removed. A clip that a run could not judge, or without a label, is in no figure
    of any variant.

    Args:
        out: The folder; it is made.
        variants: The first that did not fail is what the others are compared with.
        decision: Threshold and margin behind the verdicts.
        command: What the user typed.
        about: Which clips these are, such as "the val split of data/faces".
        device: Where the costs were measured.
        notes: What a reader must know, such as leaks between splits.

    Returns:
        The content of comparison.json.

    Raises:
        OSError: The folder cannot be written.
        UserError: A label is neither fake nor real.
        ValueError: Two variants have the same slug.
    """
    if len({variant.slug for variant in variants}) < len(variants):
        raise ValueError("two variants have the same slug")
    labels, groups, verdicts, left_out = _shared_clips(variants)
    compared = compare_variants(list(labels.values()), list(verdicts.values()), groups)
    results = dict(zip(verdicts, compared, strict=True))
    pooled = {
        slug: clip_metrics(list(labels.values()) * len(runs), [v for run in runs for v in run])
        for slug, runs in verdicts.items()
    }
    first = next((variant for variant in variants if variant.runs), None)
    if first and first is not variants[0]:
        left_out.append(f"{variants[0].name} failed; differences are to {first.name}.")
    seeds = {run.seed for variant in variants for run in variant.runs if run.seed is not None}
    report = ComparisonReport(
        command=command,
        about=about,
        clips=len(labels),
        fake=list(labels.values()).count("fake"),
        real=list(labels.values()).count("real"),
        seeds=sorted(seeds),
        draws=DRAWS,
        decision=decision,
        device=device,
        variants=[
            _result(variant, results.get(variant.slug), pooled.get(variant.slug))
            for variant in variants
        ],
        notes=[*notes, *left_out],
    )
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".writing-") as folder:
        aside = Path(folder)
        text = report.model_dump_json(indent=2) + "\n"
        (aside / "comparison.json").write_text(text, encoding="utf-8")
        (aside / "comparison.csv").write_text(comparison_csv(report), encoding="utf-8", newline="")
        (aside / "comparison.md").write_text(markdown(report), encoding="utf-8")
        for variant in variants:
            if variant.runs:
                path = aside / f"detailed_results_{variant.slug}.csv"
                path.write_text(verdicts_csv(variant), encoding="utf-8", newline="")
        page = _page(report, draw_comparison(aside, report, pooled))
        (aside / "comparison.html").write_text(page, encoding="utf-8")
        written = {path.name for path in aside.iterdir()}
        for path in aside.iterdir():
            path.replace(out / path.name)
    for pattern in OPTIONAL:
        for path in out.glob(pattern):
            if path.name not in written:
                path.unlink()
    return report


def comparison_tables(report: ComparisonReport) -> Group:
    """Figures, costs and what they say, with a row a variant; 80 columns are enough."""
    title = Text(f"{report.clips} clips, {report.fake} fake and {report.real} real")
    figures = _table("variant", *(TITLES[name] for name in MAIN), title=title)
    costs = _table("variant", *report.variants[0].costs(), title=Text(f"On {report.device}"))
    for variant in report.judged:
        name = Text(wrapped(variant.name, NAME_WIDTH))
        estimates = (variant.metrics[metric].text() for metric in MAIN)
        # An interval below its value: columns stay narrow.
        figures.add_row(name, *(text.replace(" [", "\n[") for text in estimates))
        costs.add_row(name, *map(cost, variant.costs().values()))
    lines = [*summary(report), *failures(report), *(f"note: {note}" for note in report.notes)]
    return Group(figures, costs, Text("\n".join(lines)))


def _table(first: str, *others: str, title: Text) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column(first, overflow="fold")
    for header in others:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def _shared_clips(
    variants: Sequence[Variant],
) -> tuple[dict[str, str], list[str], dict[str, list[list[Verdict]]], list[str]]:
    """The clips that all runs judged.

    Returns:
        Their labels by name, their groups, their verdicts by slug, run and clip, and what was left
        out and why.
    """
    runs = {
        variant.slug: [{row.name: row for row in run.rows} for run in variant.runs]
        for variant in variants
        if variant.runs
    }
    every = [rows for each in runs.values() for rows in each]
    names = list(dict.fromkeys(name for rows in every for name in rows))
    judged = [n for n in names if all(n in rows and rows[n].verdict for rows in every)]
    labels = {name: label for name in judged if (label := every[0][name].label)}
    verdicts = {
        slug: [[v for name in labels if (v := rows[name].verdict)] for rows in each]
        for slug, each in runs.items()
    }
    groups = [every[0][name].group for name in labels]
    failed, unlabelled = len(names) - len(judged), len(judged) - len(labels)
    notes = []
    if failed:
        notes.append(
            f"{failed} of {len(names)} clips could not be judged by every variant "
            "and are in no figure."
        )
    if unlabelled:
        notes.append(f"{unlabelled} of {len(names)} clips have no label and are in no figure.")
    return labels, groups, verdicts, notes


def _result(
    variant: Variant, compared: Compared | None, pooled: ClipMetrics | None
) -> VariantResult:
    return VariantResult(
        name=variant.name,
        slug=variant.slug,
        settings=variant.settings,
        detectors=[run.detector for run in variant.runs],
        seeds=[run.seed for run in variant.runs],
        metrics=compared.metrics if compared else Estimates(),
        differences=compared.differences if compared else Estimates(),
        confusion=pooled.confusion if pooled else {},
        parameters=variant.parameters,
        flops=variant.flops,
        images_per_s=variant.images_per_s,
        ms_per_clip=variant.ms_per_clip,
        failure=variant.failure,
    )


def _page(report: ComparisonReport, figures: Sequence[Path]) -> str:
    images = [data_uri(path.read_bytes(), "image/png") for path in figures]
    return render(
        "comparison.html",
        report=report,
        summary=summary(report),
        titles={name: TITLES[name] for name in METRICS},
        main={name: TITLES[name] for name in MAIN},
        cost=cost,
        bars=images[:2],
        matrices=images[2:],
        settings=[(variant.name, facts(variant.settings)) for variant in report.variants],
        facts=facts(
            {
                "clips": report.about,
                "device": report.device,
                "seeds": ", ".join(map(str, report.seeds)) or "none",
                "decision": report.decision.model_dump(),
                "detectors": {
                    variant.name: ", ".join(variant.detectors) for variant in report.judged
                },
            }
        ),
    )
