"""Telling what a dataset holds before anything is computed from it. Ray is not needed for it."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from genconvit.data.catalog import Catalog, Clip, read_catalog
from genconvit.data.splits import leaking_groups
from genconvit.data.video import check_clip
from genconvit.errors import ClipError, UserError
from genconvit.storage import list_files
from ray_jobs.output import Output

_SHOWN = 20
_AT_ONCE = 10_000  # the threads' queue stays short however many clips there are


def catalog(path: str, output: Output, open_files: bool = True) -> dict[str, Any]:
    """Tells the layout of a dataset, how many clips of which kind it has, and what is wrong.

    Args:
        path: What `read_catalog` takes.
        output: Where to tell of it.
        open_files: Open every file that is on this machine. Otherwise, and of files behind a URL,
            only their sizes are looked at.

    Returns:
        What is emitted: `layout`, `clips`, `counts` (by split and label), `methods`, `groups`,
        `mixed_groups` (those with both labels), `leaking_groups`, `missing`, `unreadable` (clip,
        reason), `reasons` (how many of each kind) and `notes`.

    Raises:
        UserError: The path does not exist, holds no clip, or a list of clips is wrong.
    """
    found = read_catalog(path)
    unreadable = _unreadable(found.clips, open_files, output)
    summary = {
        "event": "catalog",
        "path": path,
        **_summary(found),
        "missing": found.missing,
        "unreadable": [{"clip": clip, "reason": str(error)} for clip, error in unreadable],
        "reasons": dict(Counter(error.kind for _, error in unreadable).most_common()),
        "notes": found.notes,
    }
    _show(summary, output)
    output.emit(summary)
    return summary


def _summary(found: Catalog) -> dict[str, Any]:
    kinds = Counter((clip.split or "none", clip.label or "none") for clip in found.clips)
    counts: dict[str, dict[str, int]] = {}
    for split in ("train", "val", "test", "none"):
        labels = {label: kinds[split, label] for label in ("fake", "real", "none")}
        if any(labels.values()):
            counts[split] = labels
    labels_by_group: dict[str, set[str | None]] = {}
    for clip in found.clips:
        labels_by_group.setdefault(clip.group, set()).add(clip.label)
    return {
        "layout": found.layout,
        "clips": len(found.clips),
        "counts": counts,
        "methods": dict(sorted(Counter(c.method for c in found.clips if c.method).items())),
        "groups": len(labels_by_group),
        "mixed_groups": sum({"fake", "real"} <= labels for labels in labels_by_group.values()),
        "leaking_groups": leaking_groups(found.clips),
    }


def _unreadable(clips: list[Clip], open_files: bool, output: Output) -> list[tuple[str, ClipError]]:
    """The clips that cannot be read and why, in order."""
    bad: list[tuple[str, ClipError]] = []
    # OpenCV lets go of the interpreter while it waits for the disk.
    with output.bar("looking at files", total=len(clips)) as bar, ThreadPoolExecutor() as threads:
        for start in range(0, len(clips), _AT_ONCE):
            part = clips[start : start + _AT_ONCE]
            errors = threads.map(lambda clip: _error(clip, open_files), part)
            for clip, error in zip(part, errors, strict=True):
                if error:
                    bad.append((clip.name, error))
                bar.advance()
    return bad


def _error(clip: Clip, open_it: bool) -> ClipError | None:
    """Why a clip cannot be read; None where it can."""
    try:
        if isinstance(clip.path, Path):
            check_clip(clip.path, open_it)
        elif not (sizes := list_files(clip.path)):
            return ClipError(f"{clip.path} is not there; check the path", "missing")
        elif not any(sizes.values()):
            return ClipError(f"{clip.path} is empty; copy it again", "empty")
    except ClipError as error:
        return error
    except UserError as error:
        return ClipError(str(error), "store")
    return None


def _show(summary: dict[str, Any], output: Output) -> None:
    output.say(f"{summary['path']}: {summary['clips']} clips, laid out as {summary['layout']}")
    table = Table("split", "fake", "real", "without label", box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for split, labels in summary["counts"].items():
        table.add_row("not given" if split == "none" else split, *map(str, labels.values()))
    output.say(table)
    if summary["methods"]:
        methods = Table("method", "clips", box=box.SIMPLE_HEAD)
        methods.columns[1].justify = "right"
        for method, number in summary["methods"].items():
            methods.add_row(method, str(number))
        output.say(methods)
    output.say(f"Groups: {summary['groups']}, {summary['mixed_groups']} with real and fake clips.")
    leaking = summary["leaking_groups"]
    if leaking:
        _list(f"Groups in more than one split: {len(leaking)}", leaking, output)
    if summary["missing"]:
        head = f"Named by the dataset's lists, but not there: {len(summary['missing'])}"
        _list(head, summary["missing"], output)
    unreadable = summary["unreadable"]
    if unreadable:
        kinds = ", ".join(f"{number} {kind}" for kind, number in summary["reasons"].items())
        reasons = [bad["reason"] for bad in unreadable]
        _list(f"Unreadable: {len(unreadable)} ({kinds})", reasons, output)
    for note in summary["notes"]:
        output.say(f"Note: {note}")


def _list(head: str, items: list[str], output: Output) -> None:
    output.say(head)
    for item in items[:_SHOWN]:
        output.say(f"  {item}")
    if len(items) > _SHOWN:
        output.say(f"  and {len(items) - _SHOWN} more; --json lists all")
