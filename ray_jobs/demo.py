"""The main job from end to end: extract, train, evaluate, judge two clips, write the page."""

from __future__ import annotations

import time
from pathlib import Path

from rich.rule import Rule

from genconvit.data.catalog import Clip
from genconvit.data.demo import DEMO_NOTE, write_demo_clips
from genconvit.errors import UserError
from ray_jobs.cluster import connected
from ray_jobs.evaluate import evaluate
from ray_jobs.extract import extract, find_split_clips
from ray_jobs.options import Given
from ray_jobs.output import Output, new_out_folder
from ray_jobs.predict import PAGE, predict
from ray_jobs.train import train

CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"


def demo(data: Path | None, out: Path | None, given: Given, output: Output) -> None:
    """Runs every step and says where its results are.

    Args:
        data: The user's clips; by default the built-in ones.
        out: Folder for everything; by default a new one below `runs/`.
        given: Settings; without a file, those of configs/demo.yaml.
        output: Where to tell of it.

    Raises:
        UserError: `out` is not empty, or a step fails.
    """
    started = time.monotonic()
    settings = Given(given.config or CONFIG, given.assignments).settings()
    out = (out or new_out_folder("demo")).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty; choose another --out for the demo.")
    with connected(output):
        if data is None:
            _step(output, "1. Clips")
            source = write_demo_clips(out / "clips", settings.seed)
            output.say(DEMO_NOTE)
        else:
            source = data
        _step(output, "2. Extract: clips to face crops")
        dataset = extract(source, out / "shards", settings, output)
        _step(output, "3. Train")
        train([out / "shards"], settings, out / "run", output)
        detector = out / "run" / "best"
        split = "test" if all(dataset.counts["test"].values()) else "val"
        _step(output, f"4. Evaluate on the {split} split")
        evaluate(
            str(detector),
            Given(None, []),
            output,
            data=out / "shards",
            split=split,
            out=out / "evaluation",
        )
    _step(output, "5. Judge one real and one fake clip")
    failed = {record.name for record in dataset.clips() if record.failure_kind}
    clips = [
        clip
        for clip in find_split_clips(source, settings.split)
        if clip.split == split and clip.name not in failed
    ]
    chosen = [path for label in ("real", "fake") for path in _first(clips, label)]
    predict(str(detector), chosen, Given(None, []), out, "auto", output)
    _step(output, "Done")
    output.say(
        f"{time.monotonic() - started:.0f} s. Everything is in {out}:\n"
        f"  shards/                 face crops\n"
        f"  run/best/               the detector, with its model card\n"
        f"  run/results.json        losses and metrics of every epoch, and curves beside it\n"
        f"  evaluation/report.html  metrics and figures\n"
        f"  {PAGE}            the two verdicts, with timelines and crops"
    )
    if data is None:
        output.say(
            "These figures are of easy, built-in fakes of one person; they say nothing about "
            "real ones."
        )
    elif split == "val":
        output.say(
            "There was no test split: the figures are of the clips by which the best epoch was "
            "chosen."
        )


def _first(clips: list[Clip], label: str) -> list[str]:
    return sorted(str(clip.path) for clip in clips if clip.label == label)[:1]


def _step(output: Output, title: str) -> None:
    output.say(Rule(title, align="left"))
