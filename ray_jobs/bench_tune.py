"""What a sweep adds to a training run: one trial beside the same run without a sweep."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from genconvit.config import Settings
from genconvit.config_tune import TuneSettings
from genconvit.data.synthetic import write_synthetic_shards
from genconvit.files import write_json
from genconvit.train.run_folder import read_results
from ray_jobs.cluster import connected
from ray_jobs.output import Output, new_out_folder
from ray_jobs.train import train
from ray_jobs.train_settings import refuse_missing
from ray_jobs.tune import tune
from ray_jobs.tune_trial import trial_folder


def bench_tune(
    data: str | None,
    settings: Settings,
    output: Output,
    *,
    crops: int,
    rounds: int,
    out: Path | None,
) -> dict[str, Any]:
    """Times a training run and a sweep of one trial with the same settings, in turns.

    Both run on one cluster that is there already. Writes `tune.json`.

    Args:
        data: Shards; by default made-up ones.
        settings: Of the run.
        output: Where to tell of it.
        crops: Made-up training crops.
        rounds: How often each is timed.
        out: Folder for the results.

    Raises:
        UserError: The data, the settings or the cluster do not allow it.
    """
    out = (out or new_out_folder("bench-tune")).resolve()
    refuse_missing([data] if data else [])
    only = {"train.lr": {"choice": [settings.train.lr]}}
    search = TuneSettings(
        trials=1,
        space=only,
        confirm_seeds=0,
        workers_per_trial=settings.tune.workers_per_trial,
        gpus_per_worker=settings.tune.gpus_per_worker,
    )
    alike = settings.train.model_copy(update={"num_workers": search.workers_per_trial})
    settings = settings.model_copy(update={"train": alike, "tune": search})
    silent = Output()
    silent.console.quiet = True
    rows: dict[str, list[dict[str, float]]] = {"train": [], "tune": []}
    with (
        connected(output, dashboard=True) as ray_logs,
        tempfile.TemporaryDirectory(prefix="genconvit-") as made,
        output.bar("measuring", total=2 * rounds) as bar,
    ):
        output.say(f"Ray's logs: {ray_logs}")
        folder = Path(made)
        shards = data or str(write_synthetic_shards(folder / "shards", crops, settings).path)
        for turn in range(rounds):
            runs: dict[str, tuple[Callable[..., Any], Path]] = {
                "train": (train, Path()),
                "tune": (tune, trial_folder(Path(), 0)),
            }
            for name, (job, inside) in runs.items():
                place = folder / f"{name}-{turn}"
                started = time.monotonic()
                job([shards], settings, place, silent)
                seconds = time.monotonic() - started
                epochs = float(read_results(place / inside)["seconds"])
                rows[name].append({"seconds": seconds, "epochs": epochs})
                bar.advance(name)
    report: dict[str, Any] = {
        "epochs": settings.train.epochs,
        **{
            name: {key: median(row[key] for row in found) for key in ("seconds", "epochs")}
            for name, found in rows.items()
        },
        "rounds": rows,
    }
    report["overhead_s"] = report["tune"]["seconds"] - report["train"]["seconds"]
    write_json(out / "tune.json", report)
    table = Table("", "seconds in all", "of them in epochs")
    for name in rows:
        table.add_row(name, f"{report[name]['seconds']:.1f}", f"{report[name]['epochs']:.1f}")
    output.say(table)
    output.say(f"A sweep adds {report['overhead_s']:.1f} s.\nResults: {out / 'tune.json'}")
    output.emit({"event": "bench", "out": str(out), **report})
    return report
