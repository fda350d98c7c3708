"""The study of a sweep: what is asked, what is stopped, what a cut leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from genconvit.config import Settings
from genconvit.errors import UserError
from genconvit.overrides import parse_assignment, resolve_settings
from genconvit.tune.begun import BEGUN, Begun, read_begun, write_begun
from genconvit.tune.space import Space
from genconvit.tune.study import CONFIG, FAILURE, Study, earlier_trials

SPACE = Space.parse(
    {
        "train.lr": {"log": [1e-4, 1e-2]},
        "train.sched": {"choice": ["plateau", "cosine"]},
        "train.warmup_epochs": {"uniform": [0, 1], "when": {"train.sched": "cosine"}},
    },
    "a test",
)


def settings(*texts: str) -> Settings:
    fixed = ["train.epochs=9", "tune.trials=8", "tune.grace_period=1"]
    return resolve_settings(assignments=[parse_assignment(text) for text in [*fixed, *texts]])


def study(folder: Path, *texts: str, space: Space = SPACE, digest: str = "d") -> Study:
    """Of a sweep in the folder, which goes on where it was begun."""
    job = settings(*texts)
    begun = Begun.new(folder, job.tune, space.tree(), digest)
    if (folder / BEGUN).is_file():
        begun = read_begun(folder).model_copy(update={"data_digest": digest})
    found = Study(folder, begun, Space.parse(begun.space, BEGUN), job)
    write_begun(folder, begun)
    return found


def one(found: Study, number: int) -> optuna.trial.FrozenTrial:
    return next(trial for trial in found.trials if trial.number == number)


def test_the_start_settings_come_first_and_points_next(tmp_path: Path) -> None:
    found = study(tmp_path)
    found.begin([SPACE.start(settings()), {"train.lr": 5e-3}], [])
    assert found.ask()[1] == {"train.lr": 1e-4, "train.sched": "plateau"}
    assert found.ask()[1]["train.lr"] == 5e-3


def test_what_was_cut_off_goes_on_with_the_same_settings(tmp_path: Path) -> None:
    first = study(tmp_path)
    done, asked = first.ask(), [first.ask() for _ in range(2)]
    first.finish(done[0], [0.7], stopped=False, failure=None)
    again = study(tmp_path)
    assert again.ended() == 1
    assert again.unfinished() == [number for number, _ in asked]
    assert [again.go_on(number) for number in again.unfinished()] == asked
    assert again.unfinished() == []


def test_another_sweep_on_the_study_leaves_running_trials_alone(tmp_path: Path) -> None:
    url = f"tune.storage=sqlite:///{tmp_path / 'shared.db'}"
    first = study(tmp_path / "a", url, "tune.study=ours")
    number, _ = first.ask()
    second = study(tmp_path / "b", url, "tune.study=ours")
    assert second.unfinished() == []
    assert second.ask()[0] == number + 1
    assert len(first.trials) == 2


def test_a_sweep_whose_folder_was_renamed_goes_on(tmp_path: Path) -> None:
    number, config = study(tmp_path / "a").ask()
    (tmp_path / "a").rename(tmp_path / "b")
    again = study(tmp_path / "b")
    assert again.unfinished() == [number]
    assert again.go_on(number) == (number, config)


def test_sweeps_of_one_study_must_agree_on_the_data(tmp_path: Path) -> None:
    url = f"tune.storage=sqlite:///{tmp_path / 'shared.db'}"
    study(tmp_path / "a", url, "tune.study=ours")
    with pytest.raises(UserError, match="another data"):
        study(tmp_path / "b", url, "tune.study=ours", digest="e")


def test_the_beginning_that_was_cut_off_is_made_up_for(tmp_path: Path) -> None:
    points = [{"train.lr": 5e-3, "train.sched": "plateau"}]
    first = study(tmp_path)
    first._study.enqueue_trial(points[0])  # and then it was killed
    again = study(tmp_path)
    again.begin(points, [])
    again.begin(points, [])
    assert again.ask()[1] == points[0]
    assert again.ask()[1] != points[0]


def test_a_sweep_that_goes_on_draws_other_settings(tmp_path: Path) -> None:
    drawn = [study(tmp_path, "tune.sampler=random").ask()[1]["train.lr"] for _ in range(4)]
    assert len(set(drawn)) == 4


def test_who_falls_behind_is_stopped_and_who_leads_is_not(tmp_path: Path) -> None:
    found = study(tmp_path)
    for score in (0.9, 0.8, 0.7):
        number, _ = found.ask()
        assert not found.report(number, 1, score) or score < 0.9
        found.finish(number, [score], stopped=False, failure=None)
    behind, _ = found.ask()
    assert found.report(behind, 1, 0.6)
    ahead, _ = found.ask()
    assert not found.report(ahead, 1, 0.95)
    found.finish(behind, [0.6], stopped=True, failure=None)
    assert one(found, behind).state == optuna.trial.TrialState.PRUNED


def test_the_last_epoch_stops_nobody(tmp_path: Path) -> None:
    found = study(tmp_path)
    for score in (0.9, 0.8, 0.7):
        number, _ = found.ask()
        found.report(number, 9, score)
        found.finish(number, [score], stopped=False, failure=None)
    number, _ = found.ask()
    assert not found.report(number, 9, 0.1)


def test_an_epoch_that_comes_twice_counts_once(tmp_path: Path) -> None:
    found = study(tmp_path)
    number, _ = found.ask()
    found.report(number, 1, 0.5)
    found.report(number, 1, 0.6)
    assert one(found, number).intermediate_values == {1: 0.5}


@pytest.mark.parametrize(
    ("scores", "failure", "said"),
    [
        (None, "a GPU has too little memory.", "a GPU has too little memory."),
        ([0.8], "the loss is no longer finite.", "the loss is no longer finite."),
        (None, None, "no epoch came to its end with a score"),
    ],
)
def test_a_failure_is_kept_with_its_reason(
    tmp_path: Path, scores: list[float] | None, failure: str | None, said: str
) -> None:
    found = study(tmp_path)
    number, config = found.ask()
    found.finish(number, scores, stopped=False, failure=failure)
    trial = one(study(tmp_path), number)
    assert trial.state == optuna.trial.TrialState.FAIL
    assert trial.user_attrs[FAILURE] == said
    assert trial.user_attrs[CONFIG] == config


def test_a_trial_that_was_let_go_is_unfinished(tmp_path: Path) -> None:
    found = study(tmp_path)
    number, _ = found.ask()
    found.leave(number)
    assert found.unfinished() == [number]


def test_several_objectives_stop_nobody(tmp_path: Path) -> None:
    found = study(tmp_path, "tune.objectives=clip_auc,ms_per_clip")
    for number in range(3):
        found.ask()
        assert not found.report(number, 1, 0.1 * number)
        found.finish(number, [0.1 * number, 5.0], stopped=False, failure=None)
    assert one(found, 2).values == [0.2, 5.0]


def tried(folder: Path) -> Study:
    found = study(folder)
    for number in range(6):
        _, config = found.ask()
        found.finish(number, [config["train.lr"]], stopped=False, failure=None)
    return found


def test_a_study_starts_warm_from_an_earlier_sweep(tmp_path: Path) -> None:
    tried(tmp_path / "old")
    new = study(tmp_path / "new")
    new.begin([], earlier_trials(tmp_path / "old", ["clip_auc"]))
    assert new.trials == []  # they are learned from, and not this sweep's own
    assert len(optuna.load_study(study_name="new", storage=_url(tmp_path / "new")).trials) == 6


def test_earlier_trials_of_other_settings_are_left_out(tmp_path: Path) -> None:
    tried(tmp_path / "old")
    other = Space.parse({"train.lr": {"log": [1e-6, 1e-5]}}, "a test")
    new = study(tmp_path / "new", space=other)
    new.begin([], earlier_trials(tmp_path / "old", ["clip_auc"]))
    assert optuna.load_study(study_name="new", storage=_url(tmp_path / "new")).trials == []


def test_importance_needs_a_few_trials(tmp_path: Path) -> None:
    assert study(tmp_path / "none").importance() is None
    found = tried(tmp_path / "some").importance()
    assert found is not None
    assert max(found, key=lambda name: found[name]) == "train.lr"
    assert sum(found.values()) == pytest.approx(1.0)


def _url(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.db'}"


@pytest.mark.parametrize(
    "url",
    ["sqlite:////nowhere/at/all/study.db", "postgresql://me:secret@localhost:1/x", "nonsense"],
)
def test_a_storage_that_cannot_be_opened_is_said_without_its_password(
    tmp_path: Path, url: str
) -> None:
    with pytest.raises(UserError) as caught:
        study(tmp_path, f"tune.storage={url}", "tune.study=x")
    assert "tune.storage" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_storage_whose_driver_is_missing_names_the_package(tmp_path: Path) -> None:
    url = "mssql+pymssql://user:secret@host/optuna"
    with pytest.raises(UserError, match="needs the Python package pymssql; install it") as caught:
        study(tmp_path, f"tune.storage={url}", "tune.study=x")
    assert "secret" not in str(caught.value)


def test_a_folder_without_a_study_is_no_warm_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tune\.warm_start"):
        earlier_trials(tmp_path, ["clip_auc"])
    tried(tmp_path)
    with pytest.raises(UserError, match="other objectives"):
        earlier_trials(tmp_path, ["clip_auc", "ms_per_clip"])


def test_a_study_with_other_objectives_is_refused(tmp_path: Path) -> None:
    study(tmp_path)
    with pytest.raises(UserError, match=r"tune\.study"):
        study(tmp_path, "tune.objectives=clip_auc,ms_per_clip")


def test_the_order_of_objectives_does_not_matter() -> None:
    assert settings("tune.objectives=ms_per_clip,clip_auc").tune.objectives[0] == "clip_auc"


def test_settings_of_a_sweep_that_contradict_each_other_are_refused() -> None:
    cases: dict[str, Any] = {
        "tune.gpus_per_worker=0.5 tune.workers_per_trial=2": "cannot share a GPU",
        "tune.objectives=clip_auc,ms_per_clip tune.stopping=asha": "one objective",
        "tune.confirm_seeds=1": "no spread",
        "tune.objectives=clip_auc,clip_auc": "each once",
        "tune.objectives=ms_per_clip": "takes clip_auc",
        "tune.storage=sqlite:///x.db": "give tune.study",
    }
    for texts, said in cases.items():
        with pytest.raises(UserError, match=said):
            settings(*texts.split())


def test_asha_is_left_out_where_it_is_not_wanted_or_cannot_choose() -> None:
    """On the command line, where `none` usually is no value at all."""
    assert settings().tune.stops
    assert not settings("tune.stopping=none").tune.stops
    assert not settings("tune.objectives=clip_auc,ms_per_clip").tune.stops
