"""The page of an evaluation: one HTML file with everything inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from genconvit.evaluate.aggregations import CHOOSE
from genconvit.evaluate.cases import HEIGHT, WIDTH, Case
from genconvit.evaluate.evaluated import EvaluatedClip
from genconvit.evaluate.evaluated_data import EvaluatedData
from genconvit.evaluate.evaluation import EvaluationReport
from genconvit.evaluate.evaluation_tables import NAMES
from genconvit.evaluate.evaluation_text import summary
from genconvit.evaluate.pages import data_uri, facts, render
from genconvit.evaluate.score_metrics import FIGURES
from genconvit.evaluate.shortcuts import ABOUT

TITLES = {
    "roc_curve": "ROC curve",
    "det_curve": "Detection errors",
    "group_auc": "AUC of groups",
    "localisation": "Forged and found parts of spliced clips",
}
"""Of figures whose files are not called what they show."""


WIDE = ("AUC of groups", "Forged and found parts of spliced clips")


def evaluation_page(
    report: EvaluationReport,
    rows: Sequence[EvaluatedClip],
    figures: Sequence[Path],
    worst: Sequence[Case],
    curves: Path | None = None,
) -> str:
    """The HTML.

    Args:
        report: The figures.
        rows: The clips behind it.
        figures: PNG files, which it takes in.
        worst: The clips to show.
        curves: PNG file of the AUC of distorted clips.
    """
    detector = dict(report.detector)
    trained_on = detector.pop("data_digest", None)  # told beside that of the evaluated data
    return render(
        "report.html",
        report=report,
        summary=summary(report),
        rows=rows,
        worst=worst,
        convincing=sum(each["check"]["passes"] for each in report.evidence),
        width=WIDTH,
        height=HEIGHT,
        choose=CHOOSE,
        about_probes=ABOUT,
        figure_names=[(NAMES.get(name, name), name) for name in FIGURES],
        wide=WIDE,
        figures=[(_title(path), data_uri(path.read_bytes(), "image/png")) for path in figures],
        curves=data_uri(curves.read_bytes(), "image/png") if curves else None,
        data_facts=_data_facts(report.evaluated_data, trained_on),
        facts=facts(detector | {"decision": report.decision.model_dump()}),
    )


def _data_facts(data: EvaluatedData | None, trained_on: str | None) -> list[tuple[str, str]]:
    """Which data were evaluated, beside those that the detector was trained on."""
    if data is None:
        return []
    known = "not known" if trained_on is None else trained_on
    same = " (the same shards)" if trained_on == data.digest else ""
    return [*data.facts(), ("digest of the detector's training data", known + same)]


def _title(path: Path) -> str:
    return TITLES.get(path.stem, path.stem.replace("_", " ").capitalize())
