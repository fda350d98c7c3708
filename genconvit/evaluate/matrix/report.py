"""What a matrix leaves in its folder: JSON and CSV for programs, the heat map and a page."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from genconvit.evaluate.matrix.figure import draw_matrix
from genconvit.evaluate.matrix.results import (
    FIGURES,
    JudgedDataset,
    MatrixDataset,
    MatrixReport,
    cells_of,
    summary,
)
from genconvit.evaluate.pages import data_uri, facts, render
from genconvit.evaluate.resampling import DRAWS, few_groups


def write_matrix(
    out: Path,
    datasets: Sequence[JudgedDataset],
    models: Mapping[str, dict[str, Any]],
    *,
    command: str,
    notes: Sequence[str] = (),
) -> MatrixReport:
    """Measures and writes matrix.json, .csv, .png and .html; each is complete when it appears.

    Args:
        out: The folder; it is made.
        datasets: Each judged by the models, or with the problems that kept them from it.
        models: What each detector is, by its short name, in the order of the columns.
        command: What repeats it.
        notes: What a reader must know.

    Raises:
        OSError: The folder cannot be written.
        UserError: A label is neither fake nor real.
    """
    report = MatrixReport(
        command=command,
        draws=DRAWS,
        models=dict(models),
        datasets=[
            MatrixDataset(
                name=each.name,
                location=each.location,
                split=each.split,
                digest=each.digest,
                digest_of=each.digest_of,
                fake=sum(clip.label == "fake" for clip in each.clips),
                real=sum(clip.label == "real" for clip in each.clips),
                failures=list(each.failures),
                problems=dict(each.problems),
            )
            for each in datasets
        ],
        cells=[cell for each in datasets for cell in cells_of(each, list(models))],
        notes=[*notes, *_not_by_all(datasets), *_failed(datasets), *_few(datasets)],
    )
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".writing-") as folder:
        aside = Path(folder)
        text = report.model_dump_json(indent=2) + "\n"
        (aside / "matrix.json").write_text(text, encoding="utf-8")
        (aside / "matrix.csv").write_text(matrix_csv(report), encoding="utf-8", newline="")
        page = render(
            "matrix.html",
            report=report,
            summary=summary(report),
            figure=data_uri(draw_matrix(aside, report).read_bytes(), "image/png"),
            datasets=[
                (each.title, facts(each.model_dump(exclude={"name", "failures", "problems"})))
                for each in report.datasets
            ],
            models=[(name, facts(info)) for name, info in report.models.items()],
        )
        (aside / "matrix.html").write_text(page, encoding="utf-8")
        for path in aside.iterdir():
            path.replace(out / path.name)
    return report


def matrix_csv(report: MatrixReport) -> str:
    """A row a cell: where it is, its clips, figures with intervals, and whether it flatters."""
    ends = (("value", ""), ("low", "_low"), ("high", "_high"))
    columns = [(name, end, name + suffix) for name in FIGURES for end, suffix in ends]
    splits = {dataset.name: dataset.split for dataset in report.datasets}
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    places = ("model", "dataset", "split", "method", "fake", "real")
    writer.writerow([*places, *(column for *_, column in columns), "flatters", "problem"])
    for cell in report.cells:
        values = [getattr(getattr(cell, name), end) for name, end, _ in columns]
        where = [cell.model, cell.dataset, splits[cell.dataset], cell.method, cell.fake, cell.real]
        writer.writerow([*where, *values, cell.flatters, cell.problem])
    return file.getvalue()


def matrix_table(report: MatrixReport) -> Group:
    """The AUC of every cell, then what they say."""
    table = Table(
        title=Text("AUC and its 95 % interval"),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        pad_edge=False,
    )
    table.add_column("dataset, method")
    for name in report.models:
        table.add_column(Text(name), justify="right", overflow="fold")
    for dataset, rows in report.rows():
        for place, row in enumerate(rows):
            name = f"  {row[0].method} ({row[0].fake})" if place else dataset.title
            # An interval below its value: columns stay narrow.
            table.add_row(Text(name), *(cell.text().replace(" [", "\n[") for cell in row))
        table.add_section()
    lines = [*summary(report), *(f"note: {note}" for note in report.notes)]
    return Group(table, Text("\n".join(lines)))


def _not_by_all(datasets: Sequence[JudgedDataset]) -> list[str]:
    """Of a dataset that no model judged the summary tells."""
    return [
        f"{model} did not judge {each.name}: {problem.reason}"
        for each in datasets
        if each.clips
        for model, problem in each.problems.items()
    ]


def _failed(datasets: Sequence[JudgedDataset]) -> list[str]:
    return [
        f"{each.name}: {len(each.failures)} of {len(each.failures) + len(each.clips)} clips could "
        f"not be judged and are in no figure; the first: {each.failures[0].clip}: "
        f"{each.failures[0].reason}"
        for each in datasets
        if each.failures
    ]


def _few(datasets: Sequence[JudgedDataset]) -> list[str]:
    return [
        f"{each.name}: {note}"
        for each in datasets
        if each.clips
        for note in few_groups([clip.group for clip in each.clips])
    ]
