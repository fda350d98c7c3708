"""How the HTTP endpoint holds under load, beside the detector itself and a plain endpoint."""

from __future__ import annotations

import gc
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from genconvit.files import write_json
from genconvit.wording import plural
from ray_jobs.bench_predict import untrained
from ray_jobs.bench_serve_material import Kind, make_requests
from ray_jobs.bench_serve_run import Row, Target, load, load_and_describe, time_direct
from ray_jobs.bench_serve_servers import plain, served
from ray_jobs.bench_serve_show import draw, draw_memory, line, saturation_line, soak_line, table
from ray_jobs.bench_serve_watch import slope
from ray_jobs.options import Given
from ray_jobs.output import Output, new_out_folder

OVERLOAD = 2.5
"""Times what the server answers."""
SOAK_SHARE = 0.8
SAMPLE_S = 5.0


@dataclass(frozen=True)
class Load:
    """What is offered.

    Attributes:
        kind: What is sent.
        clients: Of each closed loop.
        rates: Of each open loop, requests a second.
        seconds: How long each takes.
        crops_a_request: With crops.
        soak_minutes: 0 for none.
    """

    kind: Kind
    clients: Sequence[int]
    rates: Sequence[float]
    seconds: float
    crops_a_request: int
    soak_minutes: float


@dataclass
class _Report:
    """What is found, written again with every row: a run that is ended loses nothing."""

    out: Path
    output: Output
    content: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.output.say(line(row))
        self.output.emit({"event": "row", **row})
        self.put("rows", self.rows)

    def put(self, name: str, value: Any) -> None:
        self.content[name] = value
        write_json(self.out / "serve.json", self.content)


def bench_serve(
    model: str | None, given: Given, output: Output, offered: Load, *, out: Path | None
) -> dict[str, Any]:
    """Loads three ways to judge with the same files. Writes `serve.json` and `serve.png`.

    Args:
        model: A detector; by default one of untrained weights, which is as fast.
        given: Settings of that one.
        output: Where to tell of it.
        offered: The load.
        out: Folder for the results.

    Raises:
        UserError: The model is no detector, or a server does not start.
    """
    environment = dict(os.environ)  # before anything sets what Ray shall inherit
    out = (out or new_out_folder("bench-serve")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="genconvit-") as made:
        folder = Path(made)
        location = model or str(untrained(folder / "detector", given.settings()))
        detector, machine = load_and_describe(location)
        requests = make_requests(
            offered.kind, folder, detector.info.preprocess, offered.crops_a_request
        )
        size = sum(file.stat().st_size for file in requests[0])
        report = _Report(out, output, {**machine, **_settings(offered), "request_bytes": size})
        for row in time_direct(detector, offered.kind, requests, offered.seconds):
            report.add(row)
        del detector
        gc.collect()
        torch.cuda.empty_cache()
        path = "/v1/crops" if offered.kind == "crops" else "/v1/detect"
        with plain(location, environment) as (url, process):
            _closed_and_open(Target("plain", url, path, requests, process, True), offered, report)
        with served(location, folder / "state") as (url, settings):
            report.put("serve", settings.model_dump(mode="json", exclude={"models", "state"}))
            target = Target("serve", url, path, requests, os.getpid(), False)
            capacity = _closed_and_open(target, offered, report)
            _saturate(target, offered, capacity, report)
            if offered.soak_minutes:
                _soak(target, offered, capacity, report)
    _compare(report)
    title = f"{offered.kind}, {machine['detector']}, {machine['device']}, {machine['cpus']} CPUs"
    output.say(table(report.rows, title))
    output.say(saturation_line(report.content["saturation"]))
    if "soak" in report.content:
        output.say(soak_line(report.content["soak"]))
    for name, value in report.content["compared"].items():
        output.say(f"{name}: {value:.2f}")
    draw(report.rows, title, out / "serve.png")
    output.say(f"Results: {out / 'serve.json'}, {out / 'serve.png'}")
    output.emit({"event": "bench", "out": str(out), **report.content})
    return report.content


def _settings(offered: Load) -> dict[str, Any]:
    return {
        "command": shlex.join(["genconvit", *sys.argv[1:]]),
        "kind": offered.kind,
        "seconds": offered.seconds,
        "crops_a_request": offered.crops_a_request if offered.kind == "crops" else None,
    }


def _closed_and_open(target: Target, offered: Load, report: _Report) -> float:
    """All loads of the table; the most requests that were answered in a second."""
    most = 0.0
    for clients in offered.clients:
        row, _ = load(target, offered.kind, offered.seconds, clients=clients)
        report.add(row)
        most = max(most, row["rps"])
    for rate in offered.rates:
        report.add(load(target, offered.kind, offered.seconds, rate=rate)[0])
    return most


def _saturate(target: Target, offered: Load, capacity: float, report: _Report) -> None:
    rate = max(1.0, round(OVERLOAD * capacity, 1))
    before = report.rows[-1]["memory_mb"]
    row, _ = load(target, offered.kind, offered.seconds, rate=rate)
    report.add(row)
    report.put("saturation", {**row, "memory_before_mb": before})


def _soak(target: Target, offered: Load, capacity: float, report: _Report) -> None:
    rate = round(SOAK_SHARE * capacity, 2)
    seconds = 60 * offered.soak_minutes
    report.output.say(f"Soak: {offered.soak_minutes:g} minutes at {rate:g} requests/s.")
    row, watch = load(target, offered.kind, seconds, rate=rate, every_s=SAMPLE_S)
    grown = slope(watch.memory_mb)
    soak = {**row, **grown, "minutes": offered.soak_minutes, "memory": watch.memory_mb}
    report.put("soak", soak)
    draw_memory(soak, report.out / "soak.png")


def _compare(report: _Report) -> None:
    """The figures that the comparison is for."""
    closed = {(row["variant"], row["clients"]): row for row in report.rows if "clients" in row}
    batches = next((row for row in report.rows if row["variant"] == "direct, batches"), None)
    direct = closed["direct", 1]
    found: dict[str, float] = {}
    for (variant, clients), row in closed.items():
        if variant != "serve" or "p50_ms" not in row:
            continue
        at = plural(int(clients), "client")
        beside = closed["plain", clients]
        if clients == 1:
            found["serve - direct, ms at p50, 1 client"] = row["p50_ms"] - direct["p50_ms"]
        if beside["rps"]:
            found[f"serve / plain, requests/s, {at}"] = row["rps"] / beside["rps"]
        if batches:
            share = row["crops_per_s"] / batches["crops_per_s"]
            found[f"serve / direct in batches, crops/s, {at}"] = share
    report.put("compared", {name: round(value, 3) for name, value in found.items()})
