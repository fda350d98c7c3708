"""What `genconvit bench serve` shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.ticker import ScalarFormatter
from rich import box
from rich.table import Table

from genconvit.evaluate.figure import legend, new_figure, save

COLOURS = {"direct": "#009E73", "plain": "#D55E00", "serve": "#0072B2"}
MARKERS = {"direct": "D", "plain": "s", "serve": "o"}
COLUMNS = ("p50", "p95", "p99", "req/s", "batch", "CPUs", "GPU", "503", "errors")


def line(row: dict[str, Any]) -> str:
    """A row as a line, for those who watch."""
    if "p50_ms" not in row:
        rate = f"{row['crops_per_s']:,.0f} crops/s" if "crops_per_s" in row else "no answers"
        return f"{row['variant']}, {_offered(row)}: {rate}"
    return (
        f"{row['variant']}, {_offered(row)}: p50 {row['p50_ms']:.1f} ms, p99 {row['p99_ms']:.1f} "
        f"ms, {row['rps']:.1f} requests/s"
    )


def table(rows: list[dict[str, Any]], title: str) -> Table:
    """All rows."""
    crops = any("crops_per_s" in row for row in rows)
    found = Table(
        title=title,
        caption="Latencies in ms. batch: crops in a pass. CPUs, GPU: of all its processes, busy.",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in ("variant", "load"):
        found.add_column(name, no_wrap=True)
    for name in (*COLUMNS[:4], *(["crops/s"] if crops else []), *COLUMNS[4:]):
        found.add_column(name, justify="right")
    for row in rows:
        statuses = row.get("statuses", {})
        refused = statuses.get("503", 0)
        failed = sum(statuses.values()) - refused - statuses.get("200", 0)
        cells = [_number(row.get(name), 1) for name in ("p50_ms", "p95_ms", "p99_ms", "rps")]
        if crops:
            cells.append(_number(row.get("crops_per_s"), 0))
        cells += [_number(row.get("batch_crops"), 1), _number(row.get("cpus"), 2)]
        cells.append(f"{row['gpu_percent']:.0f} %" if "gpu_percent" in row else "")
        cells += [str(refused), str(failed)] if statuses else ["", ""]
        found.add_row(row["variant"], _offered(row), *cells)
    return found


def draw(rows: list[dict[str, Any]], title: str, path: Path) -> Path:
    """Latency over the requests that were answered in a second, a line a variant."""
    figure, axes = new_figure(title, "requests answered in a second", "latency, ms")
    for variant, colour in COLOURS.items():
        points = sorted(
            (row["rps"], row["p50_ms"], row["p99_ms"])
            for row in rows
            if row["variant"] == variant and "p50_ms" in row and "clients" in row
        )
        if not points:
            continue
        rates, medians, tails = zip(*points, strict=True)
        marker = MARKERS[variant]
        axes.plot(rates, medians, color=colour, marker=marker, label=f"{variant}, p50")
        axes.plot(rates, tails, "--", color=colour, marker=marker, mfc="w", label=f"{variant}, p99")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlim(left=0)
    legend(axes, "best")
    return save(figure, path)


def draw_memory(soak: dict[str, Any], path: Path) -> Path:
    """Memory over time."""
    title = f"{soak['minutes']:g} minutes at {soak['rate']:.1f} requests/s"
    figure, axes = new_figure(title, "minutes", "memory of all processes, MB")
    seconds, memory = zip(*soak["memory"], strict=True)
    axes.plot([second / 60 for second in seconds], memory, color=COLOURS["serve"])
    axes.set_ylim(0, 1.15 * max(memory))
    return save(figure, path)


def soak_line(soak: dict[str, Any]) -> str:
    """The soak in a sentence."""
    return (
        f"Soak, {soak['minutes']:g} minutes at {soak['rate']:.1f} requests/s: p99 "
        f"{soak['p99_ms']:.1f} ms, {100 * soak['answered']:.2f} % answered; memory "
        f"{soak['memory_mb']:.0f} MB, growing by {soak['mb_per_h']:.1f} MB/h "
        f"(95 %: {soak['low_mb_per_h']:.1f} to {soak['high_mb_per_h']:.1f})."
    )


def saturation_line(row: dict[str, Any]) -> str:
    """The overload in a sentence."""
    statuses = row["statuses"]
    tail = f", their p99 {row['p99_ms']:.0f} ms" if "p99_ms" in row else ""
    return (
        f"Saturation, {row['rate']:.1f} requests/s: {100 * row['answered']:.0f} % answered{tail}; "
        f"{statuses.get('503', 0)} x 503, {statuses.get('timed out', 0)} timed out; memory "
        f"{row['memory_before_mb']:.0f} MB before, {row['memory_mb']:.0f} MB after."
    )


def _offered(row: dict[str, Any]) -> str:
    if "clients" in row:
        return "1 client" if row["clients"] == 1 else f"{row['clients']} clients"
    return f"{row['rate']:.1f}/s" if "rate" in row else f"{row['batch_crops']} a pass"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
