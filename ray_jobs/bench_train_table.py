"""What `genconvit bench train` shows."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from genconvit.train.measure import PARTS
from ray_jobs.output import Output

NAMES = {"eager-fp32": "eager fp32", "eager-bf16": "eager bf16"}
SHOWN_OPERATIONS = 8
SHORT = {"data_wait": "data wait", "preparation": "prepare"}


def show(report: dict[str, Any], output: Output) -> None:
    """Two tables for the training, and a line or a table for whatever else was measured."""
    where = f"{report['gpus']} x {report['device']}" if report["gpus"] else "CPU"
    settings = report["settings"]
    model = settings["model"]
    output.say(
        f"{model['preset']} {model['arch']} {model['net']}, {report['image_size']} px, "
        f"{report['training_flops_per_image'] / 1e9:.2f} GFLOP an image to train and "
        f"{report['verdict_flops_per_image'] / 1e9:.2f} to judge, on {where}, "
        f"{report['matmul_tflops_per_s']:.3g} TFLOP/s in {report['matmul_dtype']} products, "
        f"{report['cpus']} CPUs, torch {report['torch']}."
    )
    if report["train"]:
        output.say(_rates(report))
        output.say(_parts(report))
    if report["verdict"]:
        output.say(_verdicts(report))
    if "profile" in report:
        output.say(_operations(report))
    if "loss_check" in report:
        output.say(_losses(report["loss_check"]))


def _rates(report: dict[str, Any]) -> Table:
    rows = report["train"]
    several = any(row["workers"] > 1 for row in rows)
    each = "a GPU" if report["gpus"] else "each"
    table = _table(
        "training", "format", "batch", "img/s", *([each, "scaling"] if several else []), "MFU",
        "GiB", "1st step",
        caption="MFU: of the rate of matrix products. GiB: of tensors; on a CPU, of the process."
        " 1st step: seconds since the process had its work.",
    )  # fmt: skip
    for row in rows:
        if "error" in row:
            _add_failed(table, row)
            continue
        efficiency, cache = row.get("scaling_efficiency"), row["compile_cache"]
        scaling = [
            _rate(row["images_per_s_per_worker"]),
            "" if efficiency is None else f"{100 * efficiency:.0f} %",
        ]
        table.add_row(
            _name(row),
            _format(row["precision"]),
            str(row["batch_size"]),
            _rate(row["images_per_s"]),
            *(scaling if several else []),
            f"{100 * row['mfu']:.1f} %",
            f"{row.get('peak_allocated_bytes', row.get('peak_process_bytes')) / 2**30:.1f}",
            f"{row['first_step_s']:.1f}" + (f" {cache}" if cache else ""),
        )
    return table


def _parts(report: dict[str, Any]) -> Table:
    several = any(row["workers"] > 1 for row in report["train"])
    table = _table(
        "ms of a step", *(SHORT.get(part, part) for part in PARTS), "sum",
        *(["exchange"] if several else []),
        caption="Medians over steps; of the data wait the mean."
        + (" Exchange: what a step takes less without exchanging gradients." * several),
    )  # fmt: skip
    for row in report["train"]:
        if "error" not in row:
            exchange = row.get("exchange_ms")
            table.add_row(
                _name(row),
                *(f"{row['parts_ms'][part]:.2f}" for part in PARTS),
                f"{row['step_ms']:.2f}",
                *(["" if exchange is None else f"{exchange:.2f}"] if several else []),
            )
    return table


def _verdicts(report: dict[str, Any]) -> Table:
    table = _table("verdict", "format", "batch", "crops/s", "ms a batch", "MFU")
    for row in report["verdict"]:
        if "error" in row:
            _add_failed(table, row)
            continue
        table.add_row(
            _name(row),
            _format(row["precision"]),
            str(row["batch_size"]),
            _rate(row["crops_per_s"]),
            f"{row['batch_ms']:.2f}",
            f"{100 * row['mfu']:.1f} %",
        )
    return table


def _operations(report: dict[str, Any]) -> Table:
    table = _table("largest operations", "calls a step", "ms a step", "share")
    for one in report["profile"][:SHOWN_OPERATIONS]:
        table.add_row(
            one["name"][:60],
            f"{one['calls_per_step']:.0f}",
            f"{one['ms_per_step']:.2f}",
            f"{100 * one['share']:.0f} %",
        )
    return table


def _losses(found: dict[str, Any]) -> str:
    if "error" in found:
        return f"The losses could not be compared: {found['error'].rstrip('.')}."
    if None in found.values():
        which = [name for name in ("plain", "genconvit") if found[f"{name}_loss"] is None]
        return f"Within noise: no; the loss of {' and '.join(which)} is not finite."
    return (
        f"Loss at first {found['first_loss']:.4f}, mean of the last {found['last_steps']} of "
        f"{found['steps']} steps: eager fp32 {found['plain_loss']:.4f} ± "
        f"{found['plain_standard_error']:.1g}, genconvit {found['genconvit_loss']:.4f} ± "
        f"{found['genconvit_standard_error']:.1g}; within noise: "
        f"{'yes' if found['within_noise'] else 'no'}."
    )


def _table(first: str, *others: str, caption: str | None = None) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left"
    )
    table.add_column(first, no_wrap=True, min_width=12)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _add_failed(table: Table, row: dict[str, Any]) -> None:
    """A row without numbers. Why would widen a column, so it goes below."""
    table.add_row(_name(row), "failed")
    table.caption = f"{_name(row)}: {row['error']}.\n{table.caption or ''}".strip()


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.1f}"


def _name(row: dict[str, Any]) -> str:
    if row["variant"] == "streamed":
        workers = row["workers"]
        return "streamed" + (f" x {workers}" if workers > 1 else "")
    return NAMES.get(row["variant"], row["variant"])


def _format(precision: str) -> str:
    return precision.replace("bfloat", "bf").replace("float", "fp")
