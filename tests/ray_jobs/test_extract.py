from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import pyarrow.parquet as pq
import pytest

from genconvit.config import PreprocessSettings
from genconvit.data.shards import SCHEMA, open_dataset
from genconvit.errors import UserError
from ray_jobs.extract import dataset_for, extract
from ray_jobs.output import Output
from tests.conftest import small_settings

pytestmark = pytest.mark.usefixtures("cluster")
QUIET = Output(as_json=True)


def rows(dataset: Path) -> list[dict[str, object]]:
    tables = [pq.read_table(file) for file in sorted(dataset.glob("*/*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def table(folder: Path, *lines: str) -> Path:
    path = folder / "clips.csv"
    path.write_text("\n".join(["video_name,label,group,split", *lines]) + "\n")
    return path


def some(clips: Path, split: str, label: str) -> str:
    return str(sorted(clips.parent.glob(f"{split}/{label}/*"))[0])


def test_every_clip_gives_its_rows_in_its_split(clips: Path, dataset: Path) -> None:
    with clips.with_name("half.csv").open() as file:
        wanted = {line["video_name"]: line for line in csv.DictReader(file)}
    found = rows(dataset)
    assert {row["video_id"] for row in found} == wanted.keys()
    assert len(found) == 2 * len(wanted)
    for row in found:
        line = wanted[str(row["video_id"])]
        assert row["label"] == (0 if line["label"] == "fake" else 1)
        for name in ("group", "split", "method", "source"):
            assert row[name] == line[name]
    file = next(dataset.glob("train/*.parquet"))
    assert pq.read_schema(file) == SCHEMA


def test_groups_do_not_cross_splits(dataset: Path) -> None:
    splits: dict[object, set[object]] = {}
    for row in rows(dataset):
        splits.setdefault(row["group"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())


def test_every_shard_of_the_training_split_holds_both_classes(dataset: Path) -> None:
    for file in dataset.glob("train/*.parquet"):
        assert set(pq.read_table(file)["label"].to_pylist()) == {0, 1}


def test_the_description_counts_what_is_there(dataset: Path) -> None:
    manifest = json.loads((dataset / "extract.json").read_text())
    labels = [row["label"] for row in rows(dataset) if row["split"] == "train"]
    assert manifest["splits"]["train"]["crops"] == {
        "fake": labels.count(0),
        "real": labels.count(1),
    }
    assert manifest["failures"] == []
    assert open_dataset(dataset).preprocess == small_settings().preprocess


def test_the_same_extraction_is_not_done_twice(clips: Path, dataset: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    extract(clips.with_name("half.csv"), dataset, small_settings("sampling.frames=2"), QUIET)
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


def test_a_dataset_is_not_overwritten_by_another(clips: Path, dataset: Path) -> None:
    with pytest.raises(UserError, match="another dataset"):
        extract(clips, dataset, small_settings("sampling.frames=3"), QUIET)


def test_bad_clips_are_reported_and_the_rest_goes_on(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.mp4").write_text("Dear reader")
    source = table(
        tmp_path,
        f"{some(clips, 'train', 'real')},real,a,train",
        f"{some(clips, 'val', 'fake')},fake,b,val",
        "letter.mp4,fake,c,train",
        "gone.mp4,real,d,train",
    )
    manifest = extract(source, tmp_path / "out", small_settings("sampling.frames=2"), QUIET)
    reasons = {failure["clip"]: failure["reason"] for failure in manifest["failures"]}
    assert reasons.keys() == {"letter.mp4", "gone.mp4"}
    assert all(name in reason for name, reason in reasons.items())
    assert len(rows(tmp_path / "out")) == 4


def test_when_every_clip_fails_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "letter.mp4").write_text("Dear reader")
    source = table(tmp_path, "letter.mp4,fake,c,train")
    with pytest.raises(UserError, match="none of the 1 clips"):
        extract(source, tmp_path / "out", small_settings(), QUIET)
    assert {path.name for path in tmp_path.iterdir()} == {"letter.mp4", "clips.csv"}


def test_the_same_clips_give_the_same_files(clips: Path, tmp_path: Path) -> None:
    source = table(
        tmp_path,
        *(f"{some(clips, split, label)},{label},{split},{split}"
          for split in ("train", "val") for label in ("real", "fake")),
    )  # fmt: skip
    for name in ("one", "two"):
        extract(source, tmp_path / name, small_settings("sampling.frames=2"), QUIET)
    one, two = (
        {p.relative_to(tmp_path / name): p.read_bytes() for p in tmp_path.glob(f"{name}/*/*")}
        for name in ("one", "two")
    )
    assert one == two


def test_a_folder_of_frame_images_becomes_shards_and_is_found_again(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENCONVIT_CACHE", str(tmp_path / "cache"))
    for split in ("train", "val"):
        for label in ("real", "fake"):
            folder = tmp_path / "frames" / split / label
            folder.mkdir(parents=True)
            film = cv2.VideoCapture(some(clips, split, label))
            for index in range(3):
                cv2.imwrite(str(folder / f"clip_{index:03d}.png"), film.read()[1])
    settings = small_settings()
    first = dataset_for(tmp_path / "frames", settings, QUIET)
    counts = open_dataset(first).counts
    assert counts["train"] == {"fake": 3, "real": 3}
    assert counts["val"] == {"fake": 3, "real": 3}
    stamp = (first / "extract.json").stat().st_mtime_ns
    assert dataset_for(tmp_path / "frames", settings, QUIET) == first
    assert (first / "extract.json").stat().st_mtime_ns == stamp
    larger = settings.model_copy(update={"preprocess": PreprocessSettings(size=96)})
    assert dataset_for(tmp_path / "frames", larger, QUIET) != first


def test_clips_without_labels_are_refused(clips: Path, tmp_path: Path) -> None:
    shutil.copy(some(clips, "val", "real"), tmp_path / "clip.avi")
    with pytest.raises(UserError, match=r"no label, such as clip\.avi"):
        extract(tmp_path, tmp_path / "out", small_settings(), QUIET)
