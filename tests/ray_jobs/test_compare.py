from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from genconvit.checkpoint import read_info
from ray_jobs.cli import main

pytestmark = pytest.mark.usefixtures("cluster")
VARIANTS = ("original,net=ed", "v2,attention=false")
SLUGS = ("original-net-ed", "v2-attention-false")


def compare(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["compare", *map(str, arguments)])
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def out(dataset: Path, detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants that are trained at once, and a detector that is loaded."""
    path = tmp_path_factory.mktemp("compare") / "out"
    code = compare(
        "--data", dataset, "--out", path, "--preset", "nano", "--epochs", "1", "--lr", "1e-3",
        "--variants", *VARIANTS, detector, "train.num_workers=1",
    )  # fmt: skip
    assert code == 0
    return path


def report(out: Path) -> dict:
    content: dict = json.loads((out / "comparison.json").read_text())
    return content


@pytest.mark.slow
def test_every_variant_is_judged_on_the_same_clips(out: Path, detector: Path) -> None:
    content = report(out)
    assert [v["name"] for v in content["variants"]] == [*VARIANTS, str(detector)]
    assert content["clips"] == 8
    assert "test split" in content["about"]
    for variant in content["variants"]:
        assert variant["failure"] is None
        assert variant["metrics"]["auc"]["value"] is not None
        assert sum(sum(row.values()) for row in variant["confusion"].values()) == 8
        for cost in ("parameters", "flops", "images_per_s", "ms_per_clip"):
            assert variant[cost] > 0
    assert [v["seeds"] for v in content["variants"]] == [[0], [0], [None]]


@pytest.mark.slow
def test_variants_are_what_they_are_called(out: Path) -> None:
    ed, plain = (read_info(out / "variants" / slug / "seed0" / "best").model for slug in SLUGS)
    assert (ed.arch, ed.net, ed.preset) == ("original", "ed", "nano")
    assert (plain.arch, plain.attention, plain.residual) == ("v2", False, True)


@pytest.mark.slow
def test_result_files_carry_the_variants_names(out: Path) -> None:
    names = {path.name for path in out.iterdir()}
    assert {f"comparison.{kind}" for kind in ("json", "csv", "md", "html")} <= names
    assert {"comparison_metrics.png", "comparison_costs.png"} <= names
    for slug in SLUGS:
        assert {f"confusion_matrix_{slug}.png", f"detailed_results_{slug}.csv"} <= names
        with (out / f"detailed_results_{slug}.csv").open() as file:
            assert {row["seed"] for row in csv.DictReader(file)} == {"0"}
        assert (out / "variants" / slug / "seed0" / "loss_curves.png").is_file()


@pytest.mark.slow
def test_what_is_trained_is_not_trained_again(
    out: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = out / "variants" / SLUGS[0] / "seed0" / "best" / "model.safetensors"
    before, first = weights.stat().st_mtime_ns, report(out)
    code = compare(
        "--data", dataset, "--out", out, "--preset", "nano", "--epochs", "1", "--lr", "1e-3",
        "--variants", VARIANTS[0], "train.num_workers=1", "--json",
    )  # fmt: skip
    assert code == 0
    assert weights.stat().st_mtime_ns == before
    [line] = capsys.readouterr().out.splitlines()
    again = json.loads(line)
    assert again["event"] == "compared"
    # Bit for bit the same verdicts, so the same figures to the last digit.
    assert again["variants"][0]["metrics"] == first["variants"][0]["metrics"]
    assert not (out / f"detailed_results_{SLUGS[1]}.csv").exists()


@pytest.mark.slow
def test_variants_with_other_epochs_do_not_share_a_folder(
    out: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = compare(
        "--data", dataset, "--out", out, "--preset", "nano", "--epochs", "2", "--lr", "1e-3",
        "--variants", VARIANTS[0], "train.num_workers=1",
    )  # fmt: skip
    assert code == 2
    assert "was begun with train.epochs=1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "resnet", "--data", "DATASET"], "neither such an architecture"),
        (["--variants", "v2"], "give --data"),
        (["--variants", "v2", "v2", "--data", "DATASET"], "given twice"),
        (["--variants", "v2", "--data", "nowhere"], "nowhere does not exist"),
        (["--variants", "v2", "--data", "DATASET", "--seeds", "1,1"], "seed 1 is given twice"),
        (
            ["--variants", "v2", "--data", "DATASET", "--split", "tset"],
            "splits are train, val",
        ),
        (["--variants", "v2", "--data", "DATASET", "seed=3"], "give it as --seeds"),
        (["--variants", "v2", "--data", "DATASET", "model.arch=v2"], "give it as --variants"),
        (
            ["--variants", "v2,train.train_on_val=true", "--data", "DATASET"],
            "train.train_on_val leaves nothing to validate by",
        ),
        (["--variants", "v2", "--video-dir", "x", "--split", "val"], "--split is of --data"),
        (
            ["--variants", "original", "--data", "DATASET", "--dropout-rate", "0.3"],
            "variant original: model: dropout_rate is a setting of arch v2",
        ),
        (
            ["--variants", "v2,dropout_rate=3", "--data", "DATASET"],
            "dropout_rate=3 of variant v2,dropout_rate=3: model.dropout_rate takes a number",
        ),
        (["--variants", "VERSION_1", "--data", "DATASET", "--ground-truth", "x"], "--video-dir"),
    ],
)
def test_wrong_input_ends_with_one_sentence_and_2(
    dataset: Path,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = {"DATASET": dataset, "VERSION_1": Path("tests/checkpoints/version1")}
    given = [known.get(text, text) for text in arguments]
    assert compare(*given, "--out", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_crops_that_a_loaded_detector_was_not_made_for_are_refused(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], detector: Path
) -> None:
    manifest = json.loads((dataset / "extract.json").read_text())
    manifest["settings"]["preprocess"]["margin"] = 0.9
    other = tmp_path / "other"
    other.mkdir()
    (other / "extract.json").write_text(json.dumps(manifest))
    shutil.copytree(dataset / "test", other / "test")
    shutil.copy(dataset / "clips.parquet", other)
    assert compare("--variants", detector, "--data", other, "--out", tmp_path / "out") == 2
    assert "extract the clips with its settings" in capsys.readouterr().err


def test_loaded_detectors_are_compared_on_clips_without_shards(
    detector: Path, clips: Path, tmp_path: Path
) -> None:
    lines = clips.read_text().splitlines()
    few = clips.with_name("few.csv")
    few.write_text("\n".join([lines[0], *(n for n in lines if n.startswith("test/"))][:5]))
    out = tmp_path / "out"
    out.mkdir()
    (out / "comparison.json").write_text("{}")  # of an earlier one, which this one replaces
    options = ["--frames", "2", "--aggregation", "original"]
    assert compare("--variants", detector, "--video-dir", few, "--out", out, *options) == 0
    content = report(out)
    assert content["clips"] == 4
    assert content["decision"]["aggregation"] == "original"
    assert content["variants"][0]["ms_per_clip"] > 0
    [details] = out.glob("detailed_results_*.csv")
    with details.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["frames_sampled"] for row in rows} == {"2"}
    assert all("mean sigmoids" in row["reason"] for row in rows)
