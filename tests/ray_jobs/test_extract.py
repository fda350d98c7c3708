from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from genconvit.config import PreprocessSettings
from genconvit.data.crops import Crop, iter_crops
from genconvit.data.removal import remove_group
from genconvit.data.shards import SCHEMA, is_dataset, open_dataset, write_manifest
from genconvit.errors import UserError
from genconvit.folder import Folder
from ray_jobs.estimate import Estimate
from ray_jobs.extract import alone_in, dataset_for, extract, find_split_clips, refuse_full_disk
from ray_jobs.extract_plan import make_request
from ray_jobs.extract_run import run_extraction
from ray_jobs.output import Output
from tests.conftest import SMALL, Cluster, small_settings

pytestmark = pytest.mark.usefixtures("cluster")
QUIET = Output(as_json=True)


def rows(dataset: Path | str) -> list[dict[str, object]]:
    """The rows of a version, in an order of their own."""
    files = sorted(Path(dataset).glob("*/*.parquet"))
    found = [row for file in files for row in pq.read_table(file).to_pylist()]
    return sorted(found, key=lambda row: (row["video_id"], row["frame_index"], row["track"]))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for the time that the manifest tells."""
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    texts = {name: path.read_bytes() for name, path in found.items()}
    for name in texts:
        if name.endswith("extract.json"):
            manifest = json.loads(texts[name])
            texts[name] = json.dumps({**manifest, "seconds": 0, "made": ""}).encode()
    return texts


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
    assert manifest["failures"] == {}
    assert open_dataset(dataset).preprocess == small_settings().preprocess


def test_the_same_extraction_is_not_done_twice(clips: Path, dataset: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    job = small_settings("sampling.frames=2")
    again = extract(clips.with_name("half.csv"), dataset.parent, job, QUIET)
    assert again.path == str(dataset)
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


def test_a_folder_with_other_files_is_refused(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("a year of work")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        extract(clips, tmp_path, small_settings(), QUIET)


def test_bad_clips_are_reported_and_the_rest_goes_on(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.mp4").write_text("Dear reader")
    source = table(
        tmp_path,
        f"{some(clips, 'train', 'real')},real,a,train",
        f"{some(clips, 'val', 'fake')},fake,b,val",
        "letter.mp4,fake,c,train",
        "gone.mp4,real,d,train",
    )
    made = extract(source, tmp_path / "out", small_settings("sampling.frames=2"), QUIET)
    assert made.manifest["failures"] == {"missing": 1, "not a clip": 1}
    reasons = {record.name: record.failure for record in made.clips() if record.failure}
    assert reasons.keys() == {"letter.mp4", "gone.mp4"}
    assert all(name in reason for name, reason in reasons.items())
    assert len(rows(made.path)) == 4


def test_when_every_clip_fails_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "letter.mp4").write_text("Dear reader")
    source = table(tmp_path, "letter.mp4,fake,c,train")
    with pytest.raises(UserError, match="none of the 1 clips"):
        extract(source, tmp_path / "out", small_settings(), QUIET)
    assert not is_dataset(tmp_path / "out")


def few(clips: Path, folder: Path, *more: str) -> Path:
    """Four clips: a real and a fake one to train on and to validate with."""
    return table(
        folder,
        *(f"{some(clips, split, label)},{label},{split},{split}"
          for split in ("train", "val") for label in ("real", "fake")),
        *more,
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_that_was_killed_ends_with_the_same_files(
    cluster: Cluster, clips: Path, tmp_path: Path
) -> None:
    """Small shards and parts, so that it is killed with some of both written."""
    lines = clips.read_text().splitlines()
    source = clips.with_name("killed.csv")
    source.write_text("\n".join(lines[:33]))
    arguments = ["sampling.frames=2", "preprocess.size=512", "extract.shard_mb=1"]
    job = small_settings(*arguments)
    whole = extract(source, tmp_path / "whole", job, QUIET)

    out = tmp_path / "killed"
    words = [sys.executable, "-m", "ray_jobs.extract", source, out, *SMALL, *arguments, "--json"]
    command = [str(word) for word in words]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    victim = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob("[!.]*/*/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    victim.kill()
    victim.wait()
    assert list(out.glob("[!.]*/*/*.parquet"))
    assert not is_dataset(out)

    begun = {path.name for path in out.glob("[!.]*/*/*.parquet")}
    again = extract(source, out, job, QUIET)
    assert contents(out / again.manifest["version"]) == contents(Path(whole.path))
    assert begun & {path.name for path in out.glob("[!.]*/*/*.parquet")}
    assert {path.name for path in out.glob("[!.]*")} == {again.manifest["version"], "current.json"}
    assert not (out / ".work").exists()


def test_other_settings_make_another_version_beside_the_first(clips: Path, tmp_path: Path) -> None:
    source, out = few(clips, tmp_path), tmp_path / "out"
    first = extract(source, out, small_settings("sampling.frames=2"), QUIET)
    before = contents(Path(first.path))
    second = extract(source, out, small_settings("sampling.frames=3"), QUIET)
    assert open_dataset(out).path == second.path != first.path
    assert contents(Path(first.path)) == before
    assert [len(rows(made.path)) for made in (first, second)] == [8, 12]


def test_a_new_clip_is_added_without_touching_the_others(clips: Path, tmp_path: Path) -> None:
    """What is known is found by size and time, and by content where a file was only touched."""
    job = small_settings("sampling.frames=2")
    mine = tmp_path / "mine"
    mine.mkdir()
    for split in ("train", "val"):
        for label in ("real", "fake"):
            shutil.copy(some(clips, split, label), mine / f"{split}_{label}.avi")
    names = [f"{path.name},{path.stem.split('_')[1]},{path.stem.split('_')[0]},"
             f"{path.stem.split('_')[0]}" for path in sorted(mine.iterdir())]  # fmt: skip
    out = tmp_path / "out"
    first = extract(table(mine, *names), out, job, QUIET)
    os.utime(mine / "val_real.avi")
    new = str(sorted(clips.parent.glob("train/fake/*"))[1])
    source = table(mine, *names, f"{new},fake,train,train")
    # Were a known clip cropped again, it would fail now.
    request = make_request(find_split_clips(source, job.split), job, Folder(out))
    shards, records = run_extraction(request, QUIET, crops_of=OnlyThis(new))
    write_manifest(request.folder, shards, records, settings=request.settings_to_record())
    second = rows(request.folder.location)
    assert [row for row in second if row["video_id"] != new] == rows(first.path)
    assert len(second) == 10


class OnlyThis:
    """Crops one clip and refuses the others."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, path: Path, *rest: Any, **more: Any) -> Iterator[Crop]:
        if str(path) != self.path:
            raise AssertionError(f"{path} is known")
        return iter_crops(path, *rest, **more)


