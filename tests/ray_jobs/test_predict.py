from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ray_jobs.cli import main


def judge(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict], str]:
    code = 0
    try:
        main(["predict", *map(str, arguments), "--json"])
    except SystemExit as error:
        code = int(error.code or 0)
    printed = capsys.readouterr()
    return code, [json.loads(line) for line in printed.out.splitlines()], printed.err


@pytest.fixture
def folder(clips: Path, tmp_path: Path) -> Path:
    shutil.copy(sorted(clips.parent.glob("test/real/*"))[0], tmp_path / "good.avi")
    (tmp_path / "letter.mp4").write_text("Dear reader")
    (tmp_path / "empty.mp4").touch()
    return tmp_path


def test_an_object_a_clip(capsys: pytest.CaptureFixture[str], detector: Path, folder: Path) -> None:
    code, [verdict], _ = judge(capsys, "--model", detector, folder / "good.avi")
    assert code == 0
    assert verdict["verdict"] in ("FAKE", "REAL", "UNDECIDED")
    assert 0 <= verdict["probability_fake"] <= 1
    assert verdict["reason"]
    point = verdict["timeline"][0]
    assert point.keys() == {"time_s", "frame_index", "track", "box", "probability_fake"}
    x0, y0, x1, y1 = point["box"]
    assert x0 < x1 and y0 < y1


def test_in_a_folder_failures_are_listed_and_the_rest_goes_on(
    capsys: pytest.CaptureFixture[str], detector: Path, folder: Path
) -> None:
    code, lines, err = judge(capsys, "--model", detector, folder)
    assert code == 0
    assert len([line for line in lines if "verdict" in line]) == 1
    assert len([line for line in lines if "error" in line]) == 2
    assert "letter.mp4" in err


@pytest.mark.parametrize("name", ["letter.mp4", "empty.mp4", "none.mp4"])
def test_one_bad_clip_exits_with_2_and_one_sentence(
    capsys: pytest.CaptureFixture[str], detector: Path, folder: Path, name: str
) -> None:
    code, lines, err = judge(capsys, "--model", detector, folder / name)
    assert code == 2
    assert name in err
    assert len(err.splitlines()) == 1
    assert not any("verdict" in line for line in lines)


def test_the_page_is_one_file_that_shows_the_crops(
    capsys: pytest.CaptureFixture[str], detector: Path, folder: Path, tmp_path: Path
) -> None:
    judge(capsys, "--model", detector, folder / "good.avi", "--out", tmp_path / "page")
    [page] = (tmp_path / "page").iterdir()
    text = page.read_text()
    assert text.count("data:image/jpeg") == 4
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_explained_verdicts_have_numbers_and_pictures(
    capsys: pytest.CaptureFixture[str], detector: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "page"
    given = ("--model", detector, folder / "good.avi", "--explain", "--out", out)
    code, [verdict], _ = judge(capsys, *given)
    assert code == 0
    assert 1 <= len(verdict["evidence"]) <= 2
    for crop in verdict["evidence"]:
        assert crop["check"]["sentence"] and crop["agreement"]["sentence"]
        assert crop["reconstruction_error"].keys() == {"ed", "vae"}
        assert (out / crop["picture"]).read_bytes().startswith(b"\x89PNG")
    text = (out / "verdict.html").read_text()
    assert verdict["evidence"][0]["check"]["sentence"] in " ".join(text.split())


def test_without_a_folder_an_explanation_is_numbers_alone(
    capsys: pytest.CaptureFixture[str], detector: Path, folder: Path
) -> None:
    code, [verdict], _ = judge(capsys, "--model", detector, folder / "good.avi", "--explain")
    assert code == 0
    assert verdict["evidence"]
    assert "picture" not in verdict["evidence"][0]


def test_a_table_is_not_explained(
    capsys: pytest.CaptureFixture[str], detector: Path, folder: Path, tmp_path: Path
) -> None:
    given = ("--model", detector, folder, "--explain", "--table", tmp_path / "table")
    code, _, err = judge(capsys, *given)
    assert code == 2
    assert "--explain" in err and "--table" in err


def test_the_threshold_can_be_moved(
    capsys: pytest.CaptureFixture[str], detector: Path, folder: Path
) -> None:
    words = [
        judge(capsys, "--model", detector, folder / "good.avi", "--threshold", threshold)[1][0]
        for threshold in ("0.01", "0.99")
    ]
    assert [word["verdict"] for word in words] == ["FAKE", "REAL"]


def test_what_is_no_detector_is_named(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, _, err = judge(capsys, "--model", folder, folder / "good.avi")
    assert code == 2
    assert "detector.json" in err
