from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from genconvit.checkpoint import DetectorInfo, load_network, read_info, save_detector
from genconvit.data.shards import open_dataset, read_clips
from genconvit.predict import load_detector
from ray_jobs.cli import main

pytestmark = pytest.mark.usefixtures("cluster")
RATE = ("--error-rate", "0.4")
"""The demo's val split has few groups."""


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([*map(str, arguments), "--json"])
    return int(caught.value.code or 0)


@pytest.fixture
def copy(detector: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(detector, tmp_path / "best"))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("method", ["temperature", "none"])
def test_a_calibrated_detector_judges_as_its_description_says(
    method: str, dataset: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(copy)
    command = ("calibrate", "--model", copy, "--data", dataset, "--method", method, *RATE)
    assert run(*command) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    info = read_info(copy)
    assert told["calibration"] == json.loads(info.model_dump_json())["calibration"]
    assert contents(copy)["model.safetensors"] == before["model.safetensors"]
    assert info.calibration is not None
    assert info.calibration.fit is not None
    assert info.calibration.fit.data_digest == open_dataset(dataset).digest
    assert (info.calibration.temperature == 1.0) is (method == "none")

    detector = load_detector(copy, "cpu")
    clips = read_clips(open_dataset(dataset), "val", 1000)
    verdicts = {name: detector.judge_crops(name, found)[0] for name, found in clips.items()}
    fit = info.calibration.fit
    assert len(verdicts) == fit.clips.fake + fit.clips.real
    scores = [verdict.probability_fake for verdict in verdicts.values()]
    for edge in info.decision.band:
        assert edge in [pytest.approx(score, abs=1e-5) for score in [*scores, 0.5]]
    for label, wrong in (("fake", "REAL"), ("real", "FAKE")):
        words = [verdict.verdict for name, verdict in verdicts.items() if f"/{label}/" in name]
        assert words
        assert words.count(wrong) <= 0.4 * len(words)  # type: ignore[arg-type]

    once = contents(copy)
    assert run(*command) == 0  # from the logits again, not on top of the first
    assert contents(copy) == once


def test_a_new_folder_leaves_the_old_detector(
    dataset: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, new = contents(copy), tmp_path / "new"
    command = ("calibrate", "--model", copy, "--data", dataset, *RATE, "--out", new)
    assert run(*command, "--aggregation", "median") == 0
    assert contents(copy) == before
    _, info = load_network(new)
    assert info.decision.aggregation == "median"
    assert info.weights_sha256 == read_info(copy).weights_sha256
    assert "40.0 %" in (new / "README.md").read_text()
    capsys.readouterr()
    assert run(*command) == 2
    assert f"{new} exists; give a new folder" in capsys.readouterr().err


def test_a_detector_behind_a_url_is_calibrated_into_another_place(
    dataset: Path, detector: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"file://{detector}"
    assert run("calibrate", "--model", url, "--data", dataset, *RATE) == 2
    assert "give a new folder or URL with --out" in capsys.readouterr().err
    new = "memory://calibrated/a"
    assert run("calibrate", "--model", url, "--data", dataset, *RATE, "--out", new) == 0
    assert load_network(new)[1].calibration is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "test"], "cannot test it any more; calibrate on the val split"),
        (["--split", "train"], "surer of them than of any others"),
        (["--split", "dev"], "there is no such split"),
        (["--method", "platt"], "the methods are temperature, isotonic, none"),
        (["--aggregation", "original"], "judges as published, without calibration"),
        (["--error-rate", "0.001"], "--error-rate 0.001 needs 999 groups"),
        (["--top-k", "0"], "decision.top_k"),
    ],
)
def test_wrong_input_ends_with_one_sentence_and_leaves_the_detector(
    arguments: list[str], message: str, dataset: Path, copy: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before = contents(copy)
    assert run("calibrate", "--model", copy, "--data", dataset, *arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert contents(copy) == before


def test_clips_that_it_was_trained_on_are_refused(
    dataset: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, info = load_network(copy)
    known = {"training": {"train_on_val": True}, "data_digest": open_dataset(dataset).digest}
    save_detector(copy, network.state_dict(), DetectorInfo(**{**dict(info), **known}))
    assert run("calibrate", "--model", copy, "--data", dataset, *RATE) == 2
    assert "was trained on the val split" in capsys.readouterr().err
