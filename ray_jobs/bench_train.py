"""How fast training is, and where its time goes, beside a plain PyTorch loop in the same run."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import ray
import timm

from genconvit.config import Settings
from genconvit.errors import UserError
from genconvit.files import write_json
from genconvit.footprint import footprint
from genconvit.train.measure import mfu
from genconvit.trainable import check_trainable, without_idle_heads
from ray_jobs.bench_train_rows import (
    Plan,
    Report,
    fill,
    measure_resident,
    measure_streamed,
    remote,
)
from ray_jobs.bench_train_table import show
from ray_jobs.bench_train_worker import PLAIN, Place, check_losses, machine
from ray_jobs.cluster import Resources, connected, train_budget
from ray_jobs.extract import dataset_for
from ray_jobs.output import Output, new_out_folder
from ray_jobs.train_settings import refuse_missing, settings_for

RESIDENT = (*PLAIN, "genconvit")
VARIANTS = (*RESIDENT, "streamed", "verdict")


def bench_train(
    data: str | None,
    settings: Settings,
    output: Output,
    *,
    variants: Sequence[str] | None = None,
    steps: int | None = None,
    warmup: int | None = None,
    profile: bool = False,
    check_loss: bool = False,
    out: Path | None = None,
) -> Report:
    """Times every variant, each in a process of its own, and writes `train.json`.

    Args:
        data: Shards or clips to stream; by default made-up shards.
        settings: Of the run; every step is one pass.
        output: Where to tell of it.
        variants: Some of `VARIANTS`; by default all, on a CPU without bfloat16.
        steps: Timed steps; by default 30 on a GPU and 8 on a CPU.
        warmup: Steps before them; by default 5 and 2.
        profile: Also write `trace.json.gz` and `profile.txt` of the run's step.
        check_loss: Also train the plain loop and the run's step alike, and compare their losses.
        out: Folder for the results.

    Raises:
        UserError: The settings contradict each other, or nothing could be measured.
    """
    out = (out or new_out_folder("bench-train")).resolve()
    refuse_missing([data] if data else [])
    check_trainable(settings.model, settings.loss)
    model = without_idle_heads(settings.model, settings.loss)
    settings = settings.model_copy(update={"model": model})
    if profile and variants and "genconvit" not in variants:
        raise UserError("--profile is of the variant genconvit; name it in --variants too.")
    with connected(output) as ray_logs:
        output.say(f"Ray's logs: {ray_logs}")
        dataset = dataset_for(data, settings, output) if data else None
        if dataset is not None:
            settings = settings_for(dataset, settings)
        budget = train_budget(settings.train, Resources.of_cluster())
        gpu = budget.use_gpu
        plan = Plan(
            variants or [name for name in VARIANTS if gpu or name != "eager-bf16"],
            steps or (30 if gpu else 8),
            warmup or (5 if gpu else 2),
            profile,
        )
        place = Place(
            gpu, int(os.environ.get("OMP_NUM_THREADS") or max(1, int(budget.cpus_per_worker)))
        )
        streamed = "streamed" in plan.variants
        worlds = sorted({1, 2, 4, 8, 16, 32, 64, budget.workers}) if streamed else []
        worlds = [world for world in worlds if world <= budget.workers]
        resident = [name for name in RESIDENT if name in plan.variants]
        if "verdict" in plan.variants and not resident:
            resident = [name for name in RESIDENT if gpu or name != "eager-bf16"]
        report: Report = {
            **ray.get(remote(machine, place).remote(place)),
            **_description(settings, plan, budget.workers, place),
            "train": [],
            "verdict": [],
        }
        with output.bar("measuring", total=len(resident) + len(worlds) + check_loss) as bar:

            def done(name: str) -> None:
                # A run that is cut off leaves what it has measured.
                _derive(report)
                write_json(out / "train.json", report)
                bar.advance(name)

            # On a GPU one variant at a time: each has all of the memory.
            for group in [[name] for name in resident] if gpu else [resident]:
                measure_resident(group, plan, settings, place, report, out, done)
            if worlds:
                measure_streamed(dataset, worlds, plan, settings, report, out, done)
            if check_loss:
                checked: Report = {}
                report["loss_check"] = checked
                fill(checked, remote(check_losses, place), settings, place)
                done("losses")
    show(report, output)
    output.say(f"Results: {out / 'train.json'}")
    output.emit({"event": "bench", "out": str(out), **report})
    failed = [row["error"] for row in (*report["train"], *report["verdict"]) if "error" in row]
    if failed and len(failed) == len(report["train"]) + len(report["verdict"]):
        raise UserError(f"nothing could be measured: {failed[0]}.")
    return report


def _description(settings: Settings, plan: Plan, workers: int, place: Place) -> Report:
    cost = footprint(settings.model, settings.loss, 2)
    return {
        "ray": ray.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
        "gpus": workers if place.gpu else 0,
        "cpus": int(Resources.of_cluster().cpus),
        "threads": place.threads,
        "image_size": settings.model.image_size,
        "parameters": cost.parameters,
        "training_flops_per_image": cost.training_flops,
        "verdict_flops_per_image": cost.verdict_flops,
        "steps": plan.steps,
        "warmup_steps": plan.warmup,
        "settings": settings.model_dump(mode="json"),
    }


def _derive(report: Report) -> None:
    """Fills in what follows from what was measured."""
    rate = report["matmul_tflops_per_s"]
    alone = None
    for row in report["train"]:
        if "step_ms" not in row:
            continue
        each = 1000 * row["batch_size"] / row["step_ms"]
        row["images_per_s_per_worker"] = each
        row["images_per_s"] = each * row["workers"]
        row["mfu"] = mfu(report["training_flops_per_image"], each, rate)
        if row["variant"] == "streamed":
            alone = each if row["workers"] == 1 else alone
            row["scaling_efficiency"] = None if alone is None else each / alone
    for row in report["verdict"]:
        if "batch_ms" in row:
            row["crops_per_s"] = 1000 * row["batch_size"] / row["batch_ms"]
            row["mfu"] = mfu(report["verdict_flops_per_image"], row["crops_per_s"], rate)
