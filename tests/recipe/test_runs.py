from __future__ import annotations

import json
from pathlib import Path

import pytest

from genconvit.data.clip_table import ClipRecord
from genconvit.errors import UserError
from genconvit.overrides import parse_assignment, resolve_settings
from genconvit.recipe.recipes import Recipe
from genconvit.recipe.runs import Run, finished, plan_runs, record_of, write_record

CLIPS = [ClipRecord(f"c{n}", ("fake", "real")[n % 2], f"g{n // 2}", "m", "s") for n in range(8)]
FOLDS = {clip.name: n // 2 % 2 for n, clip in enumerate(CLIPS)}


def runs(*texts: str, folds: dict[str, int] = FOLDS) -> list[Run]:
    settings = resolve_settings(assignments=[parse_assignment(text) for text in texts])
    val = [ClipRecord("v0", "fake", "v"), ClipRecord("v1", "real", "v")]
    return plan_runs([Recipe("a", settings), Recipe("b", settings)], 2, CLIPS, folds, val)


def write(out: Path, run: Run, epochs: tuple[int, ...] = (3,), failure: str | None = None) -> None:
    names = [clip.name for clip in run.judged_by]
    curve = {} if failure else {epoch: [0.25] * len(names) for epoch in epochs}
    record = record_of(
        run, "data", clips=() if failure else names, curve=curve, seconds=1.0, failure=failure
    )
    write_record(out, run, record)


def test_every_clip_is_held_out_once_a_seed_and_recipe_and_val_comes_last() -> None:
    planned = runs()
    assert [run.name for run in planned] == [
        f"{recipe}-seed{seed}-{fold}"
        for seed in (0, 1)
        for recipe in ("a", "b")
        for fold in ("fold1", "fold2", "val")
    ]
    names = {clip.name for clip in CLIPS}
    for recipe in ("a", "b"):
        own = [run for run in planned if run.recipe == recipe and run.settings.seed == 1]
        held = [clip.name for run in own if run.fold != "val" for clip in run.judged_by]
        assert sorted(held) == sorted(names)
        for run in own:
            judged = {clip.name for clip in run.judged_by}
            assert judged.isdisjoint(run.trained_on)
            assert run.fold != "val" or (set(run.trained_on), judged) == (names, {"v0", "v1"})


def test_what_is_done_is_read_again(tmp_path: Path) -> None:
    run = runs("train.epochs=3")[0]
    assert finished(tmp_path, run, "data", None) is None
    write(tmp_path, run)
    record = finished(tmp_path, run, "data", None)
    assert record is not None
    assert record.scores == [0.25] * 4
    assert (record.sources, record.methods) == (["s"] * 4, ["m"] * 4)
    assert record.clips == [clip.name for clip in run.judged_by]
    # What changes nothing of the result may change.
    assert finished(tmp_path, runs("train.epochs=3", "train.log_to=none")[0], "data", None)


def test_a_run_that_failed_or_lacks_epochs_is_done_again(tmp_path: Path) -> None:
    run = runs("train.epochs=3")[0]
    write(tmp_path, run)
    assert finished(tmp_path, run, "data", 1) is None
    write(tmp_path, run, (1, 2, 3))
    assert finished(tmp_path, run, "data", 1) is not None
    write(tmp_path, run, failure="out of memory")
    assert finished(tmp_path, run, "data", None) is None


def test_other_settings_data_or_folds_are_refused(tmp_path: Path) -> None:
    run = runs("train.epochs=3")[0]
    write(tmp_path, run)
    with pytest.raises(UserError, match=r"a-seed0-fold1.json was run with train.epochs=3, and now"):
        finished(tmp_path, runs("train.epochs=4")[0], "data", None)
    with pytest.raises(UserError, match="other shards or with other --folds"):
        finished(tmp_path, run, "other data", None)
    turned = {name: 1 - fold for name, fold in FOLDS.items()}
    with pytest.raises(UserError, match="other shards or with other --folds"):
        finished(tmp_path, runs("train.epochs=3", folds=turned)[0], "data", None)
    path = tmp_path / "runs" / "a-seed0-fold1.json"
    path.write_text(json.dumps({"recipe": "a"}))
    with pytest.raises(UserError, match="is damaged"):
        finished(tmp_path, run, "data", None)
