from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from genconvit.checkpoint import load_network, save_detector
from ray_jobs.cli import main

pytestmark = pytest.mark.usefixtures("cluster")


def robustness(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "--robustness", *map(str, arguments), "--json"])
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def folder(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two fake clips, two real ones and a letter."""
    path = tmp_path_factory.mktemp("few")
    for label in ("real", "fake"):
        (path / label).mkdir()
        for clip in sorted(clips.parent.glob(f"val/{label}/*"))[:2]:
            shutil.copy(clip, path / label)
    (path / "fake" / "letter.mp4").write_text("Dear reader")
    return path


@pytest.fixture(scope="module")
def models(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two detectors of the same weights."""
    network, info = load_network(detector)
    # Whole frames as faces: to look for faces in every one of them takes most of the time.
    whole = info.preprocess.model_copy(update={"detector": "none"})
    info = info.model_copy(update={"preprocess": whole})
    paths = [tmp_path_factory.mktemp("models") / name for name in ("one", "other")]
    for path in paths:
        save_detector(path, network.state_dict(), info)
    return paths


def test_one_model_is_evaluated_and_distorted_in_one_report(
    folder: Path, models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = robustness(
        "--model", models[0], "--video-dir", folder, "--frames", "1", "--clips", "4", "--out", out
    )
    shown = capsys.readouterr()
    assert code == 0, shown.err
    report = json.loads((out / "evaluation_report.json").read_text())
    assert (report["clips"], report["judged"]) == (5, 4)
    section = report["robustness"]
    assert section["fake"] in (1, 2)  # the letter may be one of the two
    assert section["real"] == 2
    curves = json.loads((out / "robustness.json").read_text())["models"][0]["curves"]
    assert [row["auc"] for row in section["rows"]] == [c["levels"][-1]["auc"] for c in curves]
    page, other = ((out / name).read_text() for name in ("report.html", "robustness.html"))
    assert "<h2>Robustness</h2>" in page and 'href="robustness.html"' in page
    assert "JPEG quality 10" in page
    assert 'href="report.html"' in other
    assert "--robustness --clips 4" in report["command"]
    events = [json.loads(line)["event"] for line in shown.out.splitlines()]
    assert events == ["robustness", "evaluated"]


def test_models_are_judged_side_by_side_on_distorted_clips(
    folder: Path, models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = robustness(
        "--model", models[0], "--model", models[1], "--video-dir", folder, "--frames", "1",
        "--clips", "9", "--out", out,
    )  # fmt: skip
    shown = capsys.readouterr()
    assert code == 0, shown.err
    content = json.loads((out / "robustness.json").read_text())
    assert (content["clips"], content["fake"], content["real"]) == (4, 2, 2)
    assert [failure["clip"] for failure in content["failures"]] == ["fake/letter.mp4"]
    assert any("1 of 5 clips could not be judged" in note for note in content["notes"])
    first, second = content["models"]
    assert [first["name"], second["name"]] == ["one", "other"]
    assert first["curves"] == second["curves"]  # the same weights
    measured = {curve["distortion"] for curve in first["curves"]}
    has_ffmpeg = shutil.which("ffmpeg") is not None
    assert ("h264" in measured) == has_ffmpeg
    assert ("H.264 is not measured: the program ffmpeg is not on the PATH" in shown.err) != (
        has_ffmpeg
    )
    drifts = {curve["distortion"]: curve["levels"][-1]["drift_fake"] for curve in first["curves"]}
    assert drifts["noise"] != 0.0
    assert drifts["crop_shift"] != 0.0
    assert drifts["frame_drop"] == 0.0  # of one frame, one is kept
    with (out / "robustness.csv").open() as file:
        assert {row["model"] for row in csv.DictReader(file)} == {"one", "other"}
    events = [json.loads(line) for line in shown.out.splitlines()]
    assert [event["event"] for event in events] == ["robustness"]
    assert not (out / "report.html").exists()
    assert "report.html" not in (out / "robustness.html").read_text()
    assert content["evaluated_data"]["location"] == str(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "DETECTOR"], "give --video-dir with"),
        (["--model", "DETECTOR", "--data", "x"], "give --video-dir with"),
        (["--video-dir", "FOLDER"], "give --model"),
        (["--model", "DETECTOR", "--model", "DETECTOR", "--video-dir", "FOLDER"], "given twice"),
        (["--model", "DETECTOR", "--video-dir", "FOLDER/real/UNLABELLED"], "no clip has a label"),
        (["--model", "DETECTOR", "--video-dir", "FOLDER", "--matrix"], "one of --robustness"),
        (["--model", "DETECTOR", "--video-dir", "FOLDER", "--scores", "x.csv"], "leave --scores"),
        (["--model", "DETECTOR", "--model", "x", "--video-dir", "FOLDER", "--card"], "leave them"),
        (["--model", "DETECTOR", "--video-dir", "FOLDER", "--split", "val"], "leave --split out"),
    ],
)
def test_wrong_input_ends_with_one_sentence_and_2(
    folder: Path,
    detector: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(next((folder / "real").iterdir()), bare)
    places = {"DETECTOR": detector, "FOLDER": folder, "FOLDER/real/UNLABELLED": bare}
    assert robustness(*(places.get(text, text) for text in arguments)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
