from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from genconvit.config import DecisionSettings
from genconvit.data.catalog import Clip
from genconvit.evaluate.evaluated import CropScore
from genconvit.evaluate.stored.score_table import CROP_SCORES, SCORES, Parts, part_row, write_tables
from genconvit.evaluate.stored.scores import read_scores
from genconvit.folder import Folder
from genconvit.verdict import Verdict

NAMES = [f"clip{number}" for number in range(12)]


def row(name: str, stamp: str, score: float | None) -> dict[str, Any]:
    """A judged clip of one crop; one that failed without a score."""
    if score is None:
        return part_row(name, stamp, None, [], "missing", f"{name} is not there", 0.1)
    crop = CropScore(3, 0.5, 1, (0, 0, 1, 1), score, (score, 1 - score))
    verdict = Verdict(
        clip=name,
        verdict="FAKE",
        probability_fake=score,
        reason="because",
        frames_sampled=4,
        frames_with_face=1,
        tracks=[],
        timeline=[],
    )
    return part_row(name, stamp, verdict, [crop], "", "", 0.1)


runs = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(NAMES), st.integers(0, 2), min_size=1),
        st.integers(1, 4),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40)
@given(runs)
def test_any_history_gives_each_clip_one_row_of_its_present_file_in_order(
    history: list[tuple[dict[str, int], int, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as place:
        for files, size, is_whole in history:
            stamps = {name: str(version) for name, version in files.items()}
            parts = Parts(Folder(place), stamps)
            todo = [name for name in stamps if name not in parts.known]
            todo = todo if is_whole else todo[: len(todo) // 2]  # the others are left by a kill
            for start in range(0, len(todo), size):
                some = todo[start : start + size]
                parts.add(row(name, stamps[name], int(stamps[name]) / 4) for name in some)
            if is_whole:
                assert [
                    (found["video_name"], found["score"]) for found in parts.in_order()
                ] == sorted((name, version / 4) for name, version in files.items())
                before = list(parts.in_order())
                parts.compact()
                again = Parts(Folder(place), stamps)
                assert list(again.in_order()) == before
                assert len(list(Path(place, "parts").iterdir())) == 1


def test_a_clip_that_failed_and_was_judged_later_counts_as_judged(tmp_path: Path) -> None:
    for scores in ((None, None), (0.7,)):
        parts = Parts(Folder(tmp_path), {"a": "", "b": ""})
        parts.add(row(name, "", score) for name, score in zip("ab", scores, strict=False))
    found = [(found["video_name"], found["score"]) for found in
             Parts(Folder(tmp_path), {"a": "", "b": ""}).in_order()]  # fmt: skip
    assert found == [("a", 0.7), ("b", None)]


def test_the_tables_hold_what_is_known_of_each_clip(tmp_path: Path) -> None:
    parts = Parts(Folder(tmp_path), {"a": "1", "b,\n": "1"})
    parts.add([row("a", "1", 0.25), row("b,\n", "1", None)])
    clips = {"a": Clip("s3://x/a", "a", "fake", "g", "swap", "web"), "b,\n": Clip("b", "b,\n")}
    write_tables(Folder(tmp_path), parts.in_order(), clips, "v2-nano", "abc")
    first, second = pq.read_table(tmp_path / SCORES).to_pylist()
    assert (first["label"], first["group"], first["score"]) == ("fake", "g", 0.25)
    assert (first["detector"], first["preprocess"], first["path"]) == ("v2-nano", "abc", "s3://x/a")
    assert (second["label"], second["score"], second["failure_kind"]) == (None, None, "missing")
    assert second["reason"] == "b,\n is not there"
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(line["video_name"], line["score"], line["label"]) for line in rows] == [
        ("a", "0.25", "fake"),
        ("b,\n", "", ""),
    ]
    [crop] = pq.read_table(tmp_path / CROP_SCORES).to_pylist()
    assert crop == {
        "video_name": "a",
        "frame_index": 3,
        "time_s": 0.5,
        "track": 1,
        "probability_fake": 0.25,
        "sigmoid_fake": 0.25,
        "sigmoid_real": 0.75,
    }


def test_other_columns_of_a_list_are_kept_and_those_of_the_table_not_replaced(
    tmp_path: Path,
) -> None:
    parts = Parts(Folder(tmp_path), {"a": "1", "b": "1"})
    parts.add([row("a", "1", 0.25), row("b", "1", 0.75)])
    said = {"codec": "h264", "score": "9", "list_score": "8"}
    clips = {"a": Clip("a", "a", "fake", columns=said), "b": Clip("b", "b", "real")}
    write_tables(Folder(tmp_path), parts.in_order(), clips, "v2-nano", "abc")
    first, second = pq.read_table(tmp_path / SCORES).to_pylist()
    assert (first["codec"], first["score"], first["list_score"]) == ("h264", 0.25, "8")
    assert first["list_list_score"] == "9"
    assert second["codec"] is None
    report = read_scores(tmp_path / "scores.csv", DecisionSettings())
    assert [clip.columns.get("codec") for clip in report.rows] == ["h264", None]
