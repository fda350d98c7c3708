"""Clips to shards: Ray Data decodes, detects, crops and writes on every node."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from rich.table import Table

from genconvit.config import Settings, SplitSettings
from genconvit.data.catalog import Clip, find_clips
from genconvit.data.crops import ClipCrops, extract_crops
from genconvit.data.shards import MANIFEST, SCHEMA, SPLITS, is_dataset, write_shard
from genconvit.data.splits import assign_splits, leaking_groups
from genconvit.errors import ClipError, UserError
from genconvit.files import read_json, replaced_folder, write_json
from ray_jobs.cluster import Event, connected, new_mailbox, watch
from ray_jobs.output import Output

LARGEST_SHARD_ROWS = 8192  # about 128 MiB of 224 px crops
FEWEST_SHARD_ROWS = 256


def extract(source: Path, out: Path, settings: Settings, output: Output) -> dict[str, Any]:
    """Makes a frame dataset of a folder or a CSV of clips.

    Args:
        source: What `find_clips` takes; every clip needs a label.
        out: The dataset's folder. One that holds the same extraction already is left as it is.
        settings: `preprocess`, `sampling` and `split` matter.
        output: Where to tell of it.

    Returns:
        The content of `extract.json`.

    Raises:
        UserError: There is nothing to extract, `out` holds something else, or every clip failed.
    """
    clips = find_split_clips(source, settings.split)
    out = out.resolve()
    request = _request_digest(clips, settings)
    if is_dataset(out):
        manifest: dict[str, Any] = read_json(out / MANIFEST, "the dataset's description")
        if manifest.get("request") == request:
            output.say(f"{out} already holds these clips with these settings; nothing to do.")
            output.emit({"event": "extracted", "out": str(out), **manifest})
            return manifest
        raise UserError(f"{out} holds another dataset; choose another folder or remove it first.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty; choose another folder for the dataset.")
    leaking = leaking_groups(clips)
    if leaking:
        output.warn(
            f"{len(leaking)} groups are in more than one split, so validation is not independent: "
            + ", ".join(leaking[:5])
        )

    with connected(output) as ray_logs, replaced_folder(out) as aside:
        started = time.monotonic()
        output.say(f"Extracting {len(clips)} clips from {source}. Ray's logs: {ray_logs}")
        results = _run(clips, aside, settings, output)
        manifest = {
            "format": 1,
            "source": str(source),
            "request": request,
            "settings": settings.model_dump(
                mode="json", include={"preprocess", "sampling", "split"}
            ),
            "fingerprint": settings.preprocess.fingerprint(),
            "clips": len(clips),
            "splits": _counts(clips, results),
            "leaking_groups": leaking,
            "failures": [
                {
                    "clip": clip.name,
                    "label": clip.label,
                    "split": clip.split,
                    "reason": results[clip.name]["failure"],
                    "frames_sampled": results[clip.name]["frames_sampled"],
                }
                for clip in clips
                if results[clip.name]["failure"]
            ],
            "seconds": round(time.monotonic() - started, 1),
        }
        _refuse_if_all_failed(manifest, source)
        write_json(aside / MANIFEST, manifest)
    _show(manifest, out, output)
    output.emit({"event": "extracted", "out": str(out), **manifest})
    return manifest


def dataset_for(data: Path, settings: Settings, output: Output) -> Path:
    """The frame dataset for `--data`: the folder itself, or one extracted from it into the cache.

    Raises:
        UserError: `data` is neither shards nor clips.
    """
    if is_dataset(data):
        return data
    clips = find_split_clips(data, settings.split)
    cached = cache_folder() / f"{data.resolve().name}-{_request_digest(clips, settings)}"
    if is_dataset(cached):
        output.say(f"Using the crops that were extracted from {data} before: {cached}")
        return cached
    # A file that a stopped run left half-way is no dataset; extract puts the folder in place when
    # it is whole.
    shutil.rmtree(cached, ignore_errors=True)
    extract(data, cached, settings, output)
    return cached


def cache_folder() -> Path:
    """GENCONVIT_CACHE, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GENCONVIT_CACHE") or Path(base) / "genconvit")


