"""A sweep that is killed in the middle, goes on, and has a trial that fails."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genconvit import load_detector
from genconvit.checkpoint import read_info
from genconvit.data.shards import open_dataset
from genconvit.errors import UserError
from genconvit.overrides import parse_assignment, resolve_settings
from genconvit.tune.results import Objective, TrialResult
from ray_jobs.cli import main
from ray_jobs.cluster import DRIVER_CPUS, Resources, sweep_budget
from ray_jobs.output import Output
from ray_jobs.tune import tune
from ray_jobs.tune_again import confirmation, longer
from ray_jobs.tune_results import front
from tests.conftest import Cluster, small_settings, without_test_split

QUIET = Output(as_json=True)
SWEEP = """
model: {preset: nano}
preprocess: {size: 64}
sampling: {frames: 2}
train: {epochs: 2, batch_size: 8, lr: 0.001, clip_grad: 0, max_skipped_steps: 1}
tune:
  trials: 3
  confirm_seeds: 0
  stopping: none
  space:
    train.lr: {choice: [0.001, 0.002, 1.0]}
    model.dropout_rate: {uniform: [0.1, 0.7]}
  points:
    - {train.lr: 0.002, model.dropout_rate: 0.3}
    - {train.lr: 1.0}  # whose loss is soon no longer finite
"""


@pytest.fixture(scope="module")
def dataset(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No sweep here may need the test split."""
    return without_test_split(dataset, tmp_path_factory.mktemp("blind"))


