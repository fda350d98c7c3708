"""Running an extraction: parts are made in any order and packed into shards in one."""

from __future__ import annotations

import pickle
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning

from genconvit.data.catalog import Clip
from genconvit.data.clip_table import ClipRecord
from genconvit.data.crops import iter_crops
from genconvit.data.parts import Done, Unit
from genconvit.data.shards import SPLITS, Shard, shard_name
from genconvit.errors import UserError
from ray_jobs.extract_plan import Known, Request, find_known, into_parts, is_current
from ray_jobs.extract_tasks import (
    CropsOf,
    Task,
    Watch,
    describe_shard,
    extract_part,
    pack_shard,
    unpack_shard,
)
from ray_jobs.mailbox import Event, watch
from ray_jobs.output import Bar, Output

BLOCKS_A_CPU = 8
CPUS_A_PACKER = 16


def run_extraction(
    request: Request,
    output: Output,
    crops_of: CropsOf = iter_crops,
    on_event: Callable[[Event], None] = lambda event: None,
) -> tuple[list[Shard], list[ClipRecord]]:
    """Extracts all clips of a request that are not there yet, and packs them.

    Args:
        request: What to make.
        output: Where to show how far it is.
        crops_of: Gives the crops of a clip.
        on_event: Told of every clip.

    Returns:
        The shards, and the record of every clip, in a fixed order.
    """
    known = find_known(request)
    _unpack_older(request, known, output)
    ready: dict[str, Done] = {}
    todo: list[Task] = []
    for task in request.tasks:
        name = task.clip.name
        done = known.done.get(name)
        if done is not None and (name in known.settled or is_current(task, done)):
            ready[name] = done
        else:
            # With crops to go back to, a file that was only touched need not be read again.
            again = done is not None and done.units
            todo.append(replace(task, content=done.record.content) if done and again else task)
    if ready:
        output.say(f"{len(ready)} clips are there already.")
    events = ray.remote(num_cpus=0)(Watch).remote()
    with output.bar("extracting", total=len(request.tasks)) as bar:

        def work() -> _Packer:
            packer = _Packer(request, known.shards)
            packer.expect(
                known.done[task.clip.name] for task in request.tasks if task.clip.name in known.done
            )
            arrived = dict(ready)
            fresh = _extracted(request, todo, events, crops_of)
            for task in request.tasks:
                while task.clip.name not in arrived:
                    for done in next(fresh):
                        before = known.done.get(done.record.name)
                        if done.unchanged and before is not None:
                            done = _touched(before, done.record)
                        else:
                            packer.expect([done])
                            if before is not None:
                                packer.release(before)
                        arrived[done.record.name] = done
                packer.add(_described(arrived.pop(task.clip.name), task.clip))
            packer.finish()
            return packer

        display = _Display(bar, len(ready), len(request.tasks))

        def handle(event: Event) -> None:
            display.handle(event)
            on_event(event)

        packer = watch(events, work, handle)
    return packer.shards, packer.records


def _unpack_older(request: Request, known: Known, output: Output) -> None:
    """Makes parts of the shards of older versions that hold wanted clips."""
    if not known.old_shards:
        return
    task = ray.remote(num_cpus=1)(unpack_shard)
    waiting = [
        task.remote(shard, members, request.work.location)
        for shard, members in known.old_shards.items()
    ]
    with output.bar("taking over finished clips", total=len(waiting)) as bar:
        while waiting:
            [ready], waiting = ray.wait(waiting)
            for done in ray.get(ready):
                known.done[done.record.name] = done
            bar.advance()


def _extracted(
    request: Request, todo: list[Task], events: Any, crops_of: CropsOf
) -> Iterator[list[Done]]:
    """Extracts clips; gives those of each part when it is written, in order."""
    if not todo:
        return
    items = []
    cpus = int(ray.cluster_resources().get("CPU", 1))
    for tasks in into_parts(todo, cpus):
        stamps = [[task.clip.name, task.size, task.modified_ns] for task in tasks]
        name = f"{Request.digest([request.recipe, stamps])}.parquet"
        items.append({"part": name, "tasks": pickle.dumps(tasks)})
    # Set first: a dataset keeps the context that it was made in.
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    with warnings.catch_warnings():  # of Ray 2.64, which is to take this as an argument
        warnings.simplefilter("ignore", RayDeprecationWarning)
        rows = ray.data.from_items(
            items, override_num_blocks=min(len(items), max(256, BLOCKS_A_CPU * cpus))
        ).map_batches(
            extract_part,
            batch_size=1,
            fn_kwargs={
                "settings": request.settings,
                "work": request.work.location,
                "watch": events,
                "crops_of": crops_of,
            },
            # A clip that ends its process is left out in the end.
            ray_remote_args_fn=lambda: {"max_retries": -1},
        )
    for row in rows.iter_rows():
        yield pickle.loads(row["done"])


def _touched(before: Done, now: ClipRecord) -> Done:
    """A clip as it is known, with the size and time that its file has now."""
    record = replace(before.record, size=now.size, modified_ns=now.modified_ns)
    return replace(before, record=record)


