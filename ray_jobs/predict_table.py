"""Judging many clips on the cluster: one row a clip, in tables that a stopped run goes on with."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from genconvit.checkpoint import DetectorInfo, load_network
from genconvit.config import Settings
from genconvit.data.catalog import Clip, read_catalog
from genconvit.data.detectors import with_detector_digest
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import unreachable
from genconvit.evaluate.stored.score_table import (
    CROP_SCORES,
    SCORES,
    SCORES_CSV,
    Parts,
    Row,
    part_row,
    write_tables,
)
from genconvit.files import locked
from genconvit.folder import Folder
from genconvit.storage import absolute, is_url
from genconvit.wording import plural
from ray_jobs.cluster import connected
from ray_jobs.extract_plan import LASTING, file_stamps
from ray_jobs.extract_tasks import Task
from ray_jobs.judge_clips import Judged, Scoring, judge_clips
from ray_jobs.options import Given
from ray_jobs.output import Output

BEGUN = "predict.json"
"""What the tables in a folder were begun with."""


def predict_table(
    model: str, inputs: list[str], given: Given, out: str, device: str, output: Output
) -> None:
    """Judges clips on the cluster and writes `scores.parquet`, `scores.csv` and `crop_scores`.

    Clips whose rows are there already are not judged again, unless their files have changed or
    their failure may pass.

    Args:
        model: The detector's folder or URL.
        inputs: What `read_catalog` takes: files, folders and lists, here or behind URLs.
        given: `sampling` and `decision` overrule those of the detector.
        out: Folder or URL for the tables.
        device: `auto`, `cpu` or `cuda`.
        output: Where to tell of it.

    Raises:
        UserError: There are no clips, `out` was begun with something else, or every clip failed.
    """
    _, info = load_network(model)  # a bad detector is told here, not by a worker
    settings = given.overruling(info, "sampling", "decision")
    for line in unreachable(settings.decision):
        output.warn(line)
    preprocess = with_detector_digest(info.preprocess)
    folder = Folder(out)
    clips = _clips(inputs, output)
    with _alone_in(folder, output):
        _begin(folder, inputs, info, settings)
        stamps = file_stamps(list(clips.values()))
        tasks = [Task(clip, *stamp) for clip, stamp in zip(clips.values(), stamps, strict=True)]
        parts = Parts(folder, {task.clip.name: _stamp(task) for task in tasks})
        todo = [task for task in tasks if _is_open(task, parts)]
        if len(todo) < len(tasks):
            output.say(f"{plural(len(tasks) - len(todo), 'clip')} of {len(tasks)} are judged.")
        if todo:
            scoring = Scoring(model, preprocess, settings.sampling, settings.decision, device)
            _judge(todo, scoring, parts, output)
        write_tables(folder, parts.in_order(), clips, info.id, info.preprocess_fingerprint)
        parts.compact()
    _finish(folder, parts, clips, output)


def _clips(inputs: list[str], output: Output) -> dict[str, Clip]:
    """The clips of all inputs by name, in the order of their names."""
    if not inputs:
        raise UserError("give at least one clip, folder or list of clips to judge.")
    found: dict[str, Clip] = {}
    for source in inputs:
        catalog = read_catalog(source if is_url(source) else Path(source).resolve())
        for note in catalog.notes:
            output.say(f"note: {note}")
        if catalog.missing:
            output.warn(
                f"{plural(len(catalog.missing), 'file')} that the lists of {source} name are not "
                f"there, such as {catalog.missing[0]}."
            )
        for clip in catalog.clips:
            other = found.setdefault(clip.name, clip)
            if str(other.path) != str(clip.path):
                raise UserError(
                    f"{other.path} and {clip.path} would both be {clip.name} in the table; give a "
                    "folder that holds both, or judge them into two folders."
                )
    return dict(sorted(found.items()))


def _alone_in(folder: Folder, output: Output) -> contextlib.AbstractContextManager[None]:
    """Waits until no other process of this machine writes these tables."""
    if is_url(folder.location):
        return contextlib.nullcontext()
    busy = partial(output.say, f"Waiting for another prediction into {folder}.")
    return locked(Path(folder.location), busy)


def _begin(folder: Folder, inputs: list[str], info: DetectorInfo, settings: Settings) -> None:
    """Notes what the tables are made with, or checks that it is what they were begun with."""
    terms = {
        "detector": info.id,
        "weights": info.weights_sha256,
        "calibration": info.calibration.model_dump() if info.calibration else None,
        "preprocess": info.preprocess_fingerprint,
        "inputs": [absolute(source) for source in inputs],
    }
    sections = settings.model_dump(mode="json", include={"sampling", "decision"})
    terms |= {f"{part}.{key}": value for part in sections for key, value in sections[part].items()}
    if not folder.has(BEGUN):
        if names := folder.names():
            raise UserError(
                f"{folder} holds other files, such as {names[0]}; choose another folder for the "
                "tables."
            )
        folder.write_json(BEGUN, terms)
        return
    before = folder.read_json(BEGUN, "what the tables were begun with")
    for name, now in terms.items():
        was = before.get(name)
        if was != now:
            raise UserError(
                f"{folder} was begun with {name}={_short(was)}, and this is {_short(now)}; go on "
                "without changing that, or choose another folder for the tables."
            )


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 3:
        return f"{value[0]} and {len(value) - 1} more"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _stamp(task: Task) -> str:
    return f"{task.size} {task.modified_ns} {task.clip.path}"


def _is_open(task: Task, parts: Parts) -> bool:
    """Whether a clip is still to be judged: failures that may pass are tried again."""
    known = parts.known.get(task.clip.name)
    return known is None or known.failure_kind not in ("", *LASTING)


def _judge(todo: list[Task], scoring: Scoring, parts: Parts, output: Output) -> None:
    with connected(output) as ray_logs, output.bar("judging", total=len(todo)) as bar:
        output.say(f"Judging {plural(len(todo), 'clip')}. Ray's logs: {ray_logs}")
        started, judged, failed = time.monotonic(), 0, 0
        for some in judge_clips(todo, scoring):
            parts.add(_row(clip) for clip in some)
            judged += len(some)
            failed += sum(clip.verdict is None for clip in some)
            note = f"{judged / (time.monotonic() - started):.1f} clips/s"
            note += f", {failed} failed" if failed else ""
            bar.set(judged, len(todo), "judging", note)


def _row(clip: Judged) -> Row:
    return part_row(
        clip.task.clip.name,
        _stamp(clip.task),
        clip.verdict,
        clip.crops,
        clip.failure_kind,
        clip.failure,
        clip.seconds,
    )


def _finish(folder: Folder, parts: Parts, clips: dict[str, Clip], output: Output) -> None:
    """Says what is in the tables.

    Raises:
        UserError: Only failures.
    """
    verdicts = Counter(row.verdict for row in parts.known.values() if row.verdict)
    failures = Counter(row.failure_kind for row in parts.known.values() if row.failure_kind)
    counts = Table("verdict", "clips")
    for word in ("FAKE", "REAL", "UNDECIDED"):
        counts.add_row(word, str(verdicts[word]))
    for kind, number in failures.most_common():
        counts.add_row(f"failed: {kind}", str(number))
    output.say(counts)
    passing = sum(number for kind, number in failures.items() if kind not in LASTING)
    if passing:
        output.say(f"{passing} of them may go well another time: run the same command again.")
    output.say(f"Tables: {folder.at(SCORES)}, {SCORES_CSV} and {CROP_SCORES}")
    evaluate = ["genconvit", "evaluate", "--scores", folder.at(SCORES)]
    if not all(clip.label for clip in clips.values()):
        evaluate += ["--ground-truth", "labels.csv"]
    output.say(f"To evaluate them: {shlex.join(evaluate)}")
    output.emit(
        {
            "event": "predicted",
            "out": str(folder),
            "clips": len(parts.known),
            "verdicts": dict(verdicts),
            "failures": dict(failures),
        }
    )
    if not verdicts:
        raise UserError(f"none of the {len(parts.known)} clips could be judged; {SCORES} says why.")
