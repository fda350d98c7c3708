"""The command on the shared cluster, on made-up crops."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from genconvit.config import TrainSettings
from genconvit.data.clip_table import write_clip_table
from genconvit.data.shards import open_dataset
from genconvit.data.synthetic import write_synthetic_shards
from genconvit.errors import UserError
from genconvit.folder import Folder
from ray_jobs.bench_recipe_runs import share_of
from ray_jobs.bench_recipe_table import show
from ray_jobs.cli import main
from ray_jobs.cluster import Resources
from ray_jobs.output import Output
from tests.conftest import small_settings
from tests.recipe.made_up import report

RECIPES = {
    "common": {"model": {"preset": "nano"}, "train": {"epochs": 2, "batch_size": 32}},
    "recipes": {
        "ours": {},
        "no-attention": {"from": "ours", "model.attention": False},
        "broken": {"from": "ours", "model.weights": "nowhere.pth"},
    },
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training clips of four groups, and two of the val split."""
    folder = tmp_path_factory.mktemp("recipe") / "shards"
    write_synthetic_shards(folder, 256, small_settings())
    return folder


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "recipes.yaml"
    path.write_text(yaml.safe_dump(RECIPES, sort_keys=False))
    return path


def bench(
    capsys: pytest.CaptureFixture[str],
    shards: Path,
    recipes: Path,
    out: Path,
    *arguments: str,
    code: int = 0,
    said: str = "",
) -> list[dict[str, Any]]:
    with pytest.raises(SystemExit) as ended:
        where = ["--data", str(shards), "--recipes", str(recipes), "--out", str(out)]
        main(["bench", "recipe", *where, "--json", "--seeds=1", "--folds=2", *arguments])
    assert (ended.value.code or 0) == code
    told = capsys.readouterr()
    assert said in told.err
    return [json.loads(line) for line in told.out.splitlines()]


