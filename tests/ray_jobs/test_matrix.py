from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from genconvit.checkpoint import load_network, save_detector
from genconvit.data.shards import open_dataset
from ray_jobs.cli import main

pytestmark = pytest.mark.usefixtures("cluster")


def evaluate(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", *map(str, arguments), "--json"])
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def knowing(dataset: Path, detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector, had it been chosen by the dataset."""
    network, info = load_network(detector)
    known = info.model_copy(update={"data_digest": open_dataset(dataset).digest})
    path = tmp_path_factory.mktemp("knowing") / "run" / "best"
    save_detector(path, network.state_dict(), known)
    return path


def test_shards_and_clips_are_judged_alike_and_what_flatters_is_marked(
    dataset: Path, clips: Path, detector: Path, knowing: Path, tmp_path: Path
) -> None:
    films = tmp_path / "films"
    shutil.copytree(clips.parent / "val", films / "val")
    rows = [line for line in clips.read_text().splitlines() if line.startswith("val/")]
    rows = [line for line in rows if "_variant0" in line or "_variant1" in line]
    header = clips.read_text().splitlines()[0]
    (films / "films.csv").write_text("\n".join([header, *rows]))
    out = tmp_path / "out"
    code = evaluate(
        "--matrix", "--model", detector, "--model", knowing, "--data", dataset,
        "--data", films / "films.csv", "--split", "val", "--frames", "2", "--out", out,
    )  # fmt: skip
    assert code == 0
    with (out / "matrix.csv").open() as file:
        cells = list(csv.DictReader(file))
    names = {cell["model"] for cell in cells}
    assert "run" in names
    assert len(names) == 2
    assert {cell["dataset"] for cell in cells} == {dataset.name, "films.csv"}
    marked = {(cell["model"], cell["dataset"]) for cell in cells if cell["flatters"]}
    assert marked == {("run", dataset.name)}

    def aucs(of: str) -> list[tuple[str, str, str]]:
        return [(c["model"], c["method"], c["auc"][:6]) for c in cells if c["dataset"] == of]

    assert aucs(dataset.name) == aucs("films.csv")
    assert len({cell["method"] for cell in cells}) > 1
    content = json.loads((out / "matrix.json").read_text())
    assert content["notes"][0] == (
        "Clips, unlike shards, do not tell whether a model was trained on them: films.csv."
    )


def test_a_dataset_that_cannot_be_judged_does_not_keep_the_others_from_it(
    dataset: Path, clips: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(dataset, tmp_path / "other")
    manifest = json.loads((other / "extract.json").read_text())
    manifest["settings"]["preprocess"]["margin"] = 0.9
    (other / "extract.json").write_text(json.dumps(manifest))
    damaged = Path(shutil.copytree(dataset, tmp_path / "damaged"))
    for file in (damaged / "val").glob("*.parquet"):
        file.write_bytes(b"PAR1" + bytes(file.stat().st_size - 4))
    letters = tmp_path / "letters"
    for label in ("real", "fake"):
        (letters / label).mkdir(parents=True)
        (letters / label / "a.mp4").write_text("Dear reader")
    out, bad = tmp_path / "out", [other, damaged, letters, tmp_path / "nowhere"]
    given = [word for place in (*bad, dataset) for word in ("--data", place)]
    assert evaluate("--matrix", "--model", detector, *given, "--split", "val", "--out", out) == 0
    err = capsys.readouterr().err
    assert "other is not judged: " in err and "extract it with that model's settings" in err
    with (out / "matrix.csv").open() as file:
        cells = list(csv.DictReader(file))
    problems = {cell["dataset"]: cell["problem"] for cell in cells}
    assert problems.pop(dataset.name) == ""
    assert problems == {
        "other": "other crops",
        "damaged": "failed",
        "letters": "no verdict",
        "nowhere": "not readable",
    }
    content = json.loads((out / "matrix.json").read_text())
    reasons = {each["name"]: each["problems"] for each in content["datasets"]}
    assert "does not exist" in next(iter(reasons["nowhere"].values()))["reason"]


def test_where_nothing_can_be_judged_nothing_starts(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    nowhere = ("--data", tmp_path / "a", "--data", tmp_path / "b")
    assert evaluate("--matrix", "--model", detector, *nowhere, "--out", out) == 2
    err = capsys.readouterr().err
    assert "none of the 2 datasets can be judged; the first: " in err
    assert len(err.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "DETECTOR"], "--matrix needs --data"),
        (["--data", "DATASET"], "give --model"),
        (["--model", "DETECTOR", "--data", "DATASET", "--data", "DATASET"], "given twice"),
        (["--model", "DETECTOR", "--data", "DATASET", "--split", "valid"], "splits are train"),
        (["--model", "DETECTOR", "--data", "nowhere"], "does not exist"),
        (
            ["--model", "DETECTOR", "--data", "DATASET", "--ground-truth", "x.csv"],
            "--data of clips",
        ),
    ],
)
def test_wrong_input_ends_with_one_sentence_and_2(
    dataset: Path,
    detector: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"DETECTOR": detector, "DATASET": dataset}
    assert evaluate("--matrix", *(places.get(text, text) for text in arguments)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_several_models_or_datasets_are_for_the_other_two(
    dataset: Path, detector: Path, knowing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--model", detector, "--model", knowing, "--data", dataset) == 2
    assert "--robustness or --matrix" in capsys.readouterr().err
    assert evaluate("--model", detector, "--data", dataset, "--data", dataset.parent) == 2
    assert "--matrix" in capsys.readouterr().err
