from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import pytest

from ray_jobs.catalog import catalog
from ray_jobs.cli import main
from ray_jobs.output import Output


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"no clip")
    return folder


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    main_code(*arguments, "--json")
    [line] = capsys.readouterr().out.splitlines()
    told: dict[str, Any] = json.loads(line)
    return told


def main_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["catalog", *arguments])
    return int(caught.value.code or 0)


def test_it_counts_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "train/real/a.mp4", "train/fake/a.mp4", "val/fake/a.mp4", "val/real/b.mp4")
    (tmp_path / "val/real/b.mp4").write_bytes(b"")
    told = as_json(capsys, str(tmp_path), "--no-open")
    assert told["layout"] == "folder"
    assert told["counts"] == {
        "train": {"fake": 1, "real": 1, "none": 0},
        "val": {"fake": 1, "real": 1, "none": 0},
    }
    assert (told["clips"], told["groups"], told["mixed_groups"]) == (4, 2, 1)
    assert told["leaking_groups"] == ["a"]
    assert [bad["clip"] for bad in told["unreadable"]] == ["val/real/b.mp4"]
    assert told["reasons"] == {"empty": 1}


def test_every_file_is_opened_unless_told_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, *(f"fake/{number}.mp4" for number in range(25)))
    video = cv2.VideoWriter(
        str(tmp_path / "fake/good.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (32, 32)
    )
    video.write(np.zeros((32, 32, 3), np.uint8))
    video.release()
    cv2.imwrite(str(tmp_path / "fake/good.png"), np.zeros((8, 8, 3), np.uint8))
    assert main_code(str(tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "Unreadable: 25 (25 not a clip)" in shown
    assert "and 5 more" in shown
    told = catalog(str(tmp_path), Output(as_json=True))
    assert {bad["clip"] for bad in told["unreadable"]} == {f"fake/{n}.mp4" for n in range(25)}
    assert not catalog(str(tmp_path), Output(as_json=True), open_files=False)["unreadable"]


def test_people_see_layout_methods_missing_files_and_notes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, "Celeb-real/id0_0000.mp4", "Celeb-synthesis/id0_id1_0000.mp4")
    (tmp_path / "List_of_testing_videos.txt").write_text("1 Celeb-real/id5_0001.mp4\n")
    assert main_code(str(tmp_path), "--no-open") == 0
    shown = capsys.readouterr().out
    for expected in (
        "2 clips, laid out as celeb-df",
        "Celeb-synthesis",
        "Groups: 1, 1 with real and fake clips",
        "not there: 1",
        "  Celeb-real/id5_0001.mp4",
        "Note: Celeb-DF: the same people",
    ):
        assert expected in shown


def test_files_behind_a_url_are_only_checked_for_size() -> None:
    url, files = f"memory://{uuid.uuid4()}", fsspec.filesystem("memory")
    files.pipe_file(f"{url}/real/a.mp4", b"no clip")
    files.pipe_file(f"{url}/fake/b.mp4", b"")
    table = b"video_name,label\nreal/a.mp4,real\nfake/b.mp4,fake\nfake/c.mp4,fake\n"
    files.pipe_file(f"{url}/clips.csv", table)
    told = catalog(f"{url}/clips.csv", Output(as_json=True))
    assert told["reasons"] == {"empty": 1, "missing": 1}


def test_a_bad_path_ends_with_one_sentence_and_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_code(str(tmp_path / "absent")) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "does not exist" in error
    assert len(error.splitlines()) == 1