@pytest.mark.usefixtures("cluster")
def test_clips_are_extracted_first(
    clips: Path,
    recipes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GENCONVIT_CACHE", str(tmp_path / "cache"))
    made = ("sampling.frames=2", "preprocess.size=64")
    events = bench(capsys, clips, recipes, tmp_path / "out", "--only=ours", "train.epochs=1", *made)
    [cached] = (tmp_path / "cache").iterdir()
    assert open_dataset(cached).sampling.frames == 2
    assert events[-1]["data"].startswith(str(cached))
    [ours] = events[-1]["recipes"]
    assert ours["runs"] == 2


def test_how_crops_are_made_is_no_matter_for_shards(
    shards: Path, recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = f"sampling.frames=2: {shards} holds shards"
    bench(capsys, shards, recipes, tmp_path / "out", "sampling.frames=2", code=2, said=said)


@pytest.mark.usefixtures("cluster")
def test_recipes_are_compared_and_nothing_is_run_twice(
    shards: Path, recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = Path(shutil.copytree(shards, tmp_path / "closed"))
    for file in closed.glob("val/*.parquet"):
        file.write_bytes(bytes(file.stat().st_size))
    out = tmp_path / "out"
    *events, report = bench(capsys, closed, recipes, out, "--at-once", "4", "--every", "1")
    assert report["event"] == "bench"
    done = {(e["recipe"], e["fold"]) for e in events if "failure" not in e}
    failed = {(e["recipe"], e["fold"]) for e in events if "failure" in e}
    folds = ("fold1", "fold2")
    assert done == {(name, fold) for name in ("ours", "no-attention") for fold in folds}
    assert failed == {("broken", fold) for fold in folds}
    by_name = {recipe["name"]: recipe for recipe in report["recipes"]}
    assert by_name["no-attention"]["settings"] == {"model.attention": False}
    assert "nowhere.pth" in by_name["broken"]["failures"]["seed 0, fold1"]
    everything = report["cv"]["sets"][0]
    assert (everything["name"], everything["clips"]) == ("all", 8)
    assert set(everything["results"]) == {"ours", "no-attention"}
    assert set(report["cv"]["curve"]["ours"]) == {"1", "2"}
    # Eight clips of four groups cannot tell what scores follow, and that is said.
    families = report["cv"]["score_probes"]["ours"]["families"]
    assert {family["reason"] for family in families} == {
        "4 groups of clips cannot tell, it takes 10"
    }
    assert {family["clips"] for family in families} == {8}
    assert any("what scores follow: Not measured" in note for note in report["notes"])
    assert report["val"] is None
    for name in ("recipes.json", "recipes.png", "recipe_epochs.png"):
        assert (out / name).stat().st_size > 500

    # Again: what is done stays as it is, what failed is tried again, and val is opened when asked.
    kept = {
        path: path.read_bytes() for path in out.glob("runs/*.json") if "broken" not in str(path)
    }
    assert len(kept) == 4
    again = bench(capsys, closed, recipes, out, "--only", "ours,no-attention")
    assert [event["event"] for event in again] == ["bench"]
    assert again[0]["cv"]["sets"] == report["cv"]["sets"]
    for file in shards.glob("val/*.parquet"):
        shutil.copy(file, closed / "val" / file.name)
    *events, judged = bench(capsys, closed, recipes, out, "--only", "ours", "--validate")
    assert [event["fold"] for event in events] == ["val"]
    assert judged["val"]["sets"][0]["clips"] == 2
    assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.usefixtures("cluster")
def test_other_epochs_in_the_same_folder_are_refused(
    shards: Path, recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    bench(capsys, shards, recipes, out, "--only", "ours", "--epochs", "1")
    said = "was run with train.epochs=1, and now it is 2"
    bench(capsys, shards, recipes, out, "--only", "ours", "--epochs", "2", code=2, said=said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--folds", "1"], "give --folds 2 or more"),
        (["--folds", "0"], "or --folds 0 with --validate"),
        (["--baseline", "theirs"], "--baseline theirs: the recipes are ours, no-attention and"),
        (["--only", "theirs"], "has no recipe theirs"),
        (["--recipes", "nowhere.yaml"], "nowhere.yaml cannot be read"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_sentence(
    arguments: list[str], said: str, shards: Path, recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "recipe", "--data", str(shards), "--recipes", str(recipes), *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_runs_share_a_gpu_or_the_cores() -> None:
    auto, cpu = TrainSettings(), TrainSettings(device="cpu")
    assert share_of(auto, Resources(8.0, 2, 8.0), 3) == (1.0, 0.3333)
    assert share_of(auto, Resources(4.0, 2, 4.0), 4) == (0.5, 0.25)
    assert share_of(cpu, Resources(8.0, 2, 8.0), 2) == (4.0, 0.0)
    assert share_of(auto, Resources(16.0, 0, 8.0), 3) == (2.0, 0.0)
    assert share_of(auto, Resources(2.0, 0, 2.0), 8) == (1.0, 0.0)
    with pytest.raises(UserError, match="needs a GPU"):
        share_of(TrainSettings(device="cuda"), Resources(8.0, 0, 8.0), 1)


def test_the_tables_fit_a_terminal_of_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.console = Console(record=True, width=80, file=io.StringIO())
    show(report("ours", "reconstruction-only", "broken"), output)
    text = output.console.export_text()
    assert "…" not in text
    for words in ("reconstruction-only CV ", "less ours", "val", "s0 (", "epoch 2", "failed"):
        assert words in text, words
    follow = text[text.index("scores follow") :]
    assert all(word in follow for word in ("resolution", "compression", "framing", "source"))
    [line, *_] = [line for line in text.splitlines() if line.startswith(" reconstruction-only CV")]
    assert "]" in line and "%" in line
    assert "broken, seed 0, fold1: out of memory" in capsys.readouterr().err


@pytest.mark.usefixtures("cluster")
def test_a_file_in_two_folds_is_refused(
    shards: Path, recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    clips = open_dataset(copy).clips()
    content = {"train1": "same", "train3": "same", "train5": "same", "train7": "same"}
    records = [replace(clip, content=content.get(clip.name, clip.content)) for clip in clips]
    write_clip_table(Folder(copy), records)
    out = tmp_path / "out"
    bench(
        capsys, copy, recipes, out, code=2, said="leaks between folds: 1 clip is in several folds"
    )
    assert not out.exists()