def _described(done: Done, clip: Clip) -> Done:
    """A finished clip with what the catalogue says of it now."""
    record = replace(
        done.record,
        label=clip.label or "",
        group=clip.group,
        method=clip.method,
        source=clip.source,
        split=clip.split or "",
    )
    return replace(done, record=record)


@dataclass
class _Window:
    """What goes into the next shard of a split."""

    units: list[tuple[ClipRecord, Unit]] = field(default_factory=list)
    clips: list[Done] = field(default_factory=list)
    bytes: int = 0


class _Packer:
    """Packs finished clips into shards, in the order in which they are added.

    Attributes:
        shards: The shards, once `finish` has returned.
        records: The records of all clips.
    """

    def __init__(self, request: Request, written: set[str]) -> None:
        self.shards: list[Shard] = []
        self.records: list[ClipRecord] = []
        self._request = request
        self._written = written
        self._limit = request.settings.extract.shard_mb * 2**20
        self._windows = {split: _Window() for split in SPLITS}
        self._order: list[str] = []
        self._waiting: dict[Any, list[Done]] = {}
        self._by_name: dict[str, Shard] = {}
        self._left_in: Counter[str] = Counter()
        self._shards_of: Counter[str] = Counter()
        self._whole: set[str] = set()
        cpus = int(ray.cluster_resources().get("CPU", 1))
        self._packers = max(2, cpus // CPUS_A_PACKER)
        self._pack = ray.remote(num_cpus=0)(pack_shard)
        self._describe = ray.remote(num_cpus=0)(describe_shard)

    def expect(self, clips: Iterable[Done]) -> None:
        """Tells of clips that will be added: a part is kept until all of its clips are packed."""
        self._left_in.update(done.part for done in clips if done.part)

    def release(self, done: Done) -> None:
        """Tells that nothing of a clip is needed any more."""
        if done.part:
            self._left_in[done.part] -= 1
            if not self._left_in[done.part]:
                self._request.work.remove(done.part.rsplit("/", 1)[1])

    def add(self, done: Done) -> None:
        """Takes the next clip."""
        self.records.append(done.record)
        window = self._windows[done.record.split]
        if window.bytes >= self._limit:
            self._flush(window)
        self._note(window, done)
        for unit in done.units:
            if window.bytes >= self._limit:
                self._flush(window)
                self._note(window, done)
            window.units.append((done.record, unit))
            window.bytes += unit.bytes
        self._whole.add(done.record.name)

    def finish(self) -> None:
        """Packs what is left, and waits for all shards."""
        for window in self._windows.values():
            self._flush(window)
        while self._waiting:
            self._collect()
        self.shards = [self._by_name[name] for name in self._order]
        for name in self._written - set(self._order):
            self._request.folder.remove(name)

    def _note(self, window: _Window, done: Done) -> None:
        """Has the next shard of a split note a clip."""
        window.clips.append(done)
        self._shards_of[done.record.name] += 1

    def _flush(self, window: _Window) -> None:
        if not window.units:
            return
        listing = [[record.name, unit.rows, unit.bytes] for record, unit in window.units]
        key = f"{self._request.version}/{Request.digest(listing)}"
        split = window.units[0][0].split
        name = shard_name(split, key)
        self._order.append(name)
        version = self._request.folder.location
        if name in self._written:
            ref = self._describe.remote(version, name)
        elif all(unit.path for _, unit in window.units):
            ref = self._pack.remote(version, list(window.units), list(window.clips), key)
        else:
            raise UserError(
                f"{version} was begun with other libraries, which made other crops; remove that "
                "folder and start again."
            )
        self._waiting[ref] = list(window.clips)
        window.units, window.clips, window.bytes = [], [], 0
        while len(self._waiting) > self._packers:
            self._collect()

    def _collect(self) -> None:
        """Waits for a shard, and removes parts of which nothing is left to pack."""
        [ready], _ = ray.wait(list(self._waiting))
        shard = ray.get(ready)
        self._by_name[shard.path] = shard
        for done in self._waiting.pop(ready):
            name = done.record.name
            self._shards_of[name] -= 1
            if name in self._whole and not self._shards_of[name]:
                self.release(done)


class _Display:
    """Shows how far extraction is and how fast."""

    def __init__(self, bar: Bar, ready: int, total: int) -> None:
        self._bar = bar
        self._started = time.monotonic()
        self._ready, self._total = ready, total
        self._clips = self._crops = self._failed = 0

    def handle(self, event: Event) -> None:
        """A clip is finished."""
        self._clips += 1
        self._crops += event["crops"]
        self._failed += bool(event["failure"])
        seconds = max(time.monotonic() - self._started, 1e-3)
        note = f"{self._clips / seconds:.1f} clips/s, {self._crops / seconds:.0f} faces/s"
        note += f", {self._failed} failed" if self._failed else ""
        self._bar.set(self._ready + self._clips, self._total, "extracting", note)