def start(cluster: Cluster, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.cli", "tune", "--json", *options],
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def sweep(cluster: Cluster, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed when its first trial was done; the paths are relative, as people give them."""
    folder = tmp_path_factory.mktemp("sweeps")
    config, out = folder / "tune.yaml", folder / "a"
    config.write_text(SWEEP)
    data = os.path.relpath(dataset)
    driver = start(cluster, "--config", str(config), "--data", data, "--out", str(out))
    assert driver.stdout is not None
    events: list[dict[str, Any]] = []
    for line in driver.stdout:
        events.append(json.loads(line))
        if events[-1]["event"] == "trial_end":
            driver.kill()
    driver.wait()
    again = start(cluster, "--data", data, "--resume", str(out))
    said, _ = again.communicate()
    assert again.returncode == 0
    later = [json.loads(line) for line in said.splitlines()]
    (folder / "events.json").write_text(json.dumps([events, later]))
    return out


@pytest.fixture(scope="module")
def results(sweep: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((sweep / "sweep.json").read_text())
    return content


pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
def test_no_trial_is_lost_and_none_is_run_twice(sweep: Path, results: dict[str, Any]) -> None:
    assert [trial["number"] for trial in results["trials"]] == [0, 1, 2]
    assert len(list((sweep / "trials").iterdir())) == 3
    before, after = json.loads((sweep.parent / "events.json").read_text())
    ended = [each["trial"] for each in before if each["event"] == "trial_end"]
    begun = [each["trial"] for each in after if each["event"] == "trial"]
    assert ended
    assert sorted(ended + begun) == [0, 1, 2]
    for number in (0, 1):
        run = json.loads((sweep / "trials" / f"{number:04d}" / "results.json").read_text())
        assert run["epochs"] == len(run["history"]) == 2


@pytest.mark.slow
def test_the_start_settings_and_the_given_points_come_first(results: dict[str, Any]) -> None:
    start, point, failing = (trial["config"] for trial in results["trials"])
    assert start == results["start"] == {"train.lr": 0.001, "model.dropout_rate": 0.5}
    assert point == {"train.lr": 0.002, "model.dropout_rate": 0.3}
    assert failing["train.lr"] == 1.0


@pytest.mark.slow
def test_a_trial_that_fails_says_why_and_stops_no_other(results: dict[str, Any]) -> None:
    assert [trial["state"] for trial in results["trials"]] == ["finished", "finished", "failed"]
    assert "no longer finite" in results["trials"][2]["failure"]


@pytest.mark.slow
def test_the_best_trial_is_handed_over(sweep: Path, results: dict[str, Any], clips: Path) -> None:
    scores = {trial["number"]: trial["scores"][0] for trial in results["trials"] if trial["scores"]}
    [best] = results["best"]
    assert scores[best] == max(scores[0], scores[1])
    assert read_info(sweep / "best").metrics["clip_auc"] == scores[best]
    clip = sorted(clips.parent.glob("test/real/*"))[0]
    assert load_detector(sweep / "best").judge(clip).probability_fake is not None


@pytest.mark.slow
def test_its_settings_are_those_that_were_tried(sweep: Path, results: dict[str, Any]) -> None:
    config = results["trials"][results["best"][0]]["config"]
    settings = resolve_settings(sweep / "best.yaml")
    assert settings.train.lr == config["train.lr"]
    assert settings.model.dropout_rate == config["model.dropout_rate"]
    assert settings.train.batch_size == 8  # what is not searched stays
    assert load_detector(sweep / "best").info.model.dropout_rate == settings.model.dropout_rate


@pytest.mark.slow
def test_a_report_and_a_table_tell_of_it(sweep: Path) -> None:
    page = (sweep / "sweep_report.html").read_text()
    assert "no longer finite" in page
    assert "data:image/png" in page
    with (sweep / "trials.csv").open() as file:
        assert [row["number"] for row in csv.DictReader(file)] == ["0", "1", "2"]


@pytest.mark.slow
def test_a_sweep_does_not_open_the_test_split(sweep: Path, dataset: Path) -> None:
    with pytest.raises(pa.ArrowInvalid):
        pq.read_metadata(next(dataset.glob("test/*.parquet")))
    assert (sweep / "sweep.json").is_file()


@pytest.mark.slow
def test_a_sweep_is_not_overwritten(sweep: Path, dataset: Path) -> None:
    with pytest.raises(UserError, match="--resume"):
        tune([dataset], small_settings(), sweep, QUIET)


@pytest.mark.slow
def test_a_sweep_goes_on_with_its_own_settings_only(
    sweep: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["tune", "--data", str(dataset), "--resume", str(sweep), "--epochs", "3"])
    assert caught.value.code == 2
    assert "was begun with train.epochs=2" in capsys.readouterr().err


def test_a_sweep_that_is_not_there_is_named(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["tune", "--data", str(dataset), "--resume", "nothing"])
    assert caught.value.code == 2
    assert "--resume nothing" in capsys.readouterr().err


def test_a_sweep_leaves_the_data_the_cpus_that_its_drivers_do_not_take() -> None:
    for cpus in (2, 3, 4, 8):
        train = small_settings("train.num_workers=1").train
        budget, at_once = sweep_budget(train, Resources(cpus), 3)
        taken = at_once * (budget.workers * budget.cpus_per_worker + DRIVER_CPUS)
        assert taken + budget.data_cpus <= cpus


def test_a_sweep_stays_on_the_gpus() -> None:
    train = small_settings("train.num_workers=1").train
    budget, at_once = sweep_budget(train, Resources(16, gpus=2), 4)
    assert (budget.use_gpu, at_once) == (True, 2)


@pytest.mark.parametrize(("share", "at_once"), [(0.5, 4), (0.25, 8), (0.4, 4), (1.0, 2)])
def test_trials_share_a_gpu_where_they_need_a_part_of_one(share: float, at_once: int) -> None:
    train = small_settings("train.num_workers=1").train
    budget, found = sweep_budget(train, Resources(32, gpus=2), 16, share)
    assert (found, budget.gpus_per_worker, budget.use_gpu) == (at_once, share, True)


@pytest.fixture(scope="module")
def retrained(sweep: Path, results: dict[str, Any], dataset: Path) -> dict[str, Any]:
    """The sweep after it was asked, once it had ended, for its winner on train and val."""
    assert results["final"] is None
    again = tune(
        [dataset],
        resolve_settings(
            sweep / "settings.yaml",
            [parse_assignment("tune.retrain_best=true"), parse_assignment("tune.retrain_seeds=1")],
        ),
        sweep,
        QUIET,
        resume=True,
    )
    return again.model_dump(mode="json")


@pytest.mark.slow
def test_the_winner_is_trained_on_train_and_val(
    sweep: Path, results: dict[str, Any], retrained: dict[str, Any], dataset: Path
) -> None:
    assert retrained["trials"] == results["trials"]  # none is run again
    [best] = results["best"]
    kept = results["trials"][best]["best_epoch"]
    final = retrained["final"]
    assert (final["trial"], final["epochs"], final["seeds"]) == (best, longer(kept), [0])
    counts = open_dataset(dataset).counts
    crops = sum(sum(counts[split].values()) for split in ("train", "val"))
    for seed, detector in zip(final["seeds"], final["detectors"], strict=True):
        assert detector == str(sweep / "final" / f"seed-{seed}" / "best")
        info = read_info(detector)
        assert info.training["train_crops"] == crops
        assert (info.training["seed"], info.training["epoch"]) == (seed, longer(kept))
        assert info.metrics == {}
        assert info.model.dropout_rate == results["trials"][best]["config"]["model.dropout_rate"]
    assert read_info(sweep / "best").metrics["clip_auc"]  # the validated winner stays
    page = (sweep / "sweep_report.html").read_text()
    assert "no validation figure of their own" in page
    assert final["detectors"][0] in page


@pytest.mark.slow
def test_what_another_winner_left_is_not_mixed_with_it(
    sweep: Path, retrained: dict[str, Any], dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [parse_assignment("tune.retrain_epochs=7")]
    again = tune(
        [dataset], resolve_settings(sweep / "settings.yaml", options), sweep, QUIET, resume=True
    )
    assert again.final is None
    assert "move it away" in capsys.readouterr().err
    assert read_info(retrained["final"]["detectors"][0]).training["epoch"] < 7


@pytest.mark.parametrize(
    ("kept", "warm_up", "epochs"), [(1, 0, 2), (8, 0, 10), (9, 0, 12), (1, 3, 4)]
)
def test_more_clips_get_a_quarter_more_epochs(kept: int, warm_up: float, epochs: int) -> None:
    assert longer(kept, warm_up) == epochs


def test_a_sweep_needs_its_val_split(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.train_on_val.*--retrain-best"):
        tune([dataset], small_settings("train.train_on_val=true"), tmp_path / "s", QUIET)
    assert not (tmp_path / "s").exists()


def test_a_training_at_the_end_that_cannot_be_is_refused_at_the_start(
    dataset: Path, tmp_path: Path
) -> None:
    settings = small_settings("tune.retrain_epochs=2", "train.epochs=9", "train.warmup_epochs=3")
    with pytest.raises(UserError, match=r"--retrain-epochs 2: train\.warmup_epochs=3 takes all"):
        tune([dataset], settings, tmp_path / "s", QUIET)
    assert not (tmp_path / "s").exists()


def judged(number: int, *scores: float) -> TrialResult:
    return TrialResult(
        number=number, state="finished", config={}, scores=list(scores), best_epoch=1, epochs=1,
        history=[], seconds=1.0, gpus=0.0, failure=None, detector="d",
    )  # fmt: skip


AUC = Objective(name="clip_auc", direction="maximize")
MS = Objective(name="ms_per_clip", direction="minimize")


def test_the_front_is_what_no_other_beats() -> None:
    trials = [judged(0, 0.8, 5.0), judged(1, 0.9, 9.0), judged(2, 0.8, 6.0), judged(3, 0.7, 4.0)]
    assert front(trials, [AUC, MS]) == [1, 0, 3]


def test_of_equal_trials_the_earlier_wins() -> None:
    assert front([judged(2, 0.9), judged(1, 0.9), judged(0, 0.8)], [AUC]) == [1]
    assert front([], [AUC]) == []


def test_a_difference_between_few_seeds_is_noise_unless_it_is_large() -> None:
    near = confirmation([1, 2, 3], [0.80, 0.90, 0.85], [0.79, 0.88, 0.84])
    assert near.within_noise
    far = confirmation([1, 2, 3], [0.95, 0.96, 0.955], [0.70, 0.71, 0.705])
    assert not far.within_noise
    assert far.interval[0] < far.difference < far.interval[1]
    assert confirmation([1, 2], [0.9, 0.9], [0.9, 0.9]).interval == (0.0, 0.0)
