from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genconvit import load_detector
from genconvit.errors import UserError
from genconvit.overrides import resolve_settings
from ray_jobs.cluster import Resources
from ray_jobs.output import Output
from ray_jobs.tune import DRIVER_CPUS, SPACE, space_for, sweep_budget, trial_settings, tune
from tests.conftest import small_settings, without_test_split

pytestmark = pytest.mark.usefixtures("cluster")
QUIET = Output(as_json=True)


@pytest.fixture(scope="module")
def sweep(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trials of two epochs; the paths are relative, as people give them."""
    out = tmp_path_factory.mktemp("sweeps") / "a"
    dataset = Path(os.path.relpath(dataset))
    settings = small_settings("train.epochs=2", "train.batch_size=16", "tune.trials=2")
    tune([dataset], settings, out, QUIET)
    return out


def test_the_best_trial_is_handed_over(sweep: Path, clips: Path) -> None:
    summary = json.loads((sweep / "sweep.json").read_text())
    scores = [trial["best_clip_auc"] for trial in summary["trials"]]
    assert len(scores) == 2
    assert summary["best"]["best_clip_auc"] == max(scores)
    clip = sorted(clips.parent.glob("test/real/*"))[0]
    assert load_detector(sweep / "best").judge(clip).probability_fake is not None


def test_its_settings_are_those_that_were_tried(sweep: Path) -> None:
    best = json.loads((sweep / "sweep.json").read_text())["best"]
    settings = resolve_settings(sweep / "best.yaml")
    assert settings.train.lr == pytest.approx(best["config"]["train.lr"])
    assert settings.model.dropout_rate == pytest.approx(best["config"]["model.dropout_rate"])
    detector = load_detector(sweep / "best").info
    assert detector.model.dropout_rate == settings.model.dropout_rate


def test_the_trials_differ_in_every_searched_setting(sweep: Path) -> None:
    one, two = json.loads((sweep / "sweep.json").read_text())["trials"]
    for name in SPACE:
        assert one["config"][name] is not None
    assert one["config"] != two["config"]


def test_a_sweep_leaves_the_data_the_cpus_that_its_drivers_do_not_take() -> None:
    for cpus in (2, 3, 4, 8):
        budget, at_once = sweep_budget(small_settings("train.num_workers=1"), Resources(cpus), 3)
        taken = at_once * (budget.workers * budget.cpus_per_worker + DRIVER_CPUS)
        assert taken + budget.data_cpus <= cpus


def test_a_sweep_stays_on_the_gpus() -> None:
    budget, at_once = sweep_budget(small_settings("train.num_workers=1"), Resources(16, gpus=2), 4)
    assert (budget.use_gpu, at_once) == (True, 2)


def test_a_trial_keeps_what_is_not_searched() -> None:
    base = small_settings("train.batch_size=7")
    trial = trial_settings(base, {"train.lr": 0.01})
    assert trial.train.lr == 0.01
    assert trial.train.batch_size == 7
    assert trial.model == base.model


def test_a_sweep_is_not_overwritten(sweep: Path, dataset: Path) -> None:
    with pytest.raises(UserError, match="not empty"):
        tune([dataset], small_settings(), sweep, QUIET)


@pytest.fixture(scope="module")
def dataset(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No sweep here may need the test split."""
    return without_test_split(dataset, tmp_path_factory.mktemp("blind"))


def test_a_sweep_does_not_open_the_test_split(sweep: Path, dataset: Path) -> None:
    with pytest.raises(pa.ArrowInvalid):
        pq.read_metadata(next(dataset.glob("test/*.parquet")))
    trials = json.loads((sweep / "sweep.json").read_text())["trials"]
    assert [trial["failure"] for trial in trials] == [None, None]


def test_a_sweep_of_original_searches_what_it_has() -> None:
    space = space_for(small_settings("model.arch=original"))
    assert "model.dropout_rate" not in space
    settings = trial_settings(small_settings("model.arch=original"), {"loss.vae_weight": 0.5})
    assert settings.model.arch == "original"
    assert space_for(small_settings()) == SPACE
    assert "loss.vae_weight" not in space_for(small_settings("model.net=ed"))
    assert "loss.ae_weight" not in space_for(small_settings("model.net=vae"))
