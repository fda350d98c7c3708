"""The commands about data: what is there, extracting it, and looking at it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ray_jobs.options import SAMPLING, Given, Json, OutFolder, with_settings
from ray_jobs.output import Output

app = typer.Typer()


@app.command()
def catalog(
    path: Annotated[
        str, typer.Argument(help="Folder, CSV, JSON or JSONL file of clips, or its URL.")
    ],
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Look at sizes only; do not open the files.")
    ] = False,
    json: Json = False,
) -> None:
    """Tell what a dataset holds: its layout, labels, groups and splits, and what is missing."""
    from ray_jobs.catalog import catalog as job

    job(path, Output(json), open_files=not no_open)


@app.command()
@with_settings(SAMPLING, {"--preset": "model.preset", "--seed": "split.seed"})
def extract(
    source: Annotated[
        str, typer.Argument(help="Folder or list of clips, or its URL; genconvit catalog tells.")
    ],
    out: Annotated[str, typer.Argument(help="Folder or URL for the shards.")],
    json: Json = False,
    *,
    given: Given,
) -> None:
    """Find the faces in clips and pack them into shards."""
    from ray_jobs.extract import extract as job

    job(source, out, given.settings(), Output(json))


@app.command()
@with_settings({"--preset": "model.preset", "--seed": "seed"})
def preview(
    data: Annotated[str, typer.Argument(help="Shards: a folder or a URL.")],
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("preview.png"),
    split: Annotated[str, typer.Option("--split", help="Whose crops.")] = "train",
    count: Annotated[int, typer.Option("--count", min=1, max=100, help="Crops to draw.")] = 8,
    json: Json = False,
    *,
    given: Given,
) -> None:
    """Draw what the network sees: crops, their augmentation and self-blended fakes."""
    from ray_jobs.preview import preview as job

    job(data, given.settings(), out, Output(json), split=split, count=count)


@app.command()
def audit(
    shards: Annotated[str, typer.Argument(help="Shards: a folder or a URL.")],
    out: OutFolder = None,
    remove_group: Annotated[
        str | None,
        typer.Option("--remove-group", help="Delete this group from all versions instead."),
    ] = None,
    json: Json = False,
) -> None:
    """Look for leakage, damage, giveaways and imbalance in shards; the first two exit with 1."""
    from ray_jobs import audit as job

    if remove_group is not None:
        job.remove(shards, remove_group, Output(json))
    elif not job.audit(shards, Output(json), out).ok:
        raise typer.Exit(1)
