from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from genconvit.config import PreprocessSettings, SamplingSettings
from genconvit.data.catalog import Clip
from genconvit.data.crops import ClipCrops, extract_crops
from genconvit.predict import load_detector
from ray_jobs.cli import main
from ray_jobs.extract_tasks import Task
from ray_jobs.judge_clips import Scoring, judge_clips
from tests.conftest import Cluster, small_settings

# Each start of a driver and of Ray's workers takes its time.
pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(900)]


def predict(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[dict[str, Any], str]:
    """The last object that the command prints, and what it writes to stderr."""
    with pytest.raises(SystemExit):
        main(["predict", *map(str, arguments), "--json"])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    return json.loads(lines[-1]) if lines else {}, printed.err


def rows(out: Path) -> dict[str, dict[str, Any]]:
    found = pq.read_table(out / "scores.parquet").to_pylist()
    assert [row["video_name"] for row in found] == sorted({row["video_name"] for row in found})
    return {row["video_name"]: row for row in found}


@pytest.fixture
def bucket(clips: Path, tmp_path: Path) -> Path:
    """Two good clips and some that are none."""
    folder = tmp_path / "bucket"
    for label in ("real", "fake"):
        (folder / label).mkdir(parents=True)
        shutil.copy(sorted(clips.parent.glob(f"test/{label}/*"))[0], folder / label / "good.avi")
    (folder / "real" / "letter.mp4").write_text("Dear reader")
    (folder / "fake" / "empty.mp4").touch()
    return folder


def test_a_bucket_of_clips_becomes_tables(
    bucket: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    job = ("--model", detector, f"file://{bucket}", "--table", f"file://{out}")
    said, _ = predict(capsys, *job)
    assert said["failures"] == {"empty": 1, "not a clip": 1}
    found = rows(out)
    assert list(found) == ["fake/empty.mp4", "fake/good.avi", "real/good.avi", "real/letter.mp4"]
    crops = pq.read_table(out / "crop_scores.parquet").to_pylist()
    for label in ("real", "fake"):
        row = found[f"{label}/good.avi"]
        alone = load_detector(detector).judge(bucket / label / "good.avi")
        assert (row["label"], row["verdict"], row["reason"]) == (label, alone.verdict, alone.reason)
        assert row["score"] == pytest.approx(alone.probability_fake, abs=1e-6)
        assert (row["frames_sampled"], row["tracks"]) == (4, 1)
        assert row["seconds"] > 0
        scored = [crop for crop in crops if crop["video_name"] == row["video_name"]]
        assert [crop["frame_index"] for crop in scored] == [p.frame_index for p in alone.timeline]
        assert [crop["probability_fake"] for crop in scored] == pytest.approx(
            [point.probability_fake for point in alone.timeline], abs=1e-6
        )
    assert found["real/letter.mp4"]["score"] is None
    assert "letter.mp4" in found["real/letter.mp4"]["failure"]
    with (out / "scores.csv").open(newline="") as file:
        assert [row["score"] == "" for row in csv.DictReader(file)] == [True, False, False, True]

    for other in (("--threshold", "0.6"), ("--frames", "3")):
        _, err = predict(capsys, *job, *other)
        assert "was begun with" in err and len(err.splitlines()) == 1
    shutil.copy(bucket / "real" / "good.avi", bucket / "real" / "letter.mp4")
    said, _ = predict(capsys, *job)
    assert said["failures"] == {"empty": 1}
    assert rows(out)["real/letter.mp4"]["score"] == found["real/good.avi"]["score"]
    assert rows(out)["real/good.avi"] == found["real/good.avi"]  # its time too: not judged again


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_where_it_was(
    cluster: Cluster, clips: Path, detector: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    job = ["--model", str(detector), str(clips.with_name("some.csv")), "--table", str(out)]
    clips.with_name("some.csv").write_text("\n".join(clips.read_text().splitlines()[:17]))
    driver = subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.cli", "predict", *job],
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while len(list(out.glob("parts/*.parquet"))) < 3:
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    kept = {
        row["video_name"]: row["seconds"]
        for part in out.glob("parts/*.parquet")
        for row in pq.read_table(part).to_pylist()
    }
    assert 3 <= len(kept) < 16
    said, _ = predict(capsys, *job)
    assert said["clips"] == 16
    found = rows(out)
    assert len(found) == 16
    assert {name: found[name]["seconds"] for name in kept} == kept
    assert all(row["score"] is not None for row in found.values())


def test_names_that_would_clash_and_other_files_are_refused(
    bucket: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = ("--model", detector, "--table")
    two = (bucket / "real" / "good.avi", bucket / "fake" / "good.avi")
    _, err = predict(capsys, *job, tmp_path / "out", *two)
    assert "would both be good.avi" in err
    _, err = predict(capsys, *job, bucket, bucket)
    assert "holds other files" in err


class Deadly:
    """Ends the process at one clip, as a broken decoder does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(
        self, path: Path, name: str, preprocess: PreprocessSettings, sampling: SamplingSettings
    ) -> ClipCrops:
        if path == self.path:
            os.kill(os.getpid(), signal.SIGKILL)
        return extract_crops(path, preprocess, sampling)


def test_a_clip_that_ends_the_process_fails_and_the_rest_is_judged(
    clips: Path, detector: Path
) -> None:
    files = sorted(clips.parent.glob("test/*/*"))[:3]
    settings = small_settings("sampling.frames=1")
    scoring = Scoring(
        str(detector), settings.preprocess, settings.sampling, settings.decision, "cpu"
    )
    tasks = [Task(Clip(file, file.name)) for file in files]
    judged = [clip for some in judge_clips(tasks, scoring, Deadly(files[1])) for clip in some]
    kinds = {clip.task.clip.name: clip.failure_kind for clip in judged}
    assert kinds == {files[0].name: "", files[1].name: "crashed", files[2].name: ""}
