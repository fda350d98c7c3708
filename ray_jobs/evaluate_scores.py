"""Evaluation of stored scores: no detector, no cluster, no GPU."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genconvit.config import DecisionSettings
from genconvit.data.tree import read_bytes
from genconvit.errors import UserError
from genconvit.evaluate.evaluated_data import OF_SCORES, EvaluatedData
from genconvit.evaluate.evaluation import EvaluationReport
from genconvit.evaluate.evaluation_tables import evaluation_tables
from genconvit.evaluate.report import write_evaluation
from genconvit.evaluate.stored.scores import read_scores
from ray_jobs.options import Given
from ray_jobs.output import Output, new_out_folder

if TYPE_CHECKING:
    from genconvit.checkpoint import DetectorInfo

TEMPERATURE = (
    "Scores of crops keep the temperature of the detector that made them; where it was calibrated "
    "since, judge the clips again."
)


def evaluate_scores(
    scores: str,
    given: Given,
    output: Output,
    *,
    ground_truth: Path | None = None,
    model: str | None = None,
    out: Path | None = None,
) -> EvaluationReport:
    """Measures stored scores of clips or crops and writes what an evaluation of a detector does.

    Args:
        scores: CSV or Parquet, a path or URL (`genconvit.evaluate.stored.scores`).
        given: Its `decision` judges.
        output: Where to tell of it.
        ground_truth: CSV `video_name,label`, where the scores do not tell the labels.
        model: A detector, whose threshold, band and calibration judge; it is not run.
        out: Folder for the results; by default a new one below `runs/`.

    Raises:
        UserError: The scores cannot be read or say something that cannot be right, or scores of
            clips are to be aggregated.
    """
    for item in given.assignments:
        if not item.name.startswith("decision."):
            raise UserError(f"{item.origin}: these scores are made already; leave it out.")
    info = _info(model) if model else None
    decision = given.settings(base=info.settings() if info else None).decision
    stored = read_scores(scores, decision, ground_truth)
    if not stored.of_crops and any(i.name == "decision.aggregation" for i in given.assignments):
        raise UserError(
            f"{scores} has the scores of clips, which are aggregated already; leave --aggregation "
            "out, or give crop_scores.parquet."
        )
    if not any(row.verdict for row in stored.rows):
        raise UserError(
            f"none of the {len(stored.rows)} clips has a score; the first: {stored.rows[0].failure}"
        )
    out = out or new_out_folder("evaluate")
    source = {"--scores": scores, "--ground-truth": ground_truth, "--model": model}
    words = [str(word) for pair in source.items() if pair[1] for word in pair]
    report = write_evaluation(
        out,
        stored.rows,
        info.summary() if info else {},
        decision,
        command_of(words, given),
        stored.notes + ([TEMPERATURE] if info and info.calibration and stored.of_crops else []),
        # Scores of crops may be older than the calibration: nothing is promised of them.
        fit=stated_fit(info, decision) if info and not stored.of_crops else None,
        evaluated_data=EvaluatedData(location=scores, digest=_digest(scores), digest_of=OF_SCORES),
    )
    show(report, out, output)
    return report


def _info(model: str) -> DetectorInfo:
    from genconvit.checkpoint import read_info  # torch and timm take seconds to load

    return read_info(model)


def stated_fit(info: DetectorInfo, decision: DecisionSettings) -> dict[str, Any] | None:
    """What a calibrated detector's promise rests on, where its own decision judges."""
    fit = info.calibration.fit if info.calibration else None
    return fit.model_dump() if fit is not None and decision == info.decision else None


def command_of(words: list[str], given: Given) -> str:
    """The command that repeats an evaluation."""
    if given.config:
        words = [*words, "--config", str(given.config)]
    overrides = [f"{item.name}={item.value}" for item in given.assignments]
    return shlex.join(["genconvit", "evaluate", *words, *overrides])


def show(report: EvaluationReport, out: Path, output: Output) -> None:
    """Tells of an evaluation."""
    output.say(evaluation_tables(report))
    for note in report.notes:
        output.say(f"note: {note}")
    for warning in report.score_probes.warnings if report.score_probes else []:
        output.warn(warning)
    for failure in report.failures[:20]:
        output.warn(f"{failure.clip}: {failure.reason}")
    output.say(f"Report: {out / 'report.html'}")
    output.emit({"event": "evaluated", "out": str(out), **report.model_dump(mode="json")})


def _digest(location: str) -> str:
    return hashlib.sha256(read_bytes(location) or b"").hexdigest()
