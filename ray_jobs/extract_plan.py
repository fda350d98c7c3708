"""What an extraction is to make, and what of it is there already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import fsspec

from genconvit.config import Settings
from genconvit.data.clip import IMAGE_SUFFIXES, Clip
from genconvit.data.clip_table import read_clip_table
from genconvit.data.parts import Done, read_note
from genconvit.data.shards import MANIFEST
from genconvit.folder import Folder
from genconvit.storage import is_url
from ray_jobs.extract_tasks import BLENDED, Task

WORK = ".work"
CLIPS_A_PART = 8
IMAGES_A_PART = 256
PARTS_A_CPU = 16
LASTING = ("empty", "not a clip", "damaged", "too large", "no face", "filtered")
"""Failures that the same file will have again."""
STAT_THREADS = 32


@dataclass(frozen=True)
class Request:
    """A version that is to be made.

    Attributes:
        root: The dataset's folder.
        settings: Those of the job.
        recipe: Digest of the settings that a clip's crops depend on.
        version: Digest of the recipe and of the clips: the name of the version's folder.
        tasks: The clips, in the order in which they go into shards.
    """

    root: Folder
    settings: Settings
    recipe: str
    version: str
    tasks: tuple[Task, ...]

    @property
    def folder(self) -> Folder:
        """The version's folder."""
        return self.root.folder(self.version)

    @property
    def work(self) -> Folder:
        """The folder of parts."""
        return self.root.folder(f"{WORK}/{self.recipe}")

    @staticmethod
    def digest(content: Any) -> str:
        """Twelve hex digits of plain data."""
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    def settings_to_record(self) -> dict[str, Any]:
        """What the manifest says of the settings."""
        sections = {"preprocess", "sampling", "split", "extract"}
        return self.settings.model_dump(mode="json", include=sections)

    def bytes_already(self) -> int:
        """What earlier runs have left of the version on this machine's disk."""
        if is_url(self.root.location):
            return 0
        places = [Path(self.folder.location), Path(self.work.location)]
        return sum(f.stat().st_size for place in places for f in place.rglob("*.parquet"))

    def forget_parts(self) -> None:
        """Removes what only a run in the making needs, once the version is there."""
        if not is_url(self.root.location):
            for half in Path(self.folder.location).rglob(".*"):  # of a process that was killed
                half.unlink(missing_ok=True)
        self.root.remove(f"{WORK}/{self.recipe}")
        if not any(name.startswith(f"{WORK}/") for name in self.root.names()):
            self.root.remove(WORK)


def make_request(clips: list[Clip], settings: Settings, root: Folder) -> Request:
    """Plans the extraction of clips that have labels and splits."""
    recipe = Request.digest([settings.preprocess.identity(), settings.sampling.identity()])
    stamps = file_stamps(clips)
    tasks = [Task(clip, *stamp) for clip, stamp in zip(clips, stamps, strict=True)]
    tasks += [
        replace(task, clip=replace(task.clip, name=task.clip.name + BLENDED, label="fake",
                                   method="self-blended"))
        for task in tasks
        if task.clip.label == "real" and _drawn(task.clip.name, settings)
    ]  # fmt: skip
    tasks.sort(key=lambda task: _place(task.clip.name, settings.split.seed))
    listing = [
        [c.name, c.label, c.group, c.method, c.source, c.split, task.size, task.modified_ns]
        for task in tasks
        for c in [task.clip]
    ]
    version = Request.digest([recipe, settings.extract.shard_mb, listing])
    return Request(root, settings, recipe, version, tuple(tasks))


@dataclass
class Known:
    """What earlier runs have left that fits the recipe.

    Attributes:
        done: Finished clips, by name. Units without a path are in `shards` already.
        shards: Shards of this version, by name in its folder.
        settled: Clips whose outcome is noted in `shards`: it decides what is in them.
        old_shards: Shards of other versions, with the clips in them that are wanted.
    """

    done: dict[str, Done]
    shards: set[str]
    settled: set[str]
    old_shards: dict[str, dict[str, Done]]


