from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genconvit.data.catalog import (
    Clip,
    attach_labels,
    default_group,
    find_clips,
    read_catalog,
)
from genconvit.errors import UserError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"clip")
    return folder


def table(folder: Path, text: str, name: str = "clips.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_folder_of_real_and_fake(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.mp4", "Fake/method/b.MOV", "real/notes.txt", "real/.hidden.mp4")
    assert find_clips(tmp_path) == [
        Clip(tmp_path / "Fake/method/b.MOV", "Fake/method/b.MOV", "fake", "b"),
        Clip(tmp_path / "real/a.mp4", "real/a.mp4", "real", "a"),
    ]


def test_folder_of_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/real/a.mp4", "val/fake/b.mp4", "test/fake/b.mp4", "valid/real/c.mp4")
    found = {clip.name: (clip.split, clip.label) for clip in find_clips(tmp_path)}
    assert found == {
        "train/real/a.mp4": ("train", "real"),
        "val/fake/b.mp4": ("val", "fake"),
        "test/fake/b.mp4": ("test", "fake"),
        "valid/real/c.mp4": ("val", "real"),
    }


def test_names_below_the_label_are_no_labels(tmp_path: Path) -> None:
    touch(tmp_path, "fake/real/a.mp4", "real/test/b.mp4", "real/fake.mp4")
    found = [(clip.label, clip.split) for clip in find_clips(tmp_path)]
    assert found == [("fake", None), ("real", None), ("real", None)]


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    touch(tmp_path / "real", "a.mp4", "deeper/b.jpg")
    clips = find_clips(tmp_path / "real")
    assert [(clip.name, clip.label, clip.split) for clip in clips] == [
        ("a.mp4", None, None),
        ("deeper/b.jpg", None, None),
    ]


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "a.mp4")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/real").symlink_to(tmp_path / "elsewhere")
    assert [clip.label for clip in find_clips(tmp_path / "set")] == ["real"]


def test_one_clip_whatever_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "upload")
    assert find_clips(tmp_path / "upload") == [Clip(tmp_path / "upload", "upload", group="upload")]


def test_same_stem_gives_different_names_and_one_group(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.mp4", "fake/a.mp4", "fake/a.avi")
    clips = find_clips(tmp_path)
    assert len({clip.name for clip in clips}) == 3
    assert {clip.group for clip in clips} == {"a"}


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("video7_003.png", "video7"),
        ("video7-frame12.jpg", "video7"),
        ("video7frame12.jpg", "video7"),
        ("id0_0001_frame12.png", "id0_0001"),
        ("000_003_0012.png", "000_003"),
        ("000_003.png", "000"),
        ("portrait.png", "portrait"),
        ("video7.png", "video7"),
        ("video7_003.mp4", "video7_003"),
        ("000_003.mp4", "000_003"),
    ],
)
def test_group_of_a_frame_is_its_video(name: str, group: str) -> None:
    assert default_group(Path("set/real", name), Path("set/real")) == group


@pytest.mark.parametrize("name", ["frame001.png", "frame_1.png", "0001.png", "img_7.jpg"])
def test_group_of_a_bare_frame_number_is_its_folder(name: str) -> None:
    assert default_group(Path("set/real/video7", name), Path("set/real")) == "video7"
    assert default_group(Path("set/real", name), Path("set/real")) == Path(name).stem


def test_numbered_photographs_are_groups_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "real/real_1.jpg", "real/real_2.jpg")
    assert [clip.group for clip in find_clips(tmp_path)] == ["real_1", "real_2"]


@given(st.text("abc019_-. ", min_size=1).filter(lambda stem: stem.strip(" .")))
def test_no_group_is_empty(stem: str) -> None:
    assert default_group(Path("real") / f"{stem}.png", Path("real"))
    assert default_group(Path("real") / f"{stem}.mp4", Path("real")) == stem


