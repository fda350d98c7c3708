"""The `genconvit` command: one verb a job."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

# Before anything imports OpenMP: a process that decodes and computes must not spin idle threads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import typer

from genconvit.errors import UserError
from ray_jobs import cli_bench, cli_data, cli_judge, cli_serve
from ray_jobs.failures import user_error_in
from ray_jobs.options import (
    COMMON,
    NETWORK,
    SAMPLING,
    STREAM,
    TRAINING,
    TUNING,
    AllowLeakage,
    DataPaths,
    Given,
    Json,
    Model,
    OutFolder,
    split_overrides,
    with_settings,
)
from ray_jobs.output import Output

app = typer.Typer(
    help="Train, tune and serve deepfake-video detectors on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_data.app)
app.add_typer(cli_judge.app)
app.add_typer(cli_serve.app)
app.add_typer(cli_bench.app, name="bench", no_args_is_help=True)


@app.command()
@with_settings(TRAINING, NETWORK, STREAM, SAMPLING, COMMON)
def train(
    data: DataPaths,
    out: OutFolder = None,
    resume: Annotated[
        str | None, typer.Option("--resume", help="Name or folder of a run to continue.")
    ] = None,
    allow_leakage: AllowLeakage = False,
    json: Json = False,
    *,
    given: Given,
) -> None:
    """Train a detector."""
    from ray_jobs.train import resume_run
    from ray_jobs.train import train as job

    if resume is not None:
        resume_run(resume, data, given, out, Output(json), allow_leakage)
    else:
        job(data, given.settings(), out, Output(json), allow_leakage=allow_leakage)


@app.command()
@with_settings(TUNING, NETWORK, STREAM, SAMPLING, COMMON)
def tune(
    data: DataPaths,
    resume: Annotated[
        str | None, typer.Option("--resume", help="Name or folder of a sweep to go on with.")
    ] = None,
    out: OutFolder = None,
    allow_leakage: AllowLeakage = False,
    json: Json = False,
    *,
    given: Given,
) -> None:
    """Search dropout, loss weights, learning rate and more for the best detector."""
    from ray_jobs.tune import resume_sweep
    from ray_jobs.tune import tune as job

    if resume is not None:
        resume_sweep(resume, data, given, out, Output(json), allow_leakage)
    else:
        job(data, given.settings(), out, Output(json), allow_leakage=allow_leakage)


@app.command()
def convert(
    out: Annotated[str, typer.Option("--out", help="The detector's folder, or its URL.")],
    ed: Annotated[
        Path | None, typer.Option("--ed", help="genconvit_ed_inference.pth or the like.")
    ] = None,
    vae: Annotated[
        Path | None, typer.Option("--vae", help="genconvit_vae_inference.pth or the like.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a detector of the published GenConViT files: --ed, --vae or both."""
    from ray_jobs.convert import convert as job

    job(ed, vae, out, Output(json))


@app.command()
def export(
    model: Model,
    out: Annotated[str, typer.Option("--out", help="File to write, on this machine.")],
    format: Annotated[str, typer.Option("--format", help="onnx.")] = "onnx",
    crops: Annotated[
        Path | None,
        typer.Option(
            "--crops", help="Shards, clips or images to check it with; else the demo's clips."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write a detector's network as an ONNX file, checked against the detector on real crops."""
    from genconvit.storage import is_url
    from ray_jobs.export import export as job

    if is_url(out):
        raise UserError(
            f"--out {out}: an ONNX file is written to a local path; copy it from there."
        )
    job(model, Path(out), format, crops, Output(json))


@app.command()
@with_settings(NETWORK, {"--preset": "model.preset"}, positional=False)
def info(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL | SECTION.NAME=VALUE...]",
            help="A detector's folder or URL, or settings of a network.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images in memory.")] = 32,
    json: Json = False,
    *,
    given: Given,
) -> None:
    """Show what a detector is and what its network costs: parameters, FLOPs, memory."""
    from ray_jobs.info import info as job

    models, assignments = split_overrides(what or [])
    if len(models) > 1:
        raise UserError(f"{models[1]} is one too many; give one detector.")
    job(
        models[0] if models else None,
        Given(given.config, given.assignments + assignments),
        batch_size,
        Output(json),
    )


@app.command()
@with_settings(COMMON)
def demo(
    data: Annotated[
        Path | None, typer.Option("--data", help="Your clips; without it, built-in ones.")
    ] = None,
    out: OutFolder = None,
    json: Json = False,
    *,
    given: Given,
) -> None:
    """Run the main job from end to end on built-in clips, or on yours."""
    from ray_jobs.demo import demo as job

    job(data, out, given, Output(json))


@app.command()
def settings(json: Json = False) -> None:
    """List every setting: name, range, default and meaning."""
    from rich.table import Table

    from genconvit.overrides import all_settings, describe

    output = Output(json)
    table = Table("setting", "takes", "meaning")
    for name, field in all_settings():
        table.add_row(name, describe(field), field.description)
        output.emit({"name": name, "takes": describe(field), "meaning": field.description})
    output.say(table)


def main(arguments: list[str] | None = None) -> None:
    """Runs a command; bad input ends it with one sentence and exit code 2."""
    try:
        app(arguments)
    except Exception as error:
        found = str(user_error_in(error) or "")
        if not found and isinstance(error, OSError) and error.filename:
            found = f"{error.filename}: {error.strerror}."
        if not found:
            raise
        sys.stderr.write(f"error: {found}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
