from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from genconvit.config import DecisionSettings
from genconvit.data.audit.features import feature_names
from genconvit.evaluate.evaluated import CropScore, EvaluatedClip, decide_crops
from genconvit.evaluate.evaluation_tables import evaluation_tables
from genconvit.evaluate.report import write_evaluation

PLAIN = DecisionSettings()


def clip(place: int, label: str | None) -> EvaluatedClip:
    p_fake = (0.2 + 0.02 * place) if label == "real" else (0.4 + 0.02 * place)
    crops = [CropScore(0, 0.0, 0, (0, 0, 1, 1), p_fake, (p_fake, 0.3))]
    name = f"{label}/a_long_folder_of_clips/{place}.mp4"
    verdict = decide_crops(name, crops, 1, PLAIN)
    about = (f"g{place}", "a-method-with-a-long-name", "source")
    columns = {"codec": f"h26{place % 2}"}
    features = [float(place % (3 + each)) for each in range(len(feature_names()))]
    return EvaluatedClip(name, label, verdict, None, *about, columns, crops, features)


def shown(out: Path, rows: list[EvaluatedClip]) -> str:
    report = write_evaluation(out, rows, {"id": "x"}, PLAIN, "genconvit evaluate")
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(evaluation_tables(report))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [clip(place, label) for place in range(24) for label in ("real", "fake")]
    return shown(tmp_path_factory.mktemp("out"), rows)


def test_figures_groups_and_aggregations_are_shown(text: str) -> None:
    words = " ".join(text.split())
    assert "48 scores of 24 fake and 24 real clips" in words
    for figure in ("AUC 0.", "TPR at 5 % FPR 0.", "ECE 0.", "coverage 0.", "log loss 0."):
        assert figure in words
    assert "codec h260" in words and "real clips of source" in words
    assert "mean* 0." in words and "original" in words
    assert "Worst AUC: codec h26" in words  # not the one source, which has all clips
    assert "Choose an aggregation on validation clips" in words
    assert "What scores follow" in words and "Not measured: source;" in words


def test_the_page_shows_what_scores_follow(tmp_path: Path) -> None:
    rows = [clip(place, label) for place in range(24) for label in ("real", "fake")]
    shown(tmp_path, rows)
    page = (tmp_path / "report.html").read_text()
    section = page[page.index("<h2>What scores follow") :].split("</section>")[0]
    for family in ("resolution", "compression", "framing"):
        assert f'<th scope="row">{family}</th>' in section
    assert "Not measured: source; all clips of a class are alike in it." in section
    text = shown(tmp_path, [replace(row, features=None) for row in rows])
    assert "crops of these clips are not at hand" in " ".join(text.split())
    assert "most of all" not in text
    page = (tmp_path / "report.html").read_text()
    assert "the crops of these clips are not at hand" in page and "no proof" not in page


def test_nothing_is_cut_off_in_80_columns(text: str) -> None:
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    names = [line.split()[0] for line in text.splitlines() if line.split()]
    assert {"mean*", "median", "top_k", "max", "confident", "original"} <= set(names)


def test_without_labels_verdicts_are_counted(tmp_path: Path) -> None:
    text = shown(tmp_path, [clip(3, None)])
    assert "No labels: verdicts only" in " ".join(text.split())
    assert ["UNDECIDED", "1"] in [line.split() for line in text.splitlines()]