def test_csv_with_every_column(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.mp4")
    rows = "video_name,label,group,method,source,split\nx/a.mp4,FAKE,g1,swap,film,Val\n"
    (clip,) = find_clips(table(tmp_path, rows))
    assert clip == Clip(tmp_path / "x/a.mp4", "x/a.mp4", "fake", "g1", "swap", "film", "val")


def test_other_columns_are_kept(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "labels").mkdir()
    rows = "video_name,label,Codec,note\na.mp4,real,h264,\nb.mp4,fake,,\n"
    assert [clip.columns for clip in find_clips(table(tmp_path, rows))] == [{"codec": "h264"}, {}]
    line = '{"path": "a.mp4", "label": "real", "codec": "vp9", "level": 3, "tags": [1]}'
    labels = table(tmp_path / "labels", line, "labels.jsonl")
    first = attach_labels(find_clips(tmp_path / "clips.csv"), labels)[0]
    assert first.columns == {"codec": "vp9", "level": "3"}


def test_csv_needs_only_name_and_label(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "real/video7/001.png")
    rows = "\ufefflabel, video_name\nreal,a.mp4\n\n Fake , real/video7/001.png \n"
    clips = find_clips(table(tmp_path, rows))
    assert [(clip.label, clip.group, clip.split) for clip in clips] == [
        ("real", "a", None),
        ("fake", "video7", None),
    ]


def test_files_missing_from_a_csv_are_left_to_fail(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    rows = "video_name,label\na.mp4,real\nb.mp4,fake\n"
    assert [clip.name for clip in find_clips(table(tmp_path, rows))] == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the column"),
        ("name,label\na.mp4,real\n", "lacks the column"),
        ("video_name;label\na.mp4;real\n", "lacks the column"),
        ("video_name,label\n", "no rows"),
        ("video_name,label\na.mp4,deepfake\n", "line 2 .*'deepfake'.*real or fake"),
        ("label,video_name\nreal\n", "line 2 .*no video_name"),
        ("video_name,label,split\na.mp4,real,dev\n", "line 2 .*'dev'"),
        ("video_name,label\na.mp4,real\n./a.mp4,fake\n", "a.mp4 more than once"),
        ("video_name,label\nb.mp4,real\nc.mp4,fake\n", "none of the 2 clips"),
    ],
)
def test_wrong_csv_is_refused(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "a.mp4")
    with pytest.raises(UserError, match=message):
        find_clips(table(tmp_path, text))


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.mp4")
    (tmp_path / "real" / os.fsdecode(b"b\xff.mp4")).write_bytes(b"x")
    with pytest.raises(UserError, match=r"not UTF-8: 'real/b\\udcff\.mp4'"):
        find_clips(tmp_path)


def test_a_list_needs_no_labels_but_ground_truth_does(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    clips = find_clips(table(tmp_path, "video_name\na.mp4\n"))
    assert [(clip.name, clip.label) for clip in clips] == [("a.mp4", None)]
    with pytest.raises(UserError, match=r"no label for a\.mp4"):
        attach_labels(clips, tmp_path / "clips.csv")


def test_csv_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_bytes(b"\xff\xfe\x00v")
    with pytest.raises(UserError, match="UTF-8"):
        find_clips(tmp_path / "clips.csv")


ROWS = [
    {"path": "x/a.mp4", "label": "FAKE", "group": 7, "method": "swap", "split": "Val", "note": []},
    {"video_name": "b.mp4", "label": "real", "group": None},
]


@pytest.mark.parametrize(
    ("name", "text"),
    [("clips.json", json.dumps(ROWS)), ("clips.jsonl", "\n\n".join(map(json.dumps, ROWS)))],
)
def test_json_rows_are_those_of_a_csv(tmp_path: Path, name: str, text: str) -> None:
    touch(tmp_path, "x/a.mp4", "b.mp4")
    catalog = read_catalog(table(tmp_path, text, name))
    assert catalog.layout == name.partition(".")[2]
    assert catalog.clips == [
        Clip(tmp_path / "x/a.mp4", "x/a.mp4", "fake", "7", "swap", split="val"),
        Clip(tmp_path / "b.mp4", "b.mp4", "real", "b"),
    ]
    labelled = attach_labels(find_clips(tmp_path), tmp_path / name)
    assert {clip.name: clip.label for clip in labelled} == {"x/a.mp4": "fake", "b.mp4": "real"}


WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"]), max_size=8
)


