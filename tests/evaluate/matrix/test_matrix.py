from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from genconvit.evaluate.clip_failure import ClipFailure
from genconvit.evaluate.matrix.report import write_matrix
from genconvit.evaluate.matrix.results import UNNAMED, JudgedDataset, MatrixClip, Problem, cells_of
from genconvit.verdict import Verdict

MODELS = ("good", "poor")


def verdict(p_fake: float) -> Verdict:
    return Verdict(
        clip="",
        verdict="FAKE" if p_fake > 0.5 else "REAL",
        probability_fake=p_fake,
        reason="",
        frames_sampled=2,
        frames_with_face=2,
        tracks=[],
        timeline=[],
    )


def dataset(
    name: str, methods: tuple[str, ...], flatters: dict[str, str] | None = None
) -> JudgedDataset:
    """Four clips a method and as many real ones; the good model misses a clip of the last."""
    clips = []
    for place, method in enumerate(methods):
        for number in range(4):
            missed = place == len(methods) - 1 and number == 0
            good, poor = 0.1 if missed else 0.9 - number / 100, (number + place) / 10
            clips.append(
                MatrixClip(
                    "fake", method, f"f{number}", {"good": verdict(good), "poor": verdict(poor)}
                )
            )
    for number in range(4):
        scores = {"good": verdict(0.2 + number / 100), "poor": verdict(0.15 + number / 10)}
        clips.append(MatrixClip("real", "original", f"r{number}", scores))
    failures = [ClipFailure(clip="x.mp4", reason="it is a letter")]
    return JudgedDataset(name, f"/data/{name}", "test", "abc", clips, flatters or {}, failures)


def test_a_method_is_judged_against_all_real_clips() -> None:
    found = dataset("d", ("swap", "talk"))
    cells = cells_of(found, MODELS)
    assert [(cell.method, cell.model) for cell in cells] == [
        (None, "good"), (None, "poor"), ("swap", "good"), ("swap", "poor"),
        ("talk", "good"), ("talk", "poor"),
    ]  # fmt: skip
    for cell in cells:
        clips = [c for c in found.clips if c.label == "real" or cell.method in (None, c.method)]
        expected = roc_auc_score(
            [clip.label == "fake" for clip in clips],
            [clip.verdicts[cell.model].probability_fake for clip in clips],
        )
        assert cell.auc.value == pytest.approx(expected)
        assert cell.real == 4
        assert cell.fake == len(clips) - 4
    assert cells[2].accuracy.value == 1.0
    assert cells[4].accuracy.value == pytest.approx(7 / 8)


def test_fakes_without_a_method_have_a_row_only_beside_others() -> None:
    assert [cell.method for cell in cells_of(dataset("d", ("",)), ["good"])] == [None]
    mixed = [cell.method for cell in cells_of(dataset("d", ("", "swap")), ["good"])]
    assert mixed == [None, "swap", UNNAMED]


def test_a_dataset_of_one_class_is_undefined_and_not_an_error(tmp_path: Path) -> None:
    whole = dataset("d", ("swap",))
    reals = [clip for clip in whole.clips if clip.label == "real"]
    only = JudgedDataset("d", "/data/d", None, None, reals, {})
    report = write_matrix(tmp_path, [only], {"good": {}}, command="")
    assert report.cells[0].auc.value is None
    assert "it needs fake and real clips" in (tmp_path / "matrix.html").read_text()


def test_files_hold_every_cell_and_mark_those_that_flatter(tmp_path: Path) -> None:
    flatters = {"poor": "chosen by the val split of"}
    report = write_matrix(
        tmp_path,
        [dataset("first", ("swap", "talk")), dataset("second", ("swap",), flatters)],
        {"good": {"id": "good-1"}, "poor": {"id": "poor-1"}},
        command="genconvit evaluate --matrix",
        notes=["a note"],
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        "matrix.json", "matrix.csv", "matrix.html", "matrix.png",
    }  # fmt: skip
    with (tmp_path / "matrix.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report.cells) == 2 * (3 + 2)
    flattered = {(row["model"], row["dataset"]) for row in rows if row["flatters"]}
    assert flattered == {("poor", "second")}
    page = (tmp_path / "matrix.html").read_text()
    lead = page[page.index('class="lead"') :].split("</p>")[0]
    assert "first, test: good has the highest AUC, 0.875" in lead
    assert "good is weakest on talk of first" in page or "good is weakest on swap of second" in page
    assert "Figures with * flatter their model: poor was chosen by the val split of second." in page
    content = json.loads((tmp_path / "matrix.json").read_text())
    assert content["notes"][0] == "a note"
    assert "first: 1 of 13 clips could not be judged" in content["notes"][1]


def test_what_was_not_judged_is_a_word_in_its_cell_and_a_sentence_on_the_page(
    tmp_path: Path,
) -> None:
    crops = Problem(kind="other crops", reason="it was extracted for another size.")
    gone = Problem(kind="not readable", reason="/data/gone does not exist.")
    half = dataset("half", ("swap",))
    half = replace(half, problems={"poor": crops})
    lost = JudgedDataset(
        "gone", "/data/gone", None, None, [], {}, problems=dict.fromkeys(MODELS, gone)
    )
    report = write_matrix(tmp_path, [half, lost], {"good": {}, "poor": {}}, command="")
    with (tmp_path / "matrix.csv").open() as file:
        rows = [
            (row["dataset"], row["model"], bool(row["auc"]), row["problem"])
            for row in csv.DictReader(file)
        ]
    assert rows == [
        *[("half", "good", True, ""), ("half", "poor", False, "other crops")] * 2,
        ("gone", "good", False, "not readable"),
        ("gone", "poor", False, "not readable"),
    ]
    page = (tmp_path / "matrix.html").read_text()
    assert "gone was not judged: /data/gone does not exist." in page
    assert "poor did not judge half: it was extracted for another size." in page
    assert '<td colspan="4">other crops</td>' in page
    assert report.datasets[1].problems["good"] == gone
