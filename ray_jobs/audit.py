"""Auditing a dataset on Ray, a task a shard, and removing a group from it."""

from __future__ import annotations

import pickle
import shlex
import time
from pathlib import Path
from typing import Any

import ray.data
from rich import box
from rich.table import Table

from genconvit.data.audit.page import write_audit
from genconvit.data.audit.report import AuditReport, audit_report
from genconvit.data.audit.scan import ShardScan, scan_shard
from genconvit.data.removal import remove_group
from genconvit.data.shards import FrameDataset, open_dataset
from genconvit.folder import Folder
from ray_jobs.cluster import connected
from ray_jobs.output import Output, new_out_folder


def audit(shards: str, output: Output, out: Path | None = None) -> AuditReport:
    """Reads every crop of a dataset once, says what is wrong with it, and writes a page.

    Args:
        shards: The dataset's folder or URL.
        output: Where to tell of it.
        out: Folder for the page; by default a new one below `runs/`.

    Raises:
        UserError: There is no dataset.
    """
    dataset = open_dataset(shards)
    out = out or new_out_folder("audit")
    start = time.monotonic()
    with connected(output):
        scans = _scan(dataset, output)
    command = shlex.join(["genconvit", "audit", shards])
    report, crops = audit_report(dataset, scans, command)
    report = report.model_copy(update={"seconds": round(time.monotonic() - start, 1)})
    write_audit(out, report, crops, dataset)
    _show(report, out, output)
    return report


def remove(shards: str, group: str, output: Output) -> None:
    """Deletes a group from every version of a dataset.

    Args:
        shards: The dataset's folder or URL, or one version's.
        group: The group.
        output: Where to tell of it.

    Raises:
        UserError: There is no dataset, or no such group in it.
    """
    removal = remove_group(Folder(shards), group)
    for name, version in removal.versions.items():
        output.say(f"{name}: {version['clips']} clips, {version['crops']} crops removed")
    output.say(
        f"Group {group} is gone, and later extractions into this folder leave it out. Detectors "
        f"trained on these shards (data digest {', '.join(removal.digests)}) have seen it, and "
        "earlier audits may show it: train again, and delete those."
    )
    output.emit({"event": "removed", **vars(removal)})


def _scan(dataset: FrameDataset, output: Output) -> list[ShardScan]:
    items = [{"shard": pickle.dumps(shard)} for shard in dataset.shards]
    if not items:
        return []
    scanned = ray.data.from_items(items, override_num_blocks=len(items)).map(_scan_one)
    scans = []
    with output.bar("reading shards", total=len(items)) as bar:
        for row in scanned.iter_rows():
            scans.append(pickle.loads(row["scan"]))
            bar.advance()
    return scans


def _scan_one(row: dict[str, Any]) -> dict[str, Any]:
    """Runs in a Ray task: one shard."""
    return {"scan": pickle.dumps(scan_shard(pickle.loads(row["shard"])))}


def _show(report: AuditReport, out: Path, output: Output) -> None:
    table = Table("split", "label", box=box.SIMPLE_HEAD)
    for name in ("clips", "groups", "crops"):
        table.add_column(name, justify="right")
    for count in report.balance:
        if count.kind == "split":
            numbers = (count.clips, count.groups, count.crops)
            table.add_row(count.name, count.label, *(f"{number:,}" for number in numbers))
    output.say(table)
    faces = report.faces
    output.say(
        f"crops a clip: {faces.crops['minimum']:.0f} to {faces.crops['maximum']:.0f}, median "
        f"{faces.crops['median']:.0f}; {len(faces.few)} clips have fewer than 4, "
        f"{len(faces.without)} none"
    )
    for probe in report.probes:
        best = ", ".join(f"{single.name} {single.auc:.2f}" for single in probe.features[:3])
        output.say(f"{probe.name} alone tells fake from real: AUC {probe.auc:.2f} ({best})")
    for note in report.notes:
        output.say(f"note: {note}")
    for warning in report.warnings:
        output.warn(warning)
    for leak in report.leaks or ["No leakage found."]:
        output.say(f"LEAK: {leak}" if report.leaks else leak)
    for damage in report.damaged or ["Every shard and crop can be read."]:
        output.say(f"DAMAGED: {damage}" if report.damaged else damage)
    output.say(f"Report: {out / 'report.html'}")
    output.emit({"event": "audited", "out": str(out), "ok": report.ok, **report.model_dump()})


if __name__ == "__main__":
    import sys

    from ray_jobs.cli import main

    main(["audit", *sys.argv[1:]])
