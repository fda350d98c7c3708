from __future__ import annotations

from pathlib import Path

import pytest

from genconvit.checkpoint import read_info
from genconvit.overrides import all_settings
from ray_jobs.cli import main
from ray_jobs.options import (
    COMMON,
    DECISION,
    NETWORK,
    SAMPLING,
    TRAINING,
    Given,
    split_overrides,
)

# The options that users of the earlier training scripts know, as they wrote them.
KNOWN = [
    "--data",
    "--batch-size",
    "--epochs",
    "--lr",
    "--weight-decay",
    "--dropout-rate",
    "--ae-latent",
    "--vae-latent",
    "--lr-gamma",
    "--lr-patience",
    "--min-lr",
    "--early-stopping-patience",
    "--early-stopping-min-delta",
    "--classification-weight",
    "--ae-weight",
    "--vae-weight",
    "--vae-beta",
    "--resume",
    "--world-size",
    "--num-workers",
    "--config",
    "--preset",
    "--arch",
    "--net",
    "--no-attention",
    "--no-residual",
    "--seed",
    "--json",
    "--out",
]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    printed = capsys.readouterr()
    return int(caught.value.code or 0), printed.out, printed.err


@pytest.mark.parametrize("option", KNOWN)
def test_train_knows_the_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    code, out, _ = run(capsys, "train", "--help")
    assert code == 0
    assert option in out


def test_every_option_is_a_setting() -> None:
    names = dict(all_settings())
    for flags in (COMMON, DECISION, NETWORK, SAMPLING, TRAINING):
        assert {target.partition("=")[0] for target in flags.values()} <= names.keys()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--dropout-rate", "1.5"], "--dropout-rate 1.5: model.dropout_rate takes a number"),
        (["model.dropot_rate=0.1"], "did you mean model.dropout_rate"),
        (["--frames", "3", "--frame-interval", "2"], "exclude each other"),
        (["--config", "none.yaml"], "none.yaml cannot be read"),
    ],
)
def test_a_wrong_setting_ends_with_one_sentence_and_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    code, out, err = run(capsys, "train", "--data", "nowhere", *arguments)
    assert code == 2
    assert expected in err
    assert len(err.splitlines()) == 1
    assert not out


def test_an_unknown_option_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "train", "--data", "x", "--dropout-rte", "1")
    assert code == 2
    assert "--dropout-rate" in err


def test_settings_are_told_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.b=c").touch()
    files, assignments = split_overrides(["clip.mp4", "decision.threshold=0.7", "a.b=c", "x/y=z"])
    assert files == ["clip.mp4", "a.b=c", "x/y=z"]
    assert [item.name for item in assignments] == ["decision.threshold"]


def test_an_onnx_file_is_not_written_to_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "export", "--model", "x", "--out", "s3://bucket/a.onnx")
    assert code == 2
    assert "--out s3://bucket/a.onnx: an ONNX file is written to a local path" in err


@pytest.mark.parametrize(
    "command",
    [["evaluate", "--video-dir", "x"], ["predict", "x"], ["predict", "x", "--table", "t"]],
)
def test_settings_without_effect_on_a_detector_are_refused_by_name(
    command: list[str], detector: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["preprocess.margin=0.5", "train.lr=0.1", "decision.threshold=0.6"]
    code, _, err = run(capsys, *command, "--model", str(detector), *given)
    assert code == 2
    assert "preprocess.margin=0.5, train.lr=0.1: they have no effect here" in err
    assert "sampling" in err and "threshold" not in err
    assert len(err.splitlines()) == 1
    code, _, err = run(capsys, *command, "--model", str(detector), "frame=3")
    assert "there is no setting frame; did you mean sampling.frames" in err


def test_a_file_for_several_commands_is_taken_unless_it_means_other_crops(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "all.yaml"
    file.write_text("train: {lr: 0.1}\npreprocess: {size: 64}\nsampling: {frames: 2}\n")
    info = read_info(detector)
    settings = Given(file, []).overruling(info, "sampling", "decision")
    assert (settings.preprocess, settings.sampling.frames) == (info.preprocess, 2)
    file.write_text("preprocess: {size: 96}\n")
    code, _, err = run(
        capsys, "evaluate", "--model", str(detector), "--video-dir", "x", "--config", str(file)
    )
    assert code == 2
    assert f"preprocess.size=96 in {file}: this detector was trained on other crops" in err
