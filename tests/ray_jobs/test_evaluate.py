from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from genconvit.checkpoint import read_info
from genconvit.config import DecisionSettings, SamplingSettings
from genconvit.data.clip_table import ClipRecord, write_clip_table
from genconvit.data.shards import open_dataset
from genconvit.folder import Folder
from genconvit.predict import load_detector
from ray_jobs.cli import main
from ray_jobs.evaluate import knows_split

pytestmark = pytest.mark.usefixtures("cluster")
FIGURES = {
    "confusion_matrix.png",
    "roc_curve.png",
    "precision_recall_curve.png",
    "confidence_distribution.png",
    "prediction_distribution.png",
    "det_curve.png",
    "reliability_diagram.png",
    "group_auc.png",
}
FILES = {
    *("evaluation_report.json", "detailed_results.csv", "report.html"),
    *("scores.csv", "scores.parquet", "crop_scores.parquet"),
}


def evaluate(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", *map(str, arguments), "--json"])
    return int(caught.value.code or 0)


def details(out: Path) -> list[dict[str, str]]:
    with (out / "detailed_results.csv").open() as file:
        return list(csv.DictReader(file))


def names(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()}


def test_shards_are_judged_as_the_clips_they_are_of(
    dataset: Path, clips: Path, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(dataset.parent)  # a relative path, as people give it
    evaluate(
        "--model", detector, "--data", dataset.name, "--split", "test", "--out", tmp_path / "a"
    )
    evaluate(
        "--model", detector, "--video-dir", clips.with_name("half.csv"), "--frames", "2",
        "--out", tmp_path / "b",
    )  # fmt: skip
    in_shards = {row["video_name"]: row for row in details(tmp_path / "a")}
    films = {
        row["video_name"]: row
        for row in details(tmp_path / "b")
        if row["video_name"].startswith("test/")
    }
    assert in_shards.keys() == films.keys()
    for name, row in films.items():
        assert float(row["probability_fake"]) == pytest.approx(
            float(in_shards[name]["probability_fake"]), abs=1e-5
        )
        assert row["label"] == in_shards[name]["label"]
    for out in ("a", "b"):
        assert names(tmp_path / out) == FIGURES | FILES
    of_shards = json.loads((tmp_path / "a" / "evaluation_report.json").read_text())
    data = of_shards["evaluated_data"]
    assert (data["digest"], data["split"]) == (open_dataset(dataset).digest, "test")
    report = json.loads((tmp_path / "b" / "evaluation_report.json").read_text())
    assert len(report["evaluated_data"]["digest"]) == 12
    assert (
        "digest of the detector&#39;s training data" in (tmp_path / "b" / "report.html").read_text()
    )
    assert report["clips"] == 40
    # The crops were measured either way; ten groups are needed to say more.
    assert len(in_shards) == 8
    for found, clips_measured, groups in ((of_shards, 8, 2), (report, 40, 10)):
        families = found["score_probes"]["families"]
        assert {family["clips"] for family in families} == {clips_measured}
        few = f"{groups} groups of clips cannot tell, it takes 10" if groups < 10 else ""
        assert [family["reason"] for family in families[:3]] == [few] * 3
    assert report["metrics"]["auc"] is not None
    assert report["crop_scores"]["auc"] is not None


def test_the_worst_clips_are_explained_and_forged_parts_looked_for(
    clips: Path, detector: Path, tmp_path: Path
) -> None:
    paths = [
        sorted(clips.parent.glob(f"test/{label}/*"))[0].resolve() for label in ("real", "fake")
    ]
    table = tmp_path / "pair.csv"
    lines = [f"{path},{label},g" for path, label in zip(paths, ("real", "fake"), strict=True)]
    table.write_text("\n".join(["video_name,label,group", *lines]))
    out = tmp_path / "out"
    evaluate("--model", detector, "--video-dir", table, "--explain", "--localisation", "--out", out)
    report = json.loads((out / "evaluation_report.json").read_text())
    assert {each["clip"] for each in report["evidence"]} == {
        row["video_name"] for row in details(out)
    }
    assert all("sentence" in each["check"] for each in report["evidence"])
    assert report["localisation"]["clips"] == 1
    assert (out / "localisation.png").is_file()
    assert not (out / ".splices").exists()


def test_the_model_card_takes_its_figures_from_an_evaluation(
    dataset: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    shutil.copytree(detector, own)
    how = ("--model", own, "--data", dataset, "--split", "test", "--card")
    assert evaluate(*how, "--threshold", 0.4, "--out", tmp_path / "a") == 2
    assert "--card is of the detector's own decision" in capsys.readouterr().err
    assert evaluate(*how, "--out", tmp_path / "b") == 0
    report = json.loads((tmp_path / "b" / "evaluation_report.json").read_text())
    card = (own / "README.md").read_text()
    assert f"| AUC | {report['clip_scores']['auc']:.3f} [" in card
    assert report["command"] in card
    assert read_info(own).evaluation is not None


def test_forged_parts_are_looked_for_only_where_there_are_pairs(
    clips: Path, detector: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = sorted(clips.parent.glob("test/real/*"))[0].resolve()
    (tmp_path / "one.csv").write_text(f"video_name,label\n{real},real\n")
    for where, message in (
        (("--video-dir", tmp_path / "one.csv"), "no fake clip has one"),
        (("--data", dataset), "give --video-dir"),
    ):
        out = tmp_path / "out"
        assert evaluate("--model", detector, *where, "--localisation", "--out", out) == 2
        assert message in capsys.readouterr().err


def test_labels_come_from_a_table_and_failures_are_listed(
    clips: Path, detector: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for label in ("real", "fake"):
        shutil.copy(sorted(clips.parent.glob(f"val/{label}/*"))[0], folder / f"{label[0]}.avi")
    (folder / "letter.mp4").write_text("Dear reader")
    (tmp_path / "labels.csv").write_text(
        "video_name,label\nr.avi,real\nf.avi,fake\nletter.mp4,fake\n"
    )
    evaluate(
        "--model", detector, "--video-dir", folder, "--ground-truth", tmp_path / "labels.csv",
        "--frames", "2", "--out", tmp_path / "out",
    )  # fmt: skip
    report = json.loads((tmp_path / "out" / "evaluation_report.json").read_text())
    assert report["metrics"]["clips"] == 2
    assert [failure["clip"] for failure in report["failures"]] == ["letter.mp4"]


def test_without_labels_there_are_predictions_only(
    clips: Path, detector: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(sorted(clips.parent.glob("val/real/*"))[0], folder / "a.avi")
    evaluate("--model", detector, "--video-dir", folder, "--out", tmp_path / "out")
    assert names(tmp_path / "out") == FILES
    assert details(tmp_path / "out")[0]["probability_fake"]


def test_a_clip_without_a_face_is_undecided_in_shards_too(
    dataset: Path, detector: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(dataset, tmp_path / "copy")
    lost = {"label": "real", "split": "test", "failure_kind": "no face", "failure": "no face"}
    records = [
        *open_dataset(copy).clips(),
        ClipRecord("empty.mp4", **lost, frames_sampled=2),
        ClipRecord("broken.mp4", **lost),
    ]
    write_clip_table(Folder(copy), records)
    out = tmp_path / "out"
    assert evaluate("--model", detector, "--data", copy, "--split", "test", "--out", out) == 0
    verdicts = {row["video_name"]: row["verdict"] for row in details(out)}
    assert verdicts["empty.mp4"] == "UNDECIDED"
    assert verdicts["broken.mp4"] == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --video-dir"),
        (["--scores", "x.csv", "--data", "DATASET"], "leave --video-dir and --data out"),
        (["--data", "DATASET", "--video-dir", "x"], "either --video-dir"),
        (["--data", "DATASET", "--ground-truth", "x.csv"], "goes with --video-dir"),
        (["--data", "DATASET", "--split", "validation"], "splits are train, val, test"),
        (["--video-dir", "nowhere"], "does not exist"),
        (["--data", "DATASET", "--threshold", "3"], "decision.threshold"),
    ],
)
def test_wrong_input_ends_with_one_sentence_and_2(
    dataset: Path,
    detector: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(dataset) if text == "DATASET" else text for text in arguments]
    assert evaluate("--model", detector, *given) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_evaluation_judges_as_predict_does_and_its_crop_scores_repeat_it(
    clips: Path, detector: Path, tmp_path: Path
) -> None:
    few = clips.with_name("four.csv")
    header, *lines = clips.read_text().splitlines()
    picked = [line for line in lines if line.startswith("test/")][:4]
    few.write_text("\n".join([header + ",codec", *(f"{line},h264" for line in picked)]))
    options = ["--frames", "2", "--threshold", "0.4"]
    evaluate("--model", detector, "--video-dir", few, "--out", tmp_path / "a", *options)
    evaluate(
        "--scores", tmp_path / "a" / "crop_scores.parquet", "--model", detector,
        "--threshold", "0.4", "--out", tmp_path / "b",
    )  # fmt: skip
    judge = load_detector(detector).judge
    sampling, decision = SamplingSettings(frames=2), DecisionSettings(threshold=0.4)
    for first, again in zip(details(tmp_path / "a"), details(tmp_path / "b"), strict=True):
        verdict = judge(clips.parent / first["video_name"], sampling=sampling, decision=decision)
        assert first["verdict"] == verdict.verdict
        assert float(first["probability_fake"]) == pytest.approx(verdict.probability_fake, abs=1e-6)
        assert first == again
    one, two = (
        json.loads((tmp_path / out / "evaluation_report.json").read_text()) for out in ("a", "b")
    )
    for part in ("metrics", "clip_scores", "crop_scores", "subgroups", "aggregations"):
        assert one[part] == two[part]
    assert one["aggregations"][-1]["name"] == "original"
    with (tmp_path / "a" / "scores.csv").open() as file:
        assert {row["codec"] for row in csv.DictReader(file)} == {"h264"}


@pytest.mark.parametrize(
    ("split", "training", "knows"),
    [
        ("train", {}, "trained on"),
        ("val", {}, "chosen by"),
        ("val", {"train_on_val": False}, "chosen by"),
        ("val", {"train_on_val": True}, "trained on"),
        ("test", {"train_on_val": True}, ""),
    ],
)
def test_how_a_detector_knows_a_split(
    dataset: Path, detector: Path, split: str, training: dict[str, bool], knows: str
) -> None:
    opened = open_dataset(dataset)
    info = read_info(detector).model_copy(
        update={"training": training, "data_digest": opened.digest}
    )
    assert knows_split(info, opened, split) == knows
    assert not knows_split(info.model_copy(update={"data_digest": None}), opened, split)


def test_shards_for_another_detector_are_refused(
    dataset: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(dataset, tmp_path / "other")
    manifest = json.loads((other / "extract.json").read_text())
    manifest["settings"]["preprocess"]["margin"] = 0.9
    (other / "extract.json").write_text(json.dumps(manifest))
    assert evaluate("--model", detector, "--data", other) == 2
    assert "extract the clips with its settings" in capsys.readouterr().err