class Deadly:
    """Ends the process at one clip, as a broken decoder does."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, path: Path, *rest: Any, **more: Any) -> Iterator[Crop]:
        if str(path) == self.path:
            os.kill(os.getpid(), signal.SIGKILL)
        return iter_crops(path, *rest, **more)


def test_a_clip_that_ends_the_process_is_left_out_and_the_rest_goes_on(
    clips: Path, tmp_path: Path
) -> None:
    source = few(clips, tmp_path)
    job = small_settings("sampling.frames=2")
    request = make_request(find_split_clips(source, job.split), job, Folder(tmp_path / "out"))
    deadly = some(clips, "train", "fake")
    told: list[str] = []
    _, records = run_extraction(
        request, QUIET, crops_of=Deadly(deadly), on_event=lambda event: told.append(event["clip"])
    )
    kinds = {record.name: record.failure_kind for record in records}
    assert kinds.pop(deadly) == "crashed"
    assert set(kinds.values()) == {""}
    assert sorted(told) == sorted([deadly, *kinds])


def test_broken_files_of_every_kind_are_counted_and_end_nothing(
    clips: Path, tmp_path: Path
) -> None:
    """Truncated, with flipped bits, of a wrong type, empty."""
    generator = np.random.default_rng(0)
    whole = Path(some(clips, "train", "real")).read_bytes()
    lines = []
    for number in range(60):
        content = bytearray(whole)
        if number % 3 == 0:
            content = content[: int(generator.integers(0, len(whole)))]
        elif number % 3 == 1:
            for place in generator.integers(0, len(whole), 2000):
                content[place] ^= int(generator.integers(1, 256))
        else:
            content = bytearray(generator.bytes(5000))
        name = f"broken{number}{('.avi', '.mp4', '.png', '.txt')[number % 4]}"
        (tmp_path / name).write_bytes(content)
        lines.append(f"{name},fake,g{number},train")
    made = extract(few(clips, tmp_path, *lines), tmp_path / "out", small_settings(), QUIET)
    records = made.clips()
    assert len(records) == 64
    failed = Counter(record.failure_kind for record in records if not record.crops)
    assert dict(failed) == made.manifest["failures"]
    assert sum(failed.values()) >= 20
    assert "" not in failed


def test_real_footage_alone_gives_self_blended_fakes(clips: Path, tmp_path: Path) -> None:
    lines = [f"{some(clips, split, 'real')},real,{split},{split}" for split in ("train", "val")]
    job = small_settings("sampling.frames=2", "extract.self_blend=1")
    made = extract(table(tmp_path, *lines), tmp_path / "out", job, QUIET)
    for split in ("train", "val"):
        assert made.counts[split] == {"fake": 2, "real": 2}
    found = rows(made.path)
    real, fake = ([r for r in found if r["label"] == label] for label in (1, 0))
    assert {row["method"] for row in fake} == {"self-blended"}
    for one, two in zip(real, fake, strict=True):
        assert one["group"] == two["group"]
        assert one["frame_index"] == two["frame_index"]
        assert one["image"] != two["image"]


def test_a_removed_group_stays_away(clips: Path, tmp_path: Path) -> None:
    source, out = (
        few(clips, tmp_path, f"{some(clips, 'test', 'real')},real,gone,train"),
        tmp_path / "o",
    )
    job = small_settings("sampling.frames=2")
    extract(source, out, job, QUIET)
    remove_group(Folder(out), "gone")
    assert "gone" not in {row["group"] for row in rows(open_dataset(out).path)}
    again = extract(source, out, job, QUIET)
    assert {row["group"] for row in rows(again.path)} == {"train", "val"}


def test_clips_and_shards_may_lie_behind_urls(clips: Path, tmp_path: Path) -> None:
    job = small_settings("sampling.frames=2")
    local = extract(few(clips, tmp_path), tmp_path / "local", job, QUIET)
    folder = tmp_path / "bucket"
    for split in ("train", "val"):
        for label in ("real", "fake"):
            (folder / split / label).mkdir(parents=True)
            shutil.copy(some(clips, split, label), folder / split / label / "a.avi")
    remote = extract(f"file://{folder}", f"file://{tmp_path}/shards", job, QUIET)
    assert is_dataset(f"file://{tmp_path}/shards")
    assert remote.counts == local.counts
    found = rows(remote.path.removeprefix("file://"))
    assert {row["image"] for row in found} == {row["image"] for row in rows(local.path)}


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="are free there"):
        refuse_full_disk(Folder(tmp_path / "out"), Estimate(10**12, 10**18))


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
    assert first.counts["train"] == {"fake": 3, "real": 3}
    assert first.counts["val"] == {"fake": 3, "real": 3}
    stamp = Path(first.path, "extract.json").stat().st_mtime_ns
    assert dataset_for(tmp_path / "frames", settings, QUIET).path == first.path
    assert Path(first.path, "extract.json").stat().st_mtime_ns == stamp
    larger = settings.model_copy(update={"preprocess": PreprocessSettings(size=96)})
    assert dataset_for(tmp_path / "frames", larger, QUIET).path != first.path


def test_clips_without_labels_are_refused(clips: Path, tmp_path: Path) -> None:
    shutil.copy(some(clips, "val", "real"), tmp_path / "clip.avi")
    with pytest.raises(UserError, match=r"no label \(1\), such as clip\.avi"):
        extract(tmp_path, tmp_path / "out", small_settings(), QUIET)


def test_a_second_extraction_into_a_folder_waits_for_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entered = threading.Event()

    def second() -> None:
        with alone_in(Folder(tmp_path), Output()):
            entered.set()

    with alone_in(Folder(tmp_path), Output()):
        other = threading.Thread(target=second)
        other.start()
        assert not entered.wait(0.5)
    other.join(timeout=10)
    assert entered.is_set()
    assert "Waiting for another extraction" in capsys.readouterr().out
