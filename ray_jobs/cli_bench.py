"""The benchmarks: each prints a table and writes JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genconvit.errors import UserError
from ray_jobs.options import (
    SAMPLING,
    STREAM,
    AllowLeakage,
    Given,
    Json,
    OutFolder,
    with_settings,
)
from ray_jobs.output import Output

app = typer.Typer(
    help="Measure this machine: extraction, reading of crops, training, verdicts; and recipes."
)


@app.command()
@with_settings(STREAM, {"--batch-size": "train.batch_size", "--preset": "model.preset"})
def ingest(
    data: Annotated[
        str | None, typer.Option("--data", help="Shards or clips; by default made-up shards.")
    ] = None,
    crops: Annotated[int, typer.Option("--crops", min=64, help="Made-up crops.")] = 16_384,
    passes: Annotated[int, typer.Option("--passes", min=1, help="Epochs of each loader.")] = 3,
    loaders: Annotated[
        str, typer.Option("--loaders", help="Which to time, in this order.")
    ] = "mock,cv2,dataloader,stream,cached",
    loader_workers: Annotated[
        int | None,
        typer.Option("--loader-workers", min=1, help="Processes of a DataLoader; all CPUs."),
    ] = None,
    out: OutFolder = None,
    json: Json = False,
    *,
    given: Given,
) -> None:
    """Time how fast crops reach the device, beside a torch DataLoader and plain cv2."""
    from ray_jobs.bench_ingest import LOADERS, bench_ingest

    names = [name.strip() for name in loaders.split(",")]
    for name in names:
        if name not in LOADERS:
            raise UserError(f"--loaders {name}: there are {', '.join(LOADERS)}.")
    bench_ingest(
        data,
        given.settings(),
        Output(json),
        crops=crops,
        epochs=passes,
        loaders=names,
        loader_workers=loader_workers,
        out=out,
    )


@app.command()
@with_settings(SAMPLING, {"--preset": "model.preset"})
def extract(
    source: Annotated[str, typer.Argument(help="Folder or list of clips.")],
    single: Annotated[
        int, typer.Option("--single", min=1, help="Clips that one process alone is timed on.")
    ] = 16,
    out: OutFolder = None,
    json: Json = False,
    *,
    given: Given,
) -> None:
    """Time extraction beside a single process, step by step."""
    from ray_jobs.bench_extract import bench_extract

    bench_extract(source, given.settings(), Output(json), single=single, out=out)


@app.command()
@with_settings(SAMPLING, {"--preset": "model.preset"}, positional=False)
def predict(
    source: Annotated[
        str | None,
        typer.Argument(metavar="[CLIPS]", help="Folder or list of clips; by default made-up ones."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="A detector; by default an untrained one, which is as fast."),
    ] = None,
    single: Annotated[
        int, typer.Option("--single", min=1, help="Clips that one process alone is timed on.")
    ] = 4,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="How often it judges each of them.")
    ] = 5,
    out: OutFolder = None,
    json: Json = False,
    *,
    given: Given,
) -> None:
    """Time verdicts step by step in one process, and on the whole cluster."""
    from ray_jobs.bench_predict import bench_predict

    bench_predict(source, model, given, Output(json), single=single, rounds=rounds, out=out)


@app.command()
@with_settings(
    {
        "--batch-size": "train.batch_size",
        "--preset": "model.preset",
        "--net": "model.net",
        "--precision": "train.precision",
        "--compile": "train.compile",
        "--num-workers/--world-size": "train.num_workers",
    }
)
def train(
    data: Annotated[
        str | None, typer.Option("--data", help="Shards or clips; by default made-up shards.")
    ] = None,
    variants: Annotated[
        str | None,
        typer.Option(
            "--variants",
            help="Some of eager-fp32, eager-bf16, genconvit, streamed, verdict; by default all.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=2, help="Timed steps; 30 on a GPU, 8 on a CPU.")
    ] = None,
    warmup: Annotated[
        int | None, typer.Option("--warmup", min=1, help="Steps before; 5 on a GPU, 2 on a CPU.")
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Write trace.json.gz and profile.txt of the step.")
    ] = False,
    check_loss: Annotated[
        bool, typer.Option("--check-loss", help="Compare the losses of 200 steps, too.")
    ] = False,
    out: OutFolder = None,
    json: Json = False,
    *,
    given: Given,
) -> None:
    """Time training steps and verdicts beside a plain PyTorch loop, part by part."""
    from ray_jobs.bench_train import VARIANTS, bench_train

    names = [name.strip() for name in variants.split(",")] if variants is not None else None
    for name in names or ():
        if name not in VARIANTS:
            raise UserError(f"--variants {name}: there are {', '.join(VARIANTS)}.")
    bench_train(
        data,
        given.settings(),
        Output(json),
        variants=names,
        steps=steps,
        warmup=warmup,
        profile=profile,
        check_loss=check_loss,
        out=out,
    )


@app.command()
@with_settings({"--preset": "model.preset"})
def serve(
    model: Annotated[
        str | None,
        typer.Option("--model", help="A detector; by default an untrained one, which is as fast."),
    ] = None,
    kind: Annotated[
        str, typer.Option("--kind", help="What is sent: images, clips or crops.")
    ] = "images",
    clients: Annotated[
        str, typer.Option("--clients", help="Of each closed loop, which wait for their answers.")
    ] = "1,4,16",
    rate: Annotated[
        str, typer.Option("--rate", help="Of each open loop, requests a second, such as 20,40.")
    ] = "",
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="How long each load lasts.")
    ] = 15,
    crops_per_request: Annotated[
        int, typer.Option("--crops-per-request", min=1, help="With --kind crops.")
    ] = 64,
    soak: Annotated[
        float,
        typer.Option("--soak", min=0, help="Minutes at 80 % of what it can, to watch the memory."),
    ] = 0,
    out: OutFolder = None,
    json: Json = False,
    *,
    given: Given,
) -> None:
    """Time the HTTP endpoint under load beside the detector itself and a plain endpoint."""
    from ray_jobs.bench_serve import Load, bench_serve

    if kind not in ("images", "clips", "crops"):
        raise UserError(f"--kind {kind}: there are images, clips, crops.")
    load = Load(
        kind,  # type: ignore[arg-type]
        [int(number) for number in _numbers("--clients", clients)],
        _numbers("--rate", rate),
        seconds,
        crops_per_request,
        soak,
    )
    bench_serve(model, given, Output(json), load, out=out)


def _numbers(option: str, text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = [0.0]
    if not all(0 < number < float("inf") for number in found):
        raise UserError(f"{option} {text}: write numbers above 0, such as 1,4,16.")
    return found


@app.command()
@with_settings(
    {
        "--epochs": "train.epochs",
        "--batch-size": "train.batch_size",
        "--preset": "model.preset",
        "--workers-per-trial": "tune.workers_per_trial",
    }
)
def tune(
    data: Annotated[
        str | None, typer.Option("--data", help="Shards; by default made-up ones.")
    ] = None,
    crops: Annotated[int, typer.Option("--crops", min=64, help="Made-up training crops.")] = 512,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often each is timed.")] = 3,
    out: OutFolder = None,
    json: Json = False,
    *,
    given: Given,
) -> None:
    """Time a sweep of one trial beside the same training run."""
    from ray_jobs.bench_tune import bench_tune

    bench_tune(data, given.settings(), Output(json), crops=crops, rounds=rounds, out=out)


@app.command()
@with_settings(
    {
        "--epochs": "train.epochs",
        "--batch-size": "train.batch_size",
        "--preset": "model.preset",
    }
)
def recipe(
    data: Annotated[str, typer.Option("--data", help="Shards or clips.")],
    recipes: Annotated[
        Path | None,
        typer.Option("--recipes", help="YAML file with recipes; by default configs/recipes.yaml."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", help="Some of them, separated by commas; by default all."),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Runs of each recipe and fold, with seeds from 0.")
    ] = 3,
    folds: Annotated[
        int,
        typer.Option("--folds", min=0, help="Of the train split; 0 without cross-validation."),
    ] = 5,
    validate: Annotated[
        bool,
        typer.Option(
            "--validate", help="Also train on the whole train split, judged by the val split."
        ),
    ] = False,
    every: Annotated[
        int | None, typer.Option("--every", min=1, help="Also judge after each so many epochs.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", help="Others are compared with it; by default ours, or the first."
        ),
    ] = None,
    at_once: Annotated[
        int,
        typer.Option("--at-once", min=1, help="Runs that share a GPU, or a machine without one."),
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder for the results; what is done there is kept.", file_okay=False
        ),
    ] = None,
    allow_leakage: AllowLeakage = False,
    json: Json = False,
    *,
    given: Given,
) -> None:
    """Train recipes with several seeds on folds of the train split, and compare their AUC."""
    from ray_jobs.bench_recipe import Plan, bench_recipe

    names = [name.strip() for name in only.split(",")] if only is not None else []
    plan = Plan(tuple(names), seeds, folds, validate, every, baseline, at_once, allow_leakage)
    bench_recipe(data, given, Output(json), plan, recipes=recipes, out=out)
