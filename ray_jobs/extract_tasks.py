"""The steps of extraction that run in Ray tasks: clips to parts, parts to shards."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import resource
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from genconvit.config import Settings
from genconvit.data.catalog import Clip
from genconvit.data.clip_table import ClipRecord
from genconvit.data.crops import Crop, CropCounts, iter_crops
from genconvit.data.parts import NOTE, Done, PartWriter, Unit, note_of, pack, read_note, unpack
from genconvit.data.shards import Shard, shard_entry, write_shard
from genconvit.errors import ClipError
from genconvit.folder import Folder
from genconvit.storage import fetched, is_url
from ray_jobs.mailbox import Event, Mailbox

BLENDED = "#self-blended"
"""Ends the name of a clip's self-blended fake."""
DEATHS = 2
"""A clip in which so many processes died is left out."""
SPARE_DEATHS = 5
"""So many more may die over a part, in no clip, as when a node goes."""


@dataclass(frozen=True)
class Task:
    """A clip to extract, and what is known of it from an earlier run.

    Attributes:
        clip: The clip.
        size: Bytes of the file.
        modified_ns: When it was changed.
        content: Its hash as an earlier run saw it. Where the file still has it, nothing is done.
    """

    clip: Clip
    size: int = 0
    modified_ns: int = 0
    content: str = ""

    def record(self, content: str = "") -> ClipRecord:
        """An empty record of the clip."""
        clip = self.clip
        return ClipRecord(
            name=clip.name,
            label=clip.label or "",
            group=clip.group,
            method=clip.method,
            source=clip.source,
            split=clip.split or "",
            content=content,
            size=self.size,
            modified_ns=self.modified_ns,
        )


