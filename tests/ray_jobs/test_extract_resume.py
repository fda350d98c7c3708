"""Extraction over clips that come, go, change and break off, with crops that cost nothing."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from genconvit.data.catalog import Clip
from genconvit.data.crops import Crop, CropCounts
from genconvit.data.shards import MANIFEST, open_dataset, write_manifest
from genconvit.folder import Folder
from ray_jobs.extract_plan import make_request
from ray_jobs.extract_run import run_extraction
from ray_jobs.output import Output
from tests.conftest import small_settings

pytestmark = pytest.mark.usefixtures("cluster")
QUIET = Output(as_json=True)
LONG = "long"
"""A clip of more than a shard."""


class Made:
    """Crops of a clip that are made of its content; one clip may break the whole run.

    Args:
        breaks: The clip whose part cannot be written.
    """

    def __init__(self, breaks: str = "") -> None:
        self.breaks = breaks

    def __call__(
        self, path: Path, preprocess: Any, sampling: Any, counts: CropCounts, **more: Any
    ) -> Iterator[Crop]:
        counts.frames_sampled = 1
        for frame, image in enumerate(images_of(path.name, path.read_text())):
            score: Any = "unwritable" if path.name == self.breaks else 1.0
            yield Crop(image, frame, 0.0, 0, (0, 0, 1, 1), score)


def images_of(name: str, content: str) -> list[bytes]:
    count = 1100 if name == LONG else 1 + sum(name.encode()) % 5
    return [f"{name} {content} {frame} ".encode() * 100 for frame in range(count)]


class Source:
    """A folder of clips, and what a dataset of them must hold."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.clips: dict[str, str] = {}

    def put(self, name: str, content: str = "") -> None:
        (self.folder / name).write_text(content)
        self.clips[name] = content

    def extract(self, out: Path, breaks: str = "") -> None:
        clips = [
            Clip(self.folder / name, name, "fake", group=name,
                 split="val" if name[0] in "vw" else "train")
            for name in sorted(self.clips)
        ]  # fmt: skip
        request = make_request(clips, small_settings("extract.shard_mb=1"), Folder(out))
        if request.folder.has(MANIFEST):
            return
        made = run_extraction(request, QUIET, crops_of=Made(breaks))
        write_manifest(
            request.folder, *made, settings=request.settings_to_record(), recipe=request.recipe
        )
        request.root.write_json("current.json", {"version": request.version})
        request.forget_parts()

    def expected(self) -> list[tuple[str, int, bytes]]:
        return sorted(
            (name, frame, image)
            for name, content in self.clips.items()
            for frame, image in enumerate(images_of(name, content))
        )


def held(out: Path) -> list[tuple[str, int, bytes]]:
    dataset = open_dataset(out)
    tables = [pq.read_table(shard.path) for shard in dataset.shards]
    found = sorted(
        (row["video_id"], row["frame_index"], row["image"])
        for table in tables
        for row in table.select(["video_id", "frame_index", "image"]).to_pylist()
    )
    crops = {record.name: record.crops for record in dataset.clips()}
    assert sum(crops.values()) == len(found)
    return found


def broken_off(source: Source, out: Path, name: str) -> None:
    with pytest.raises(Exception, match=r"unwritable|float|convert"):
        source.extract(out, breaks=name)


def test_clips_keep_their_crops_when_other_clips_were_wanted_in_between(tmp_path: Path) -> None:
    source, out = Source(tmp_path / "clips"), tmp_path / "out"
    for name in "abcdefgh":
        source.put(name)
    source.extract(out)
    every = dict(source.clips)
    source.clips = {name: every[name] for name in "abc"}
    source.put("new")
    broken_off(source, out, "new")
    source.clips = {**every, "new": ""}
    source.extract(out)
    assert held(out) == source.expected()


def test_a_clip_of_several_shards_is_whole_in_the_next_version_too(tmp_path: Path) -> None:
    source, out = Source(tmp_path / "clips"), tmp_path / "out"
    for name in ("a", "b", LONG, "v1"):
        source.put(name)
    source.extract(out)
    assert len(open_dataset(out).shards) > 2
    source.put("c")
    source.extract(out)
    assert held(out) == source.expected()


def test_files_that_were_touched_are_found_by_content_after_a_stop(tmp_path: Path) -> None:
    source, out = Source(tmp_path / "clips"), tmp_path / "out"
    for name in ("a", "b", "c", "d", "v1"):
        source.put(name, "first")
    source.extract(out)
    for name in source.clips:
        os.utime(source.folder / name)
    source.put("e")
    broken_off(source, out, "e")
    source.put("b", "changed")
    source.extract(out)
    assert held(out) == source.expected()


@pytest.mark.slow
def test_any_history_ends_with_what_one_run_would_have_made(tmp_path: Path) -> None:
    drawn = random.Random(0)
    source, out = Source(tmp_path / "clips"), tmp_path / "out"
    names = [*"abcdefghij", "v1", "v2", "w1", LONG]
    for step in range(8):
        for name in drawn.sample(names, 4):
            action = drawn.choice(["put", "change", "touch", "drop"])
            if action == "drop" and len(source.clips) > 3:
                source.clips.pop(name, None)
            elif action == "touch" and name in source.clips:
                os.utime(source.folder / name)
            else:
                source.put(name, str(step) if action == "change" else source.clips.get(name, ""))
        if step % 2:
            source.put("x", f"new {step}")  # of which nothing is known, so that it is written
            broken_off(source, out, "x")
            source.clips.pop("x")
        source.extract(out)
        assert held(out) == source.expected(), step
