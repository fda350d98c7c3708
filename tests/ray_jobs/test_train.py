from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from genconvit import load_detector
from genconvit.checkpoint import WEIGHTS
from genconvit.config import Settings
from genconvit.data.shards import open_dataset
from genconvit.errors import UserError
from genconvit.files import locked
from genconvit.overrides import parse_assignment, resolve_settings
from ray_jobs.cli import main
from ray_jobs.output import Output
from ray_jobs.train import train
from ray_jobs.train_settings import settings_for
from tests.conftest import small_settings, without_test_split

pytestmark = pytest.mark.usefixtures("cluster")
QUIET = Output(as_json=True)
JOB = ("train.epochs=2", "train.batch_size=16", "train.num_workers=2", "train.lr=1e-3")


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on two workers."""
    out = tmp_path_factory.mktemp("runs") / "a"
    train([dataset], small_settings(*JOB), out, QUIET)
    return out


def results(run: Path) -> dict:
    content: dict = json.loads((run / "results.json").read_text())
    return content


def test_a_run_leaves_what_it_promises(run: Path) -> None:
    for name in ("best", "last"):
        for file in ("model.safetensors", "detector.json", "README.md"):
            assert (run / name / file).is_file()
    for name in ("training.log", "loss_curves.png", "metric_curves.png", "settings.yaml"):
        assert (run / name).stat().st_size > 0
    assert len(results(run)["history"]) == 2
    assert results(run)["finished"]


def test_every_validation_crop_counts_once_on_two_workers(run: Path, dataset: Path) -> None:
    info = json.loads((run / "last" / "detector.json").read_text())
    assert info["training"]["val_crops"] == sum(open_dataset(dataset).counts["val"].values())


def test_the_detector_judges_clips(run: Path, clips: Path) -> None:
    clip = sorted(clips.parent.glob("test/fake/*"))[0]
    assert load_detector(run / "best").judge(clip).probability_fake is not None


def test_a_finished_run_resumed_says_so_and_does_nothing(
    run: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "results.json").stat().st_mtime_ns
    with pytest.raises(SystemExit) as caught:
        main(["train", "--data", str(dataset), "--resume", str(run)])
    assert caught.value.code == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (run / "results.json").stat().st_mtime_ns == before


def test_a_run_is_not_overwritten(run: Path, dataset: Path) -> None:
    with pytest.raises(UserError, match="holds a run already"):
        train([dataset], small_settings(*JOB), run, QUIET)


def test_a_run_is_trained_by_one_process_at_a_time(dataset: Path, tmp_path: Path) -> None:
    def busy() -> None:
        raise AssertionError("nobody was there")

    with locked(tmp_path, busy), pytest.raises(UserError, match="another process is training"):
        train([dataset], small_settings(*JOB), tmp_path, QUIET)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["train", *map(str, arguments)])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    return err


def test_a_foreign_weights_file_is_refused_with_the_reason(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "checkpoint.pth"
    file.write_bytes(b"weights")
    message = refused(capsys, "--data", dataset, "--resume", file)
    assert "no optimiser state" in message


def test_a_run_that_is_not_there_is_named(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no run there" in refused(capsys, "--data", dataset, "--resume", "nobody")


def test_data_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "--data", tmp_path / "none", "--out", tmp_path / "out")
    assert "does not exist" in message
    assert not (tmp_path / "out").exists()


def test_a_mistake_inside_a_worker_ends_with_its_sentence(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(
        capsys, "--data", dataset, "--out", tmp_path / "out", "--preset", "nano", "--epochs", "1",
        "--num-workers", "1", "model.backbone=convnext_nowhere",
    )  # fmt: skip
    assert "convnext_nowhere" in message


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_read(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    message = refused(capsys, "--data", dataset, "--out", tmp_path / "file" / "run")
    assert "cannot be written to" in message and "--out" in message


@pytest.mark.slow
def test_a_run_starts_from_a_detector(run: Path, dataset: Path, tmp_path: Path) -> None:
    """A rate of almost nothing leaves its weights as they are."""
    start = small_settings("train.epochs=1", "train.batch_size=16", "train.lr=1e-12")
    train_settings = start.train.model_copy(update={"init": str(run / "best")})
    plain = Settings(seed=3, train=train_settings)
    train([dataset], plain, tmp_path / "b", QUIET)
    one, two = (load_file(folder / "best" / WEIGHTS) for folder in (run, tmp_path / "b"))
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=1e-6), name
    settings = resolve_settings(tmp_path / "b" / "settings.yaml")
    assert settings.model.preset == "nano"
    assert settings.train.init == str(run / "best")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("model.net=ed",), r"has model\.net=v2, and ed is asked for; leave model\.net out"),
        (("preprocess.size=96",), "other preprocess settings"),
    ],
)
def test_a_detector_that_does_not_fit_is_no_start(
    run: Path, dataset: Path, texts: tuple[str, ...], message: str
) -> None:
    line = [f"train.init={run / 'best'}", *texts]
    job = resolve_settings(assignments=[parse_assignment(text) for text in line])
    with pytest.raises(UserError, match=message):
        settings_for(open_dataset(dataset), job)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("preprocess.margin=0.7",), "other preprocess settings"),
        (("loss.classification_weight=0",), "classification_weight"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(
    dataset: Path, texts: tuple[str, ...], message: str
) -> None:
    job: Settings = small_settings(*texts)
    with pytest.raises(UserError, match=message):
        settings_for(open_dataset(dataset), job)


def test_without_an_auxiliary_weight_original_stays_as_it_is(dataset: Path) -> None:
    """It has no such heads; workers read the settings anew and refuse what it does not have."""
    given = small_settings("model.arch=original", "loss.aux_weight=0")
    job = settings_for(open_dataset(dataset), given)
    assert Settings.model_validate_json(job.model_dump_json()) == job


def test_without_an_auxiliary_weight_the_branch_heads_are_not_built(dataset: Path) -> None:
    job = settings_for(open_dataset(dataset), small_settings("loss.aux_weight=0"))
    assert not job.model.aux_heads


@pytest.fixture(scope="module")
def dataset(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No run here may need the test split."""
    return without_test_split(dataset, tmp_path_factory.mktemp("blind"))


def test_a_run_on_train_and_val_has_the_crops_of_both(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--preset", "nano", "--epochs", "1", "--num-workers", "1", "--cache"]
    with pytest.raises(SystemExit) as caught:
        main(["train", "--data", str(dataset), "--out", str(tmp_path / "a"), *options,
              "train.train_on_val=true"])  # fmt: skip
    assert caught.value.code == 0
    assert "nothing was validated" in capsys.readouterr().out
    counts = open_dataset(dataset).counts
    crops = sum(sum(counts[split].values()) for split in ("train", "val"))
    found = results(tmp_path / "a")
    assert found["history"][0]["crops"] == {"train": crops, "val": 0}
    assert found["best"] is None
    with pytest.raises(SystemExit):
        main(["train", "--data", str(dataset), "--resume", str(tmp_path / "a")])
    assert "nothing to do" in capsys.readouterr().out


def test_training_does_not_open_the_test_split(run: Path, dataset: Path) -> None:
    with pytest.raises(pa.ArrowInvalid):
        pq.read_metadata(next(dataset.glob("test/*.parquet")))
    assert results(run)["finished"]
