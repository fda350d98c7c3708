"""Clips to shards: Ray Data decodes, detects and crops on every node.

A run that was stopped continues where it was: finished clips lie in parts, finished shards in the
version's folder (`genconvit.data.parts`, `genconvit.data.shards`). Parts are packed in a fixed
order of the clips, so that a run that was stopped ends with the same shards as one that was not.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from genconvit.config import Settings, SplitSettings
from genconvit.data.catalog import Clip, read_catalog
from genconvit.data.clip_table import ClipRecord
from genconvit.data.detectors import with_detector_digest
from genconvit.data.removal import name_digest, removed_groups, removed_names
from genconvit.data.shards import (
    CURRENT,
    MANIFEST,
    FrameDataset,
    is_dataset,
    open_dataset,
    write_manifest,
)
from genconvit.data.splits import assign_splits, leaking_groups
from genconvit.errors import UserError
from genconvit.files import LOCK, locked
from genconvit.folder import Folder
from genconvit.storage import absolute, is_url
from ray_jobs.cluster import connected
from ray_jobs.estimate import Estimate, estimate_size, human_bytes
from ray_jobs.extract_plan import LASTING, Request, make_request
from ray_jobs.extract_run import run_extraction
from ray_jobs.extract_tasks import BLENDED
from ray_jobs.output import Output

SHOWN_FAILURES = 20


def extract(
    source: str | Path, out: str | Path, settings: Settings, output: Output
) -> FrameDataset:
    """Makes a frame dataset of a folder, a list of clips, or a URL of one.

    Args:
        source: What `find_clips` takes; every clip needs a label.
        out: The dataset's folder or URL. What it holds of these clips with these settings is kept.
        settings: `preprocess`, `sampling`, `split` and `extract` matter.
        output: Where to tell of it.

    Returns:
        The dataset.

    Raises:
        UserError: There is nothing to extract, `out` holds something else, it does not fit on the
            disk, or every clip failed.
    """
    settings = settings.model_copy(update={"preprocess": with_detector_digest(settings.preprocess)})
    folder = Folder(out)
    clips = clips_to_extract(source, folder, settings, output)
    request = make_request(clips, settings, folder)
    if not request.folder.has(MANIFEST):
        _refuse_foreign_content(folder)
    with alone_in(folder, output):
        if request.folder.has(MANIFEST):
            output.say(
                f"{request.folder} already holds these clips with these settings; nothing to do."
            )
        else:
            _warn_of_leaks(clips, output)
            estimate = estimate_size(clips, settings)
            refuse_full_disk(folder, estimate, already=request.bytes_already())
            _extract(request, source, estimate, output)
        request.root.write_json(CURRENT, {"version": request.version})
        request.forget_parts()
    dataset = open_dataset(request.folder.location)
    _show(dataset, output)
    output.emit({"event": "extracted", "out": dataset.path, **_without_shards(dataset)})
    return dataset


def _extract(request: Request, source: str | Path, estimate: Estimate, output: Output) -> None:
    with connected(output) as ray_logs:
        started = time.monotonic()
        clips = [task.clip for task in request.tasks]
        blended = sum(clip.name.endswith(BLENDED) for clip in clips)
        also = f", and self-blended fakes of {blended} of them" if blended else ""
        output.say(
            f"Extracting {len(clips) - blended} clips from {source}{also}: {estimate}. "
            f"Ray's logs: {ray_logs}"
        )
        shards, records = run_extraction(request, output)
        _refuse_if_all_failed(records, source)
        write_manifest(
            request.folder,
            shards,
            records,
            settings=request.settings_to_record(),
            version=request.version,
            recipe=request.recipe,
            source=str(source),
            leaking_groups=leaking_groups(clips),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 1),
        )


@contextlib.contextmanager
def alone_in(folder: Folder, output: Output) -> Iterator[None]:
    """Waits until no other extraction on this machine writes to a folder.

    The lock goes with the process, however that ends. Folders behind URLs have none.
    """
    if is_url(folder.location):
        yield
        return
    busy = partial(output.say, f"Waiting for another extraction into {folder}.")
    with locked(Path(folder.location), busy):
        yield


def dataset_for(data: str | Path, settings: Settings, output: Output) -> FrameDataset:
    """The frame dataset for `--data`: the folder itself, or one extracted from it into the cache.

    Raises:
        UserError: `data` is neither shards nor clips.
    """
    if is_dataset(data):
        return open_dataset(data)
    name = str(data).rstrip("/").rsplit("/", 1)[-1]
    where = Request.digest([absolute(data)])
    return extract(data, cache_folder() / f"{name}-{where}", settings, output)


def cache_folder() -> Path:
    """GENCONVIT_CACHE, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GENCONVIT_CACHE") or Path(base) / "genconvit")


def find_split_clips(source: str | Path, split: SplitSettings) -> list[Clip]:
    """The clips of a dataset, all with a label and a split.

    Raises:
        UserError: There are none, or some have no label.
    """
    return assign_splits(_labelled(source, read_catalog(_location(source)).clips), split)


def _location(source: str | Path) -> str | Path:
    return source if is_url(source) else Path(source).resolve()


