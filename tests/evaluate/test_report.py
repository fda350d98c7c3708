from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic_core import PydanticSerializationError

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import decide
from genconvit.evaluate.evaluated import CropScore, EvaluatedClip
from genconvit.evaluate.evaluation import EvaluationReport
from genconvit.evaluate.plots import EVALUATION_FIGURES
from genconvit.evaluate.report import write_evaluation
from genconvit.verdict import TimelinePoint

DETECTOR = {"id": "nano-1", "fingerprint": "0123456789ab"}


def judged(name: str, label: str | None, p_fake: float | None) -> EvaluatedClip:
    scores = [] if p_fake is None else [p_fake]
    points = [
        TimelinePoint(time_s=0, frame_index=0, track=0, box=(0, 0, 1, 1), probability_fake=p)
        for p in scores
    ]
    return EvaluatedClip(name, label, decide(name, points, 4, DecisionSettings()), None)


ROWS = [
    judged("good.mp4", "fake", 0.95),
    judged("missed.mp4", "fake", 0.03),
    judged("fine.mp4", "real", 0.2),
    judged("alarm <b>.mp4", "real", 0.7),
    judged("faceless.mp4", "real", None),
    EvaluatedClip("broken.mp4", "fake", None, "broken.mp4 is empty; copy it again."),
]


def write(out: Path, rows: list[EvaluatedClip], notes: tuple[str, ...] = ()) -> EvaluationReport:
    command = "genconvit evaluate --data 'a & b'"
    return write_evaluation(out, rows, DETECTOR, DecisionSettings(), command, notes)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation of `ROWS`; tests only read it."""
    out = tmp_path_factory.mktemp("evaluation") / "new" / "folder"
    write(out, ROWS, notes=("2 clips leak.",))
    return out


def test_everything_is_written_and_nothing_else(written: Path) -> None:
    names = {path.name for path in written.iterdir()}
    files = {"evaluation_report.json", "detailed_results.csv", "report.html"}
    files |= {"scores.csv", "scores.parquet", "reliability_diagram.png"}
    assert names == files | set(EVALUATION_FIGURES)


def test_json_says_what_was_measured_and_how(written: Path) -> None:
    stored = json.loads((written / "evaluation_report.json").read_text())
    assert EvaluationReport.model_validate(stored).model_dump(mode="json") == stored
    assert stored["detector"] == DETECTOR
    assert stored["decision"] == DecisionSettings().model_dump(mode="json")
    assert (stored["clips"], stored["judged"]) == (6, 5)
    assert stored["verdicts"] == {"FAKE": 2, "REAL": 2, "UNDECIDED": 1}
    assert stored["metrics"]["decided"]["accuracy"] == 0.5
    assert stored["metrics"]["without_score"] == 1
    reason = "broken.mp4 is empty; copy it again."
    assert stored["failures"] == [{"clip": "broken.mp4", "reason": reason}]
    assert stored["notes"] == [
        "2 clips leak.",
        "1 of 6 clips could not be judged and are in no figure.",
    ]


def test_csv_has_one_row_a_clip(written: Path) -> None:
    with (written / "detailed_results.csv").open(newline="") as file:
        table = {row["video_name"]: row for row in csv.DictReader(file)}
    assert list(table) == [row.name for row in ROWS]
    assert [row["correct"] for row in table.values()] == ["true", "false", "true", "false", "", ""]
    assert table["good.mp4"]["verdict"] == "FAKE"
    assert float(table["good.mp4"]["probability_fake"]) == 0.95
    assert (table["good.mp4"]["frames_sampled"], table["good.mp4"]["tracks"]) == ("4", "1")
    assert table["faceless.mp4"]["probability_fake"] == ""
    assert table["broken.mp4"]["verdict"] == ""
    assert table["broken.mp4"]["reason"] == "broken.mp4 is empty; copy it again."


def test_page_is_one_file_that_puts_the_worst_first(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(EVALUATION_FIGURES) + 1
    assert "http://" not in page
    assert "https://" not in page
    worst = page[page.index("Worst clips") :]
    assert worst.index("missed.mp4") < worst.index("alarm &lt;b&gt;.mp4")
    assert "alarm <b>" not in page
    assert "genconvit evaluate --data &#39;a &amp; b&#39;" in page
    assert "Of 2 fake clips it called 1 FAKE and 1 REAL" in page
    assert "0123456789ab" in page


def test_without_labels_there_are_predictions_only(tmp_path: Path) -> None:
    (tmp_path / "roc_curve.png").write_bytes(b"of an earlier, labelled evaluation")
    unlabelled = [EvaluatedClip(row.name, None, row.verdict, row.failure) for row in ROWS]
    report = write(tmp_path, unlabelled)
    assert report.metrics is None
    assert not list(tmp_path.glob("*.png"))
    page = (tmp_path / "report.html").read_text()
    assert "Accuracy" not in page
    assert "good.mp4" in page


def test_clips_without_a_label_are_in_no_figure(tmp_path: Path) -> None:
    report = write(tmp_path, [*ROWS[:4], judged("extra.mp4", None, 0.9)])
    assert report.metrics is not None
    assert report.metrics.clips == 4
    assert report.notes == ["1 of 5 clips have no label and are in no figure."]


def test_a_failed_evaluation_leaves_the_old_one_whole(tmp_path: Path) -> None:
    write(tmp_path, ROWS[:1])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(PydanticSerializationError):
        write_evaluation(tmp_path, ROWS, {"id": object}, DecisionSettings(), "genconvit evaluate")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_namesakes_in_two_folders_are_two_clips(tmp_path: Path) -> None:
    report = write(tmp_path, [judged("a/1.mp4", "fake", 0.9), judged("b/1.mp4", "real", 0.1)])
    assert report.clip_scores and report.clip_scores.auc == 1.0
    with (tmp_path / "detailed_results.csv").open(newline="") as file:
        found = [(row["video_name"], row["correct"]) for row in csv.DictReader(file)]
    assert found == [("a/1.mp4", "true"), ("b/1.mp4", "true")]
    with pytest.raises(ValueError, match="two clips have the same name"):
        write(tmp_path, [judged("a/1.mp4", "fake", 0.9), judged("a/1.mp4", "real", 0.1)])


def test_crop_scores_of_an_earlier_evaluation_go(tmp_path: Path) -> None:
    row = judged("a.mp4", "fake", 0.9)
    crops = [CropScore(0, 0.0, 0, (0, 0, 1, 1), 0.9, None)]
    report = write(tmp_path, [replace(row, crops=crops)])
    assert (tmp_path / "crop_scores.parquet").is_file()
    assert report.crop_scores and report.crop_scores.n == 1
    assert write(tmp_path, [row]).crop_scores is None
    assert not (tmp_path / "crop_scores.parquet").exists()


def test_a_clip_is_judged_or_failed() -> None:
    with pytest.raises(ValueError, match="either a verdict or a failure"):
        EvaluatedClip("clip.mp4", "fake", None, None)