class Watch(Mailbox):
    """A mailbox that remembers in which clip a process died."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: Counter[str] = Counter()
        self._open: set[str] = set()
        self._deaths: Counter[str] = Counter()
        self._finished: set[str] = set()

    def begin_part(self, part: str) -> int:
        """A process starts on a part; returns how often one did before."""
        self._parts[part] += 1
        return self._parts[part] - 1

    def begin(self, clip: str) -> int:
        """A process starts on a clip; returns how many have died in it."""
        self._deaths[clip] += clip in self._open
        self._open.add(clip)
        return self._deaths[clip]

    def push(self, event: Event) -> None:
        """Ends a clip. When its part is begun anew, after a death, it ends again, untold."""
        self._open.discard(event["clip"])
        if event["clip"] not in self._finished:
            self._finished.add(event["clip"])
            super().push(event)


CropsOf = Callable[..., Iterable[Crop]]


def extract_part(
    batch: dict[str, Any], settings: Settings, work: str, watch: Any, crops_of: CropsOf = iter_crops
) -> dict[str, Any]:
    """Writes the crops of a few clips as a part, or finds it written; returns its records.

    Args:
        batch: One row: `part` (its name) and `tasks` (pickled).
        settings: `preprocess`, `sampling` and `extract` matter.
        work: The folder of parts.
        watch: A `Watch`, told of every clip.
        crops_of: Gives the crops of a clip, as `iter_crops` does.
    """
    name, tasks = batch["part"][0], pickle.loads(batch["tasks"][0])
    folder = Folder(work)
    if folder.has(name):  # the process died after it
        return _result(read_note(folder.at(name)))
    with folder.written(name) as aside:
        writer = PartWriter(aside)
        for task, died in begun(name, tasks, watch):
            record = _extract_clip(task, writer, settings, crops_of, died)
            event = {
                "clip": record.name,
                "crops": record.crops,
                "failure": record.failure_kind,
                "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
            watch.push.remote(event)
        writer.close()
    return _result(read_note(folder.at(name)))


def begun(part: str, tasks: Sequence[Task], watch: Any) -> Iterator[tuple[Task, bool]]:
    """The clips of a part, one after the other, and whether `DEATHS` processes died in it already.

    Args:
        part: Its name.
        tasks: Its clips.
        watch: A `Watch`, which the caller tells of every clip that is finished.

    Raises:
        RuntimeError: Processes go on dying, and not while they read a clip.
    """
    begun_before = ray.get(watch.begin_part.remote(part))
    if begun_before > DEATHS * len(tasks) + SPARE_DEATHS:
        raise RuntimeError(
            f"{begun_before} processes died over {tasks[0].clip.name} and its neighbours, and not "
            "while they read a clip; look for the cause in Ray's logs"
        )
    for task in tasks:
        deaths = watch.begin.remote(task.clip.name)
        # To wait for an answer lets another process have the CPU: only after a death.
        yield task, begun_before > 0 and ray.get(deaths) >= DEATHS


def deadly(clip: Clip) -> ClipError:
    """What becomes of a clip in which `DEATHS` processes died."""
    return ClipError(
        f"{clip.path} ended the process that read it, {DEATHS} times; look at it apart", "crashed"
    )


def _extract_clip(
    task: Task, writer: PartWriter, settings: Settings, crops_of: CropsOf, died: bool
) -> ClipRecord:
    """Adds a clip to a part: its crops, why it has none, or that it is as an earlier run saw it.

    What goes wrong with the clip is noted; what goes wrong with the part is raised.
    """
    clip, counts, record = task.clip, CropCounts(), task.record()
    try:
        if died:
            raise deadly(clip)
        with local_copy(clip.path) as path:
            record.content = content_of(path, "blended" if clip.name.endswith(BLENDED) else "")
            if task.content and record.content == task.content:
                writer.add_unchanged(record)
                return record
            retouch = None
            if clip.name.endswith(BLENDED):
                # Imported here: torch takes seconds and much memory, which other clips do not need.
                from genconvit.data.blend import crop_margin, self_blend_crop

                retouch = functools.partial(
                    self_blend_crop, margin=crop_margin(settings.preprocess)
                )
            crops = crops_of(path, settings.preprocess, settings.sampling, counts, retouch=retouch)
            writer.add(record, _counted(crops, record, counts))
    except ClipError as error:
        record.failure_kind, record.failure = error.kind, str(error)
        writer.add_without_crops(record)
    return record


def _counted(crops: Iterable[Crop], record: ClipRecord, counts: CropCounts) -> Iterator[Crop]:
    """Passes crops on; a clip that has none, or that breaks a library, ends in a `ClipError`."""
    empty = True
    try:
        for crop in crops:
            empty = False
            yield crop
    except ClipError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise ClipError(f"{kind}: {error}", kind) from error
    record.frames_sampled = counts.frames_sampled
    record.frames_with_face = counts.frames_with_face
    record.removed = counts.removed
    if empty and counts.removed:
        reasons = ", ".join(f"{number} {reason}" for reason, number in counts.removed.items())
        raise ClipError(f"the quality filters removed every face ({reasons})", "filtered")
    if empty:
        raise ClipError(f"no face was found in {counts.frames_sampled} sampled frames", "no face")


def _result(done: Sequence[Done]) -> dict[str, Any]:
    return {"done": [pickle.dumps(list(done))]}


def pack_shard(
    version: str, units: Sequence[tuple[ClipRecord, Unit]], window: Sequence[Done], key: str
) -> Shard:
    """Writes a shard of units, with the records of all clips of its window in its metadata.

    Args:
        version: The version's folder.
        units: Its crops, in order.
        window: The clips that are in this shard, and those between them that have no crops.
        key: What its name is made of.
    """
    train = units[0][0].split == "train"
    seed = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16)
    rows = pack(units, shuffle_seed=seed if train else None)
    return write_shard(Folder(version), rows, key=key, notes={NOTE.decode(): note_of(window)})


def describe_shard(version: str, name: str) -> Shard:
    """The entry of a shard that an earlier run has written."""
    folder = Folder(version)
    if not is_url(version):
        return shard_entry(name, Path(folder.at(name)))
    with fetched(version, name) as copy:
        return shard_entry(name, copy)


def unpack_shard(shard: str, done: dict[str, Done], work: str) -> list[Done]:
    """Makes a part of the crops of an older version's shard; returns what is in it."""
    folder = Folder(work)
    wanted = hashlib.sha256(repr([shard, sorted(done)]).encode()).hexdigest()
    name = f"unpacked-{wanted[:16]}.parquet"
    if not folder.has(name):  # a part is never written over: others may know its units
        with folder.written(name) as aside:
            unpack(shard, done, aside)
    return read_note(folder.at(name))


@contextlib.contextmanager
def local_copy(path: str | Path) -> Iterator[Path]:
    """The path of a clip, or of a copy of one behind a URL that goes with the block."""
    if not is_url(path):
        yield Path(path)
        return
    folder, _, name = str(path).rpartition("/")
    with fetched(folder, name) as copy:
        if not copy.exists():
            raise ClipError(f"{path} is not there; check the address", "missing")
        yield copy


def content_of(path: Path, use: str = "") -> str:
    """SHA-256 of a file, or of the files in a folder of frames; 32 hex digits.

    Args:
        path: The file or folder.
        use: What is made of it, which goes into the hash.

    Raises:
        ClipError: It cannot be read.
    """
    digest = hashlib.sha256(use.encode())
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        for part in files:
            with part.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ClipError(f"{path} cannot be read ({reason}); check the path", "missing") from error
    return digest.hexdigest()[:32]