@settings(max_examples=30)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"path": st.from_regex("[a-z]{1,8}[.]mp4", fullmatch=True)},
            optional={"group": WORDS, "method": WORDS, "source": WORDS},
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda row: row["path"],
    )
)
def test_what_is_written_as_jsonl_is_read(rows: list[dict[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = touch(Path(name), rows[0]["path"])
        lines = [json.dumps({**row, "label": "fake"}, ensure_ascii=False) for row in rows]
        (folder / "clips.jsonl").write_text("\n".join(lines), encoding="utf-8")
        clips = find_clips(folder / "clips.jsonl")
    assert [(c.name, c.method, c.source) for c in clips] == [
        (row["path"], row.get("method", ""), row.get("source", "")) for row in rows
    ]
    assert [c.group for c in clips] == [row.get("group") or Path(row["path"]).stem for row in rows]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.jsonl", '{"path": "a.mp4", "label": "real"}\n{"path"', "line 2 .* is not JSON"),
        ("c.jsonl", '["a.mp4"]', "line 1 .* is not an object"),
        ("c.jsonl", '{"label": "real"}', "line 1 .* no video_name"),
        ("c.jsonl", '{"path": "a.mp4", "label": ["real"]}', "line 1 .* a label that is not a word"),
        ("c.jsonl", "\n", "no rows"),
        ("c.json", '[{"path": "a.mp4", "label": "true"}]', "entry 1 .*'true'"),
        ("c.json", '{"path": "a.mp4"}', "not a list"),
        ("c.json", "[", "is not JSON"),
        ("c.json", '[{"path": "b.mp4", "label": "real"}]', "none of the 1 clips"),
    ],
)
def test_wrong_json_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    touch(tmp_path, "a.mp4")
    with pytest.raises(UserError, match=message):
        find_clips(table(tmp_path, text, name))


def test_a_row_may_name_a_folder_of_frames(tmp_path: Path) -> None:
    touch(tmp_path, "real/id0_0001/0.png")
    (clip,) = find_clips(table(tmp_path, "path,label\nreal/id0_0001,real\n"))
    assert (clip.path, clip.group) == (tmp_path / "real/id0_0001", "id0_0001")


def test_missing_path_and_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        find_clips(tmp_path / "absent")
    with pytest.raises(UserError, match="no video or image"):
        find_clips(tmp_path)


def test_labels_match_by_path_then_name_then_file_name(tmp_path: Path) -> None:
    touch(tmp_path, "set/x/a.mp4", "set/x/b.mp4", "set/y/c.mp4")
    rows = "video_name,label,method\nset/x/a.mp4,fake,swap\nx/b.mp4,real,\nc.mp4,FAKE,\n"
    clips = attach_labels(find_clips(tmp_path / "set"), table(tmp_path, rows))
    assert [(clip.name, clip.label, clip.method) for clip in clips] == [
        ("x/a.mp4", "fake", "swap"),
        ("x/b.mp4", "real", ""),
        ("y/c.mp4", "fake", ""),
    ]


def test_a_row_never_labels_a_namesake_in_another_folder(tmp_path: Path) -> None:
    touch(tmp_path, "set/x/1.mp4", "set/y/1.mp4")
    (tmp_path / "lists").mkdir()
    rows = "video_name,label\nx/1.mp4,fake\ny/1.mp4,real\nz/1.mp4,fake\n"
    clips = attach_labels(find_clips(tmp_path / "set"), table(tmp_path / "lists", rows))
    assert [(clip.name, clip.label) for clip in clips] == [
        ("x/1.mp4", "fake"),
        ("y/1.mp4", "real"),
        ("z/1.mp4", "fake"),  # missing, and left to fail
    ]


def test_labels_of_the_table_replace_those_of_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.mp4")
    (clip,) = attach_labels(find_clips(tmp_path), table(tmp_path, "video_name,label\na.mp4,fake\n"))
    assert (clip.label, clip.group) == ("fake", "a")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("z.mp4,fake\n", "none of the 1 names .* z.mp4"),
        ("a.mp4,real\n", "2 clips have that file name"),
        ("x/a.mp4,real\n./x/a.mp4,fake\ny/a.mp4,fake\n", "x/a.mp4 twice"),
        ("x/a.mp4,real\nz.mp4,real\nz.mp4,fake\n", "z.mp4 twice"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, rows: str, message: str) -> None:
    touch(tmp_path, "x/a.mp4", "y/a.mp4")
    with pytest.raises(UserError, match=message):
        attach_labels(find_clips(tmp_path), table(tmp_path, "video_name,label\n" + rows))


def test_what_has_no_row_or_no_file_is_kept_apart(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.mp4", "y/b.mp4")
    rows = table(tmp_path, "video_name,label\nx/a.mp4,real\nx/gone.mp4,fake\n")
    labelled, bare, gone = attach_labels(find_clips(tmp_path), rows)
    assert (labelled.name, labelled.label) == ("x/a.mp4", "real")
    assert (bare.name, bare.label) == ("y/b.mp4", None)
    assert (gone.name, gone.label, gone.path.exists()) == ("x/gone.mp4", "fake", False)


def test_missing_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        attach_labels([], tmp_path / "absent.csv")


def test_shared_clips_are_found_both_ways(shared: Path) -> None:
    videos = shared / "data/videos"
    by_folder = {clip.name: clip for clip in find_clips(videos)}
    by_table = {clip.name: clip for clip in find_clips(videos / "clips.csv")}
    assert set(by_folder) == set(by_table)
    for name, clip in by_table.items():
        assert (by_folder[name].label, by_folder[name].split) == (clip.label, clip.split)
    val = attach_labels(find_clips(videos / "val"), videos / "val_labels.csv")
    assert {(clip.name.split("/")[0], clip.label) for clip in val} == {
        ("real", "real"),
        ("fake", "fake"),
    }
