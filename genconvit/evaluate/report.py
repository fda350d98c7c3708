"""What an evaluation leaves in its folder: JSON, CSV and Parquet for programs, figures, a page."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genconvit.config import DecisionSettings
from genconvit.evaluate.calibration.reliability import reliability_figure
from genconvit.evaluate.cases import Explain, Faces, cases, worst_clips
from genconvit.evaluate.evaluated import EvaluatedClip
from genconvit.evaluate.evaluated_data import EvaluatedData
from genconvit.evaluate.evaluation import EvaluationReport, evaluation_of, labelled
from genconvit.evaluate.evaluation_page import evaluation_page
from genconvit.evaluate.figure import save
from genconvit.evaluate.group_figure import group_figure
from genconvit.evaluate.localisation.figure import localisation_figure
from genconvit.evaluate.localisation.localise import LocalisationScores
from genconvit.evaluate.metrics import clip_scores
from genconvit.evaluate.plots import EVALUATION_FIGURES, evaluation_figures
from genconvit.evaluate.robustness.figures import AUC as ROBUSTNESS
from genconvit.evaluate.robustness.section import RobustnessSection
from genconvit.evaluate.stored.scores import CROP_SCORES, write_scores

RELIABILITY, GROUPS = "reliability_diagram.png", "group_auc.png"
LOCALISATION = "localisation.png"
FIGURES = (*EVALUATION_FIGURES, RELIABILITY, GROUPS, LOCALISATION)
"""All figures that an evaluation may draw."""

COLUMNS = (
    "video_name",
    "label",
    "verdict",
    "probability_fake",
    "correct",
    "frames_sampled",
    "frames_with_face",
    "tracks",
    "reason",
    "group",
    "method",
    "source",
)


def write_evaluation(
    out: Path,
    rows: Sequence[EvaluatedClip],
    detector_info: dict[str, Any],
    decision: DecisionSettings,
    command: str,
    notes: Sequence[str] = (),
    *,
    fit: Mapping[str, Any] | None = None,
    faces: Faces | None = None,
    explain: Explain | None = None,
    localisation: LocalisationScores | None = None,
    robustness: RobustnessSection | None = None,
    evaluated_data: EvaluatedData | None = None,
) -> EvaluationReport:
    """Writes evaluation_report.json, detailed_results.csv, scores, figures and report.html.

    Every file is complete when it appears. Figures and crop scores of an earlier evaluation that
    have no successor are removed. Without a label there are no metrics and no figures.

    Args:
        out: The folder; it is made.
        rows: As the other arguments up to `fit`, of `evaluation_of`.
        detector_info: See there.
        decision: See there.
        command: See there.
        notes: See there.
        fit: See there.
        faces: Finds the crops that the page shows of the worst clips.
        explain: Explains them.
        localisation: How well the detector finds the forged parts of spliced clips.
        robustness: What distortions change; its page and figures are in `out` already.
        evaluated_data: Which data `rows` are of.

    Raises:
        OSError: The folder cannot be written.
        UserError: A label is neither fake nor real.
        ValueError: Two clips have the same name.
    """
    report = evaluation_of(rows, detector_info, decision, command, notes, fit)
    worst = cases(worst_clips(rows), decision, faces, explain)
    evidence = [each.findings for case in worst for each in case.evidence]
    more = {"evidence": evidence, "localisation": localisation, "robustness": robustness}
    report = report.model_copy(update={**more, "evaluated_data": evaluated_data})
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".writing-") as folder:
        aside = Path(folder)
        figures = _figures(aside, rows, report)
        curves = out / ROBUSTNESS if robustness else None
        page = evaluation_page(report, rows, figures, worst, curves)
        (aside / "report.html").write_text(page, encoding="utf-8")
        (aside / "detailed_results.csv").write_text(_csv(rows), encoding="utf-8", newline="")
        scores = write_scores(aside, rows)
        text = report.model_dump_json(indent=2) + "\n"
        (aside / "evaluation_report.json").write_text(text, encoding="utf-8")
        for path in aside.iterdir():
            path.replace(out / path.name)
    for name in {*FIGURES, CROP_SCORES} - {*(path.name for path in figures), *scores}:
        (out / name).unlink(missing_ok=True)
    return report


def _figures(folder: Path, rows: Sequence[EvaluatedClip], report: EvaluationReport) -> list[Path]:
    labels, verdicts = labelled(rows)
    paths = evaluation_figures(folder, labels, verdicts, report.decision)
    is_fake, p_fake = clip_scores(labels, verdicts)
    if p_fake.size and report.decision.aggregation != "original":  # its P(fake) is no probability
        paths.append(save(reliability_figure(is_fake, p_fake), folder / RELIABILITY))
    groups = group_figure(report.subgroups.rows) if report.subgroups else None
    if groups is not None:
        paths.append(save(groups, folder / GROUPS))
    if report.localisation is not None:
        paths.append(save(localisation_figure(report.localisation), folder / LOCALISATION))
    return paths


def csv_row(row: EvaluatedClip) -> list[Any]:
    """A clip as a row of `COLUMNS`."""
    start, end = [row.name, row.label], [row.group, row.method, row.source]
    if row.verdict is None:
        return [*start, *[None] * 6, row.failure, *end]
    verdict = row.verdict
    return [
        *start,
        verdict.verdict,
        verdict.probability_fake,
        None if row.correct is None else str(row.correct).lower(),
        verdict.frames_sampled,
        verdict.frames_with_face,
        len(verdict.tracks),
        verdict.reason,
        *end,
    ]


def _csv(rows: Sequence[EvaluatedClip]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(csv_row(row) for row in rows)
    return file.getvalue()