def _run(
    clips: list[Clip], folder: Path, settings: Settings, output: Output
) -> dict[str, dict[str, Any]]:
    """Extracts every clip into `folder`; returns for each its crops and failure."""
    order = sorted(clips, key=lambda clip: clip.name)
    random.Random(settings.split.seed).shuffle(order)  # so that every shard holds both classes
    mailbox = new_mailbox()
    results: dict[str, dict[str, Any]] = {}
    blocks = min(len(order), max(64, len(order) // 16))
    # Set first: a dataset keeps the context that it was made in.
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    rows = ray.data.from_items(
        [{"clip": pickle.dumps(clip)} for clip in order], override_num_blocks=blocks
    ).map_batches(
        _crops_of_clip,
        batch_size=1,
        fn_kwargs={"settings": settings.model_dump_json(), "mailbox": mailbox},
    )
    rows_a_shard = _shard_rows(len(order) * (settings.sampling.frames or 64))
    # Collecting the rows is a step of its own: fused with the cropping, one task would crop a
    # whole shard's clips.
    shards = rows.repartition(target_num_rows_per_block=rows_a_shard, strict=True).map_batches(
        _write_shards, batch_size=None, batch_format="pyarrow", fn_kwargs={"folder": str(folder)}
    )
    with output.bar("extracting", total=len(order)) as bar:

        def handle(event: Event) -> None:
            results[event["clip"]] = event
            failed = sum(1 for result in results.values() if result["failure"])
            crops = sum(result["crops"] for result in results.values())
            bar.advance(f"{crops} crops" + (f", {failed} failed" if failed else ""))

        watch(mailbox, shards.materialize, handle)
    return results


def _crops_of_clip(batch: Any, settings: str, mailbox: Any) -> pa.Table:
    """Runs in a Ray task: the rows of one clip; none where it fails."""
    clip: Clip = pickle.loads(batch["clip"][0])
    job = Settings.model_validate_json(settings)
    failure, found = None, ClipCrops([], 0, 0)
    try:
        found = extract_crops(clip.path, job.preprocess, job.sampling)
        if not found.crops:
            failure = f"no face was found in {found.frames_sampled} sampled frames"
    except ClipError as error:
        failure = str(error)
    except Exception as error:  # one clip that breaks a library must not end the others
        failure = f"{type(error).__name__}: {error}"
    crops = found.crops
    event = {
        "clip": clip.name,
        "crops": len(crops),
        "failure": failure,
        "frames_sampled": found.frames_sampled,
    }
    ray.get(mailbox.push.remote(event))
    rows = [
        {
            "image": crop.jpeg,
            "label": 0 if clip.label == "fake" else 1,
            "video_id": clip.name,
            "group": clip.group,
            "frame_index": crop.frame_index,
            "time_s": crop.time_s,
            "track": crop.track,
            "box": list(crop.box),
            "face_score": crop.face_score,
            "source": clip.source,
            "method": clip.method,
            "split": clip.split,
        }
        for crop in crops
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _write_shards(rows: pa.Table, folder: str) -> pa.Table:
    """Runs in a Ray task: one shard for each split in the rows."""
    # Ray Data hands fixed-size lists over in a type of its own.
    rows = pa.Table.from_pylist(rows.to_pylist(), schema=SCHEMA)
    paths = []
    for split in SPLITS:
        chosen = rows.filter(pc.equal(rows["split"], split))
        if chosen.num_rows:
            paths.append(str(write_shard(Path(folder) / split, chosen)))
    return pa.table({"path": pa.array(paths, pa.string())})


def _shard_rows(expected: int) -> int:
    """Rows a shard: large files for large datasets, yet some for every reader of a small one."""
    return min(LARGEST_SHARD_ROWS, max(FEWEST_SHARD_ROWS, expected // 16))


def find_split_clips(source: Path, split: SplitSettings) -> list[Clip]:
    """The clips of a dataset, all with a label and a split.

    Raises:
        UserError: There are none, or some have no label.
    """
    clips = find_clips(source.resolve())
    bare = [clip.name for clip in clips if clip.label is None]
    if bare:
        raise UserError(
            f"{source}: {len(bare)} clips have no label, such as {bare[0]}; put them below real/ "
            "and fake/, "
            f"or give a CSV with video_name,label."
        )
    return assign_splits(clips, split)


def _request_digest(clips: list[Clip], settings: Settings) -> str:
    """Changes when a clip, its file or a setting that matters here does."""
    listing = [[repr(clip), *_stamp(clip.path)] for clip in sorted(clips, key=lambda c: c.name)]
    text = json.dumps([listing, settings.preprocess.fingerprint(), settings.sampling.identity()])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_size, status.st_mtime_ns)


def _counts(clips: list[Clip], results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    for split in SPLITS:
        kept = [c for c in clips if c.split == split and results[c.name]["crops"]]
        crops: Counter[str] = Counter()
        for clip in kept:
            crops[str(clip.label)] += results[clip.name]["crops"]
        number = Counter(str(clip.label) for clip in kept)
        counts[split] = {
            "clips": {label: number[label] for label in ("fake", "real")},
            "crops": {label: crops[label] for label in ("fake", "real")},
            "groups": len({clip.group for clip in kept}),
        }
    return counts


def _refuse_if_all_failed(manifest: dict[str, Any], source: Path) -> None:
    failures = manifest["failures"]
    if len(failures) == manifest["clips"]:
        reason = failures[0]["reason"]
        raise UserError(
            f"{source}: none of the {len(failures)} clips gave a crop; the first: {reason}"
        )


def _show(manifest: dict[str, Any], out: Path, output: Output) -> None:
    table = Table("split", "real clips", "fake clips", "groups", "real crops", "fake crops")
    for split, count in manifest["splits"].items():
        clips, crops = count["clips"], count["crops"]
        cells = [clips["real"], clips["fake"], count["groups"], crops["real"], crops["fake"]]
        table.add_row(split, *(str(cell) for cell in cells))
    output.say(table)
    if manifest["failures"]:
        failed = Table("clip that was left out", "reason")
        for failure in manifest["failures"][:20]:
            failed.add_row(failure["clip"], failure["reason"])
        output.say(failed)
        more = len(manifest["failures"]) - 20
        if more > 0:
            output.say(f"and {more} more, all in {out / MANIFEST}")
    seconds = manifest["seconds"]
    output.say(
        f"{manifest['clips']} clips in {seconds:g} s "
        f"({manifest['clips'] / max(seconds, 0.1):.2f} clips/s). Shards: {out}"
    )


if __name__ == "__main__":
    import sys

    from ray_jobs.cli import main

    main(["extract", *sys.argv[1:]])
