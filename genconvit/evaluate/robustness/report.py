"""What a robustness run leaves in its folder: JSON and CSV for programs, figures and a page."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from genconvit.evaluate.clip_failure import ClipFailure
from genconvit.evaluate.evaluated_data import EvaluatedData
from genconvit.evaluate.pages import data_uri, facts, render
from genconvit.evaluate.resampling import DRAWS, few_groups
from genconvit.evaluate.robustness.distortions import BY_NAME, DISTORTIONS
from genconvit.evaluate.robustness.figures import draw_robustness
from genconvit.evaluate.robustness.results import (
    BROKEN,
    Change,
    JudgedModel,
    Level,
    ModelCurves,
    RobustnessReport,
    measure,
)
from genconvit.evaluate.robustness.text import summary

COLUMNS = (
    "model",
    "distortion",
    "level",
    "seed",
    "clips",
    "auc",
    "auc_low",
    "auc_high",
    "auc_difference",
    "auc_difference_low",
    "auc_difference_high",
    "drift_fake",
    "drift_real",
    "changed",
    "clips_without_face",
    "frames_without_face",
)


def write_robustness(
    out: Path,
    models: Sequence[JudgedModel],
    *,
    command: str,
    about: str,
    not_measured: dict[str, str],
    failures: Sequence[ClipFailure] = (),
    notes: Sequence[str] = (),
    evaluated_data: EvaluatedData | None = None,
    in_evaluation: bool = False,
) -> RobustnessReport:
    """Measures and writes robustness.json, .csv, .html and the figures.

    Every file is complete when it appears.

    Args:
        out: The folder; it is made.
        models: They judged the same clips, each at least one.
        command: What repeats it.
        about: Which clips these are, such as "100 clips of data/val".
        not_measured: Distortions without verdicts, by name, and why.
        failures: Clips that could not be judged at all.
        notes: What a reader must know.
        evaluated_data: Which clips these are, with a digest.
        in_evaluation: The page of an evaluation, `report.html`, comes to lie beside.

    Raises:
        OSError: The folder cannot be written.
    """
    measured = [each for each in DISTORTIONS if each.name not in not_measured]
    clips = {clip.name: clip for model in models for clip in model.clips}
    labels = [clip.label for clip in clips.values()]
    report = RobustnessReport(
        command=command,
        about=about,
        evaluated_data=evaluated_data,
        clips=len(labels),
        fake=labels.count("fake"),
        real=labels.count("real"),
        draws=DRAWS,
        models=[measure(model, measured) for model in models],
        not_measured=not_measured,
        failures=list(failures),
        notes=[*notes, *few_groups([clip.group for clip in clips.values()])],
    )
    report = report.model_copy(update={"notes": [*report.notes, *_left_out(report)]})
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".writing-") as folder:
        aside = Path(folder)
        text = report.model_dump_json(indent=2) + "\n"
        (aside / "robustness.json").write_text(text, encoding="utf-8")
        (aside / "robustness.csv").write_text(robustness_csv(report), encoding="utf-8", newline="")
        figures = [path.read_bytes() for path in draw_robustness(aside, report)]
        page = render(
            "robustness.html",
            report=report,
            summary=summary(report),
            in_evaluation=in_evaluation,
            broken=BROKEN,
            kinds=BY_NAME,
            figures=[data_uri(content, "image/png") for content in figures],
            facts=[
                (model.name, facts({**model.detector, "decision": model.decision.model_dump()}))
                for model in report.models
            ],
        )
        (aside / "robustness.html").write_text(page, encoding="utf-8")
        for path in aside.iterdir():
            path.replace(out / path.name)
    return report


def robustness_csv(report: RobustnessReport) -> str:
    """A row for each model, distortion, level and seed; without a seed it is the mean over them."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for model in report.models:
        writer.writerows([model.name, *row] for row in _rows(model))
    return file.getvalue()


def robustness_tables(report: RobustnessReport) -> Group:
    """The AUC of every level, a table a model, then what they say; 80 columns are enough."""
    tables = []
    for model in report.models:
        title = Text(f"{model.name}: AUC {model.auc.text()} on {model.clips} clips as they are")
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for name in ("distortion", "mild", "", "", "", "strong"):
            table.add_column(name, no_wrap=True)
        for curve in model.curves:
            table.add_row(BY_NAME[curve.distortion].noun, *map(_short, curve.levels))
        tables.append(table)
    lines = [*summary(report), *(f"note: {note}" for note in report.notes)]
    return Group(*tables, Text("\n".join(lines)))


def _rows(model: ModelCurves) -> Iterator[list[Any]]:
    ends = (model.auc.value, model.auc.low, model.auc.high)
    faces = (model.clips_without_face, model.frames_without_face)
    yield ["clean", None, None, model.clips, *ends, *[None] * 6, *faces]
    for curve in model.curves:
        for level in curve.levels:
            start = [curve.distortion, level.level]
            difference = level.auc_difference
            ends = (difference.value, difference.low, difference.high)
            yield [*start, None, curve.clips, *_change(level, ends)]
            for seed in level.seeds[1:] and level.seeds:
                yield [*start, seed.seed, curve.clips, *_change(seed, (None, None, None))]


def _change(change: Change, difference: tuple[float | None, ...]) -> list[Any]:
    return [
        *(change.auc.value, change.auc.low, change.auc.high),
        *difference,
        *(change.drift_fake, change.drift_real, change.changed),
        *(change.clips_without_face, change.frames_without_face),
    ]


def _short(level: Level) -> str:
    return f"{level.level:g}: {_number(level.auc.value)}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _left_out(report: RobustnessReport) -> list[str]:
    found = {}
    for model in report.models:
        for curve in model.curves:
            if curve.failed:
                noun = BY_NAME[curve.distortion].noun
                found[curve.distortion] = (
                    f"{curve.failed} of {model.clips} clips have no {noun} and are not in its "
                    f"curve; the first: {curve.failure}"
                )
    return list(found.values())
