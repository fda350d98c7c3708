from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genconvit.config import DecisionSettings
from genconvit.errors import UserError
from genconvit.evaluate.evaluated import CropScore, EvaluatedClip, decide_crops
from genconvit.evaluate.stored.scores import read_scores, write_scores

PLAIN = DecisionSettings()


def table(folder: Path, text: str, name: str = "scores.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def crops(*p_fakes: float) -> list[CropScore]:
    return [CropScore(3 * i, i / 10, 0, (0, 0, 0, 0), p, (p, 1 - p)) for i, p in enumerate(p_fakes)]


def judged(name: str, scores: list[CropScore], **about: object) -> EvaluatedClip:
    verdict = decide_crops(name, scores, 4, PLAIN)
    return EvaluatedClip(name, "fake", verdict, None, **about, crops=scores)  # type: ignore[arg-type]


def test_scores_are_judged_and_everything_else_of_a_clip_is_kept(tmp_path: Path) -> None:
    rows = (
        "video_name,score,label,group,method,source,codec,verdict\n"
        "x/a.mp4,0.9,FAKE,g1,swap,film,h264,REAL\nx/b.mp4,0.52,real,,,,,\nx/c.mp4,,real,,,,,\n"
        "x/d.mp4,NaN,,,,,,\n"
    )
    stored = read_scores(table(tmp_path, rows), DecisionSettings(threshold=0.6))
    words = [row.verdict.verdict for row in stored.rows if row.verdict]
    assert words == ["FAKE", "REAL", "UNDECIDED", "UNDECIDED"]
    first = stored.rows[0]
    assert (first.name, first.label, first.group) == ("x/a.mp4", "fake", "g1")
    assert (first.method, first.source, first.columns) == ("swap", "film", {"codec": "h264"})
    assert [row.label for row in stored.rows] == ["fake", "real", "real", None]
    assert stored.rows[2].verdict and stored.rows[2].verdict.probability_fake is None


def test_labels_may_come_from_another_table_and_namesakes_stay_apart(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    labels = table(
        tmp_path / "labels",
        "video_name,label,codec\nx/1.mp4,real,a\ny/1.mp4,fake,b\nz/1.mp4,fake,b\n",
    )
    scores = table(tmp_path, "video_name,score\ny/1.mp4,0.9\nx/1.mp4,0.2\nw/1.mp4,0.3\n")
    rows = read_scores(scores, PLAIN, labels).rows
    assert [(row.name, row.label, row.columns.get("codec")) for row in rows] == [
        ("y/1.mp4", "fake", "b"),
        ("x/1.mp4", "real", "a"),
        ("w/1.mp4", None, None),
        ("z/1.mp4", "fake", "b"),
    ]
    assert rows[3].failure == f"it has no score in {scores}"


ROWS = [
    judged("a/1.mp4", crops(0.9, 0.2, 0.8), group="g", method="swap", columns={"codec": "vp9"}),
    judged("b/1.mp4", crops(0.1), source="film, in colour"),
    judged("none.mp4", []),
    EvaluatedClip("broken.mp4", "real", None, 'it is "empty"', columns={"codec": "vp9"}),
]


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet", "crop_scores.parquet"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    assert name in write_scores(tmp_path, ROWS)
    stored = read_scores(tmp_path / name, PLAIN)
    assert stored.notes == []
    for row, again in zip(ROWS, stored.rows, strict=True):
        for field in ("name", "label", "failure", "group", "method", "source", "columns"):
            assert getattr(row, field) == getattr(again, field)
        if row.verdict is None or again.verdict is None:
            assert row.verdict == again.verdict
        elif stored.of_crops:
            assert row.verdict == again.verdict
            assert list(row.crops) == list(again.crops)
        else:
            assert row.verdict.verdict == again.verdict.verdict
            assert row.verdict.probability_fake == again.verdict.probability_fake
            assert row.verdict.frames_with_face == again.verdict.frames_with_face


def test_crops_can_be_aggregated_in_another_way(tmp_path: Path) -> None:
    write_scores(tmp_path, ROWS)
    for name, expected in (("median", 0.8), ("max", pytest.approx(1.9 / 3)), ("original", None)):
        decision = DecisionSettings.model_validate({"aggregation": name})
        first = read_scores(tmp_path / "crop_scores.parquet", decision).rows[0].verdict
        assert first
        if expected is not None:
            assert first.probability_fake == expected
        else:
            assert first.reason.startswith("mean sigmoids 0.63 fake and 0.37 real")


def test_crops_alone_tell_that_clips_may_be_missing(tmp_path: Path) -> None:
    write_scores(tmp_path, ROWS)
    for beside in ("scores.csv", "scores.parquet"):
        (tmp_path / beside).unlink()
    stored = read_scores(tmp_path / "crop_scores.parquet", PLAIN)
    assert [row.name for row in stored.rows] == ["a/1.mp4", "b/1.mp4"]
    assert "clips without a face are in no figure" in stored.notes[0]


CELL = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=6)


@settings(max_examples=30)
@given(
    st.dictionaries(
        CELL.filter(lambda text: text not in ("", ".", "..") and "/" not in text),
        st.tuples(st.none() | st.floats(0, 1), st.sampled_from(["", "real", "fake"]), CELL),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
def test_any_table_is_read_as_it_was_written(rows: dict, parquet: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s")
        lines = [
            {"video_name": name, "score": score, "label": label or None, "note": note or None}
            for name, (score, label, note) in rows.items()
        ]
        if parquet:
            kinds = [("video_name", "string"), ("score", "double"), ("label", "string")]
            pq.write_table(
                pa.Table.from_pylist(lines, pa.schema([*kinds, ("note", "string")])), path
            )
        else:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(lines[0]))
                writer.writeheader()
                writer.writerows(lines)
        stored = read_scores(path, PLAIN)
    for row, (name, (score, label, note)) in zip(stored.rows, rows.items(), strict=True):
        assert (row.name, row.label or "", row.columns.get("note", "")) == (name, label, note)
        assert row.verdict and row.verdict.probability_fake == score


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the column video_name"),
        ("name,score\na,0.5\n", "lacks the column video_name"),
        ("video_name,p\na,0.5\n", "lacks the column score"),
        ("video_name,score\n", "has no rows"),
        ("video_name,score,score\na,1,1\n", "has the column 'score' twice"),
        ("video_name,score\na,0.5,7\n", "line 2 .* has 3 cells for 2 columns"),
        ("video_name,score\n,0.5\n", "line 2 .* has no video_name"),
        ("video_name,score\na,0.5\nb,high\n", "line 3 .* has the score 'high'; write a number"),
        ("video_name,score\na,1.01\n", "line 2 .* has the score '1.01'"),
        ("video_name,score\na,-0.1\n", "line 2 .* has the score '-0.1'"),
        ("video_name,score\na,inf\n", "line 2 .* has the score 'inf'"),
        ("video_name,score\na,0.5\n./a,0.5\n", "line 3 .* has the video_name a again"),
        ("video_name,score,label\na,0.5,1\n", "line 2 .* has the label '1'; write real or fake"),
        ("video_name,score,frames_sampled\na,0.5,2.5\n", "line 2 .* has the frames_sampled '2.5'"),
        ("video_name,frame_index,probability_fake\na,1,0.5\n", "line 2 .* has no track"),
        (
            "video_name,frame_index,time_s,track,probability_fake\na,1,0,0,\n",
            "line 2 .* has no probability_fake",
        ),
        (
            "video_name,frame_index,time_s,track,probability_fake\na,1,-1,0,0.5\n",
            "line 2 .* has the time_s '-1'; write seconds",
        ),
        (
            "video_name,frame_index,time_s,track,probability_fake\na,1,0,0,0.5\na,1,0,0,0.5\n",
            "line 3 .* has track 0 in frame_index 1 of a again",
        ),
    ],
)
def test_wrong_scores_are_refused_by_row_and_column(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_scores(table(tmp_path, text, "s.csv"), PLAIN)
    assert "\n" not in str(caught.value)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_scores(tmp_path / "absent.csv", PLAIN)
    (tmp_path / "s.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="damaged Parquet"):
        read_scores(tmp_path / "s.parquet", PLAIN)
    pq.write_table(pa.table({"video_name": ["a"], "score": [2.0]}), tmp_path / "s.parquet")
    with pytest.raises(UserError, match=r"row 1 of .* has the score '2\.0'"):
        read_scores(tmp_path / "s.parquet", PLAIN)


def test_the_published_aggregation_needs_sigmoids_of_crops(tmp_path: Path) -> None:
    original = DecisionSettings.model_validate({"aggregation": "original"})
    with pytest.raises(UserError, match="no sigmoids of crops"):
        read_scores(table(tmp_path, "video_name,score\na,0.5\n"), original)
    lone = "video_name,frame_index,time_s,track,probability_fake\na,1,0,0,0.5\n"
    with pytest.raises(UserError, match="sigmoid_fake and sigmoid_real"):
        read_scores(table(tmp_path, lone, "c.csv"), original)
