"""What an evaluation leaves in its folder: JSON and CSV for programs, figures and a page."""

from __future__ import annotations

import csv
import io
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from genconvit.config import DecisionSettings
from genconvit.evaluate.metrics import VERDICTS, ClipMetrics, binary_scores, clip_metrics
from genconvit.evaluate.pages import data_uri, facts, render
from genconvit.evaluate.plots import EVALUATION_FIGURES, evaluation_figures
from genconvit.verdict import Verdict

WORST = 10
"""So many mistakes are shown in the page; the CSV file has all of them."""

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
)


@dataclass(frozen=True)
class EvaluatedClip:
    """One clip of an evaluation: either a verdict or the reason why there is none."""

    name: str
    label: str | None
    verdict: Verdict | None
    failure: str | None

    def __post_init__(self) -> None:
        if (self.verdict is None) == (self.failure is None):
            raise ValueError(f"clip {self.name} needs either a verdict or a failure")

    @property
    def correct(self) -> bool | None:
        """None where there is no label, no verdict or the verdict is UNDECIDED."""
        if self.label is None or self.verdict is None or self.verdict.verdict == "UNDECIDED":
            return None
        return self.verdict.verdict.lower() == self.label


class ClipFailure(BaseModel):
    """A clip without a verdict, and why."""

    model_config = ConfigDict(frozen=True)

    clip: str
    reason: str


class EvaluationReport(BaseModel):
    """The content of evaluation_report.json."""

    model_config = ConfigDict(frozen=True)

    detector: dict[str, Any]
    decision: DecisionSettings
    command: str
    clips: int
    judged: int
    verdicts: dict[str, int]
    metrics: ClipMetrics | None
    frame_auc: float | None = Field(description="AUC over single crops; None without both labels.")
    failures: list[ClipFailure]
    notes: list[str]


def write_evaluation(
    out: Path,
    rows: Sequence[EvaluatedClip],
    detector_info: dict[str, Any],
    decision: DecisionSettings,
    command: str,
    notes: Sequence[str] = (),
) -> EvaluationReport:
    """Writes evaluation_report.json, detailed_results.csv, the figures and report.html.

    Every file is complete when it appears. Figures of an earlier evaluation that have no
    successor are removed. Without a label there are no metrics and no figures.

    Args:
        out: The folder; it is made.
        rows: One a clip, judged or failed.
        detector_info: Id, fingerprint and settings of the detector: values that fit into JSON.
        decision: Threshold and margin behind the verdicts.
        command: The command that repeats this evaluation.
        notes: Sentences that a reader must know, such as a leak between training and test.

    Raises:
        OSError: The folder cannot be written.
        UserError: A label is neither fake nor real.
    """
    labels = [row.label for row in rows if row.verdict and row.label]
    verdicts = [row.verdict for row in rows if row.verdict and row.label]
    judged: Counter[str] = Counter(row.verdict.verdict for row in rows if row.verdict)
    report = EvaluationReport(
        detector=detector_info,
        decision=decision,
        command=command,
        clips=len(rows),
        judged=judged.total(),
        verdicts={word: judged[word] for word in VERDICTS},
        metrics=clip_metrics(labels, verdicts) if labels else None,
        frame_auc=_frame_auc(rows),
        failures=[ClipFailure(clip=row.name, reason=row.failure) for row in rows if row.failure],
        notes=[*notes, *_notes(rows)],
    )
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".writing-") as folder:
        aside = Path(folder)
        figures = evaluation_figures(aside, labels, verdicts, decision)
        page = render(
            "report.html",
            report=report,
            rows=rows,
            worst=_mistakes(rows, decision)[:WORST],
            mistakes=sum(row.correct is False for row in rows),
            figures=[(_title(path), data_uri(path.read_bytes(), "image/png")) for path in figures],
            facts=facts(detector_info | {"decision": decision.model_dump()}),
        )
        (aside / "report.html").write_text(page, encoding="utf-8")
        (aside / "detailed_results.csv").write_text(_csv(rows), encoding="utf-8", newline="")
        text = report.model_dump_json(indent=2) + "\n"
        (aside / "evaluation_report.json").write_text(text, encoding="utf-8")
        for path in aside.iterdir():
            path.replace(out / path.name)
    for name in set(EVALUATION_FIGURES) - {path.name for path in figures}:
        (out / name).unlink(missing_ok=True)
    return report


def _frame_auc(rows: Sequence[EvaluatedClip]) -> float | None:
    crops = [
        (row.label == "fake", point.probability_fake)
        for row in rows
        if row.label and row.verdict
        for point in row.verdict.timeline
    ]
    return binary_scores([c[0] for c in crops], [c[1] for c in crops])["auc"]


def csv_row(row: EvaluatedClip) -> list[Any]:
    """A clip as a row of `COLUMNS`."""
    start = [row.name, row.label]
    if row.verdict is None:
        return [*start, *[None] * 6, row.failure]
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
    ]


def _csv(rows: Sequence[EvaluatedClip]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(csv_row(row) for row in rows)
    return file.getvalue()


def _notes(rows: Sequence[EvaluatedClip]) -> list[str]:
    failed = sum(row.failure is not None for row in rows)
    unlabelled = sum(row.label is None for row in rows)
    notes = []
    if failed:
        notes.append(f"{failed} of {len(rows)} clips could not be judged and are in no figure.")
    if unlabelled:
        notes.append(f"{unlabelled} of {len(rows)} clips have no label and are in no figure.")
    return notes


def _mistakes(rows: Sequence[EvaluatedClip], decision: DecisionSettings) -> list[EvaluatedClip]:
    """Wrong verdicts, the surest first."""

    def sureness(row: EvaluatedClip) -> float:
        p_fake = row.verdict.probability_fake if row.verdict else None
        return 0.0 if p_fake is None else abs(p_fake - decision.threshold)

    return sorted((row for row in rows if row.correct is False), key=sureness, reverse=True)


def _title(path: Path) -> str:
    return path.stem.replace("_", " ").capitalize()