def find_known(request: Request) -> Known:
    """Looks for finished clips of a request among parts and older versions."""
    wanted = {task.clip.name for task in request.tasks}
    known = Known({}, set(), set(), {})
    names = request.root.names()
    for name in names:
        if _is_shard_of(name, request.version):
            known.shards.add(name.split("/", 1)[1])
            for done in read_note(request.root.at(name), packed=True):
                known.done[done.record.name] = done
                known.settled.add(done.record.name)
    for name in names:
        if name.startswith(f"{WORK}/{request.recipe}/") and name.endswith(".parquet"):
            for done in read_note(request.root.at(name)):
                # A part still has the crops, which not all shards of a long clip may have.
                if done.record.name in wanted and not done.unchanged:
                    known.done[done.record.name] = done
    versions = {name.split("/")[0] for name in names if name.endswith(f"/{MANIFEST}")}
    found = []
    for version in versions - {request.version}:
        manifest = request.root.folder(version).read_json(MANIFEST, "a version's description")
        if manifest.get("recipe") == request.recipe:
            found.append((str(manifest.get("made")), version, manifest))
    for _, version, manifest in sorted(found, key=lambda item: item[:2], reverse=True):
        _look_into(request.root.folder(version), manifest["shards"], wanted, known)
    return known


def _look_into(
    folder: Folder, shards: Sequence[Mapping[str, Any]], wanted: set[str], known: Known
) -> None:
    """Finds clips in a finished version with the same recipe that newer ones do not have."""
    planned = {name for members in known.old_shards.values() for name in members}
    records = {
        record.name: record
        for record in read_clip_table(folder)
        if record.name in wanted - known.done.keys() - planned
    }
    for name, record in records.items():
        if record.content and record.failure_kind in LASTING:
            known.done[name] = Done(record, ())
    for shard in shards:
        location = folder.at(shard["path"])
        members = {
            done.record.name: Done(records[done.record.name], done.units)
            for done in read_note(location, packed=True)
            if done.record.name in records and records[done.record.name].crops
        }
        if members:
            known.old_shards[location] = members


def is_current(task: Task, done: Done) -> bool:
    """Whether a finished clip's file looks as it did, without reading it.

    Failures that may pass are tried again.
    """
    record = done.record
    same = (record.size, record.modified_ns) == (task.size, task.modified_ns)
    return same and bool(record.content) and record.failure_kind in ("", *LASTING)


def into_parts(tasks: Sequence[Task], cpus: int) -> Iterable[list[Task]]:
    """Bundles clips, so that a part takes seconds to minutes and a stopped run loses little.

    Where there are few clips the parts are small, so that all CPUs end at about the same time.
    """
    largest = max(1, len(tasks) // (PARTS_A_CPU * cpus))
    part: list[Task] = []
    weight = 0.0
    for task in tasks:
        part.append(task)
        image = Path(task.clip.name).suffix.lower() in IMAGE_SUFFIXES
        weight += 1 / min(IMAGES_A_PART if image else CLIPS_A_PART, largest)
        if weight >= 1 - 1e-9:
            yield part
            part, weight = [], 0.0
    if part:
        yield part


def _is_shard_of(name: str, version: str) -> bool:
    return name.startswith(f"{version}/") and name.count("/") == 2 and name.endswith(".parquet")


def _place(name: str, seed: int) -> str:
    """Where a clip stands in the order: at random, so that every shard holds a bit of all."""
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


def _drawn(name: str, settings: Settings) -> bool:
    """Whether a real clip also gives a self-blended fake."""
    digest = hashlib.sha256(f"{settings.split.seed}/blend/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < settings.extract.self_blend


def file_stamps(clips: list[Clip]) -> list[tuple[int, int]]:
    """Size and time of change of every clip's file; zeros where there is none."""
    with ThreadPool(STAT_THREADS) as pool:
        return pool.map(lambda clip: _stamp(clip.path), clips, chunksize=256)


def _stamp(path: str | Path) -> tuple[int, int]:
    if is_url(path):
        return _stamp_of_url(str(path))
    try:
        found = Path(path)
        files = sorted(found.iterdir()) if found.is_dir() else [found]
        every = [file.stat() for file in files]
    except OSError:
        return (0, 0)
    size = sum(status.st_size for status in every)
    return (size, max((status.st_mtime_ns for status in every), default=0))


def _stamp_of_url(url: str) -> tuple[int, int]:
    """Size, and a digest of what the store says of the file, such as its ETag."""
    try:
        system, path = fsspec.core.url_to_fs(url)
        found = system.find(path, detail=True)
    except Exception:  # every store has errors of its own; the task will tell
        return (0, 0)
    listing = [sorted(map(str, about.items())) for _, about in sorted(found.items())]
    size = sum(int(about.get("size") or 0) for about in found.values())
    return (size, int(Request.digest(listing), 16))
