"""The commands that judge clips: one by one, many at once, and against their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genconvit.errors import UserError
from ray_jobs.options import (
    DECISION,
    SAMPLING,
    TRAINING,
    AllowLeakage,
    Given,
    Json,
    Model,
    OutFolder,
    parse_seeds,
    split_overrides,
    with_settings,
)
from ray_jobs.output import Output

app = typer.Typer()

CLIPS = 100
"""That are distorted where no other number is given."""


@app.command()
@with_settings(SAMPLING, DECISION, positional=False)
def predict(
    model: Model,
    clips: Annotated[list[str], typer.Argument(help="Clips, images, folders or lists of them.")],
    out: OutFolder = None,
    table: Annotated[
        str | None,
        typer.Option(
            "--table", help="Folder or URL: judge any number on the cluster, a row a clip."
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Add heat maps, reconstruction errors and a check of the maps."
        ),
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    json: Json = False,
    *,
    given: Given,
) -> None:
    """Judge clips: FAKE, REAL or UNDECIDED, with the reason and a timeline."""
    files, assignments = split_overrides(clips)
    given = Given(given.config, given.assignments + assignments)
    if table is not None:
        from ray_jobs.predict_table import predict_table

        if out is not None:
            raise UserError("--out writes a page of a few clips, --table a row a clip; give one.")
        if explain:
            raise UserError("--explain takes seconds a crop; leave it or --table out.")
        predict_table(model, files, given, table, device, Output(json))
        return
    from ray_jobs.predict import predict as job

    job(model, files, given, out, device, Output(json), explain=explain)


@app.command()
@with_settings(SAMPLING, DECISION)
def evaluate(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="The detector's folder, such as RUN/best, or its URL."),
    ] = None,
    video_dir: Annotated[
        Path | None, typer.Option("--video-dir", help="Folder or CSV of clips.")
    ] = None,
    ground_truth: Annotated[
        Path | None, typer.Option("--ground-truth", help="CSV video_name,label.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="Shards, instead of clips.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Split of --data: val, and for --matrix test, else val."),
    ] = None,
    robustness: Annotated[
        bool,
        typer.Option("--robustness", help="Distort clips, too; several --model side by side."),
    ] = False,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Several --model on several --data, by method.")
    ] = False,
    clips: Annotated[
        int | None,
        typer.Option(
            "--clips", min=2, help=f"Of --robustness: half fake, half real; {CLIPS} if not given."
        ),
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option("--scores", help="CSV or Parquet of stored scores: no detector is run."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Heat maps of the worst clips, with a check of them.")
    ] = False,
    localisation: Annotated[
        bool,
        typer.Option(
            "--localisation", help="Splice fake and real clips of a group; are the parts found?"
        ),
    ] = False,
    card: Annotated[
        bool, typer.Option("--card", help="Put the figures into the detector's model card.")
    ] = False,
    out: OutFolder = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Crops a pass.")
    ] = None,
    json: Json = False,
    *,
    given: Given,
) -> None:
    """Measure a detector on clips with known labels, or list its verdicts without."""
    output, models, datasets = Output(json), model or [], data or []
    side_by_side = matrix or (robustness and len(models) > 1)
    if (explain or localisation or card) and (side_by_side or scores is not None):
        raise UserError(
            "--explain, --localisation and --card are of one detector's verdicts; leave them out."
        )
    if clips is not None and not robustness:
        raise UserError("--clips is of --robustness; leave it out, or give that.")
    if robustness and matrix:
        raise UserError("give one of --robustness and --matrix.")
    if (robustness or matrix) and scores is not None:
        raise UserError("--robustness and --matrix run detectors; leave --scores out.")
    if robustness and split is not None:
        raise UserError("--robustness judges clips of --video-dir; leave --split out.")
    if robustness and len(models) != 1:
        from ray_jobs.robustness import robustness as curves

        curves(
            models,
            given,
            output,
            video_dir=video_dir,
            data=datasets,
            ground_truth=ground_truth,
            clips=clips or CLIPS,
            out=out,
            batch_size=batch_size,
        )
        return
    if matrix:
        from ray_jobs.matrix import matrix as table

        table(
            models,
            given,
            output,
            data=datasets,
            video_dir=video_dir,
            ground_truth=ground_truth,
            split=split,
            out=out,
            batch_size=batch_size,
        )
        return
    if len(models) > 1 or len(datasets) > 1:
        raise UserError(
            "several --model need --robustness or --matrix, and several --data --matrix."
        )
    if scores is not None:
        from ray_jobs.evaluate_scores import evaluate_scores

        if video_dir is not None or datasets:
            raise UserError("--scores are judged already; leave --video-dir and --data out.")
        if split is not None or batch_size is not None:
            raise UserError("--scores are judged already; leave --split and --batch-size out.")
        evaluate_scores(
            scores,
            given,
            output,
            ground_truth=ground_truth,
            model=models[0] if models else None,
            out=out,
        )
        return
    if not models:
        raise UserError("give --model with a detector, or --scores with stored scores.")
    from ray_jobs.evaluate import evaluate as job

    job(
        models[0],
        given,
        output,
        video_dir=video_dir,
        ground_truth=ground_truth,
        data=datasets[0] if datasets else None,
        split=split,
        out=out,
        batch_size=batch_size,
        explain=explain,
        localisation=localisation,
        card=card,
        robustness=(clips or CLIPS) if robustness else None,
    )


@app.command()
@with_settings(
    {"--aggregation": "decision.aggregation", "--top-k": "decision.top_k"}, positional=False
)
def calibrate(
    model: Model,
    data: Annotated[
        str, typer.Option("--data", help="Shards whose val split the detector was not trained on.")
    ],
    split: Annotated[str, typer.Option("--split", help="val, and no other.")] = "val",
    method: Annotated[
        str, typer.Option("--method", help="temperature, isotonic, or none: threshold and band.")
    ] = "temperature",
    error_rate: Annotated[
        float, typer.Option("--error-rate", help="Largest share of a class to be judged wrong.")
    ] = 0.1,
    prevalence: Annotated[
        float, typer.Option("--prevalence", help="Share of fake clips where it is used.")
    ] = 0.5,
    cost_ratio: Annotated[
        float | None,
        typer.Option("--cost-ratio", help="A missed fake costs so many false alarms."),
    ] = None,
    max_fpr: Annotated[
        float | None,
        typer.Option("--max-fpr", help="Largest share of real clips above the threshold."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", help="New folder or URL; without it the detector is changed."),
    ] = None,
    json: Json = False,
    *,
    given: Given,
) -> None:
    """Fit P(fake), threshold and the UNDECIDED band of a detector to validation clips."""
    from genconvit.evaluate.calibration.calibrate import Plan
    from ray_jobs.calibrate import calibrate as job

    plan = Plan(method, error_rate, prevalence, cost_ratio, max_fpr)
    job(model, data, given, plan, Output(json), split=split, out=out)


@app.command()
@with_settings(TRAINING, {"--preset": "model.preset"}, SAMPLING, DECISION, positional=False)
def compare(
    variants: Annotated[
        list[str],
        typer.Option(
            "--variants", help="ARCH[,SETTING=VALUE...] or a detector's folder; several may follow."
        ),
    ],
    more: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[VARIANT | SECTION.NAME=VALUE]...",
            help="More variants, and settings that all have in common.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Shards, or a folder or CSV of clips.")
    ] = None,
    video_dir: Annotated[
        Path | None, typer.Option("--video-dir", help="Clips to judge instead of a split.")
    ] = None,
    ground_truth: Annotated[
        Path | None, typer.Option("--ground-truth", help="CSV video_name,label.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Split of --data to judge; test, else val.")
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds to train with, as 0,1,2.")] = "0",
    out: OutFolder = None,
    allow_leakage: AllowLeakage = False,
    json: Json = False,
    *,
    given: Given,
) -> None:
    """Train or load variants, judge the same clips with each, and compare them in one table."""
    from ray_jobs.compare import compare as job

    names, assignments = split_overrides(more or [])
    job(
        [*variants, *names],
        Given(given.config, given.assignments + assignments),
        Output(json),
        data=data,
        video_dir=video_dir,
        ground_truth=ground_truth,
        seeds=parse_seeds(seeds),
        split=split,
        out=out,
        allow_leakage=allow_leakage,
    )