def _labelled(source: str | Path, clips: list[Clip]) -> list[Clip]:
    bare = [clip.name for clip in clips if clip.label is None]
    if bare:
        raise UserError(
            f"{source}: clips have no label ({len(bare)}), such as {bare[0]}; put them below real/ "
            "and fake/, or give a CSV with video_name,label."
        )
    return clips


def clips_to_extract(
    source: str | Path, folder: Folder, settings: Settings, output: Output
) -> list[Clip]:
    """The clips of a source without those whose group was removed from the dataset.

    Raises:
        UserError: There are none, or some have no label.
    """
    catalog = read_catalog(_location(source))
    for note in catalog.notes:
        output.say(f"note: {note}")
    if catalog.missing:
        output.warn(
            f"{len(catalog.missing)} files that the lists of {source} name are not there, such as "
            f"{catalog.missing[0]}; genconvit catalog tells all."
        )
    clips = assign_splits(_labelled(source, catalog.clips), settings.split)
    names = removed_names(folder)
    removed = removed_groups(folder) | {
        # Groups may have other names by now.
        clip.group
        for clip in clips
        if names and name_digest(clip.name) in names
    }
    kept = [clip for clip in clips if clip.group not in removed]
    if len(kept) < len(clips):
        output.say(
            f"{len(clips) - len(kept)} clips are left out: their groups were removed from {folder}."
        )
    if not kept:
        raise UserError(f"every group of {source} was removed from {folder}; nothing is left.")
    return kept


def _refuse_foreign_content(folder: Folder) -> None:
    """Only what extraction itself has written may lie in the folder."""
    known = {CURRENT, LOCK, "removals.json"}
    foreign = [
        name
        for name in folder.names()
        if name not in known and len(name.split("/")) < 2 and not name.startswith(".work")
    ]
    if foreign:
        raise UserError(
            f"{folder} holds other files, such as {foreign[0]}; choose another folder for the "
            "dataset."
        )


def _warn_of_leaks(clips: list[Clip], output: Output) -> None:
    leaking = leaking_groups(clips)
    if leaking:
        output.warn(
            f"groups are in more than one split, and training will refuse that ({len(leaking)}): "
            + ", ".join(leaking[:5])
        )


def refuse_full_disk(folder: Folder, estimate: Estimate, already: int = 0) -> None:
    """Whether a dataset fits where it is to be written.

    Args:
        folder: Where.
        estimate: Its size.
        already: Bytes of it that an earlier run has left there.

    Raises:
        UserError: It does not.
    """
    if is_url(folder.location):
        return
    root = Path(folder.location)
    while not root.exists():
        root = root.parent
    free = shutil.disk_usage(root).free
    needed = estimate.peak_bytes - already
    if needed > free:
        raise UserError(
            f"{folder} needs about {human_bytes(needed)} while it is written, and "
            f"{human_bytes(free)} are free there; free some, take fewer frames (--frames) or "
            "choose another folder."
        )


def _refuse_if_all_failed(records: list[ClipRecord], source: str | Path) -> None:
    if all(record.failure_kind for record in records):
        raise UserError(
            f"{source}: none of the {len(records)} clips gave a crop; the first: "
            f"{records[0].failure}"
        )


def _without_shards(dataset: FrameDataset) -> dict[str, Any]:
    return {name: value for name, value in dataset.manifest.items() if name != "shards"}


def _show(dataset: FrameDataset, output: Output) -> None:
    manifest = dataset.manifest
    table = Table("split", "real clips", "fake clips", "groups", "real crops", "fake crops")
    for split, count in manifest["splits"].items():
        clips, crops = count["clips"], count["crops"]
        cells = [clips["real"], clips["fake"], count["groups"], crops["real"], crops["fake"]]
        table.add_row(split, *(str(cell) for cell in cells))
    output.say(table)
    _show_failures(dataset, output)
    for reason, count in manifest["removed_crops"].items():
        output.say(f"{count} crops were left out by a quality filter: {reason}.")
    seconds, crops = manifest["seconds"], sum(shard.rows for shard in dataset.shards)
    size = human_bytes(sum(shard.bytes for shard in dataset.shards))
    output.say(
        f"{manifest['clips']} clips in {seconds:g} s "
        f"({manifest['clips'] / max(seconds, 0.1):.2f} clips/s), {crops} crops, {size} in "
        f"{len(dataset.shards)} shards: {dataset.path}"
    )


def _show_failures(dataset: FrameDataset, output: Output) -> None:
    if not dataset.manifest["failures"]:
        return
    counts = Table("reason", "clips left out")
    for kind, number in dataset.manifest["failures"].items():
        counts.add_row(kind, str(number))
    output.say(counts)
    failed = [record for record in dataset.clips() if record.failure_kind]
    table = Table("clip that was left out", "reason")
    for record in failed[:SHOWN_FAILURES]:
        table.add_row(record.name, record.failure)
    output.say(table)
    passing = [record for record in failed if record.failure_kind not in LASTING]
    if passing:
        output.say(
            f"{len(passing)} of them may go well another time; extract into another folder to try "
            "them again."
        )
    if len(failed) > SHOWN_FAILURES:
        more = len(failed) - SHOWN_FAILURES
        output.say(f"and {more} more, all in {dataset.folder.at('clips.parquet')}")


if __name__ == "__main__":
    import sys

    from ray_jobs.cli import main

    main(["extract", *sys.argv[1:]])
