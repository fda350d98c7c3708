"""How fast clips are judged: one process, step by step, and the whole cluster."""

from __future__ import annotations

import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from rich.table import Table

from genconvit.checkpoint import DetectorInfo, save_detector
from genconvit.config import Settings
from genconvit.data.catalog import Clip, find_clips
from genconvit.data.crops import ClipCrops, CropCounts, iter_crops
from genconvit.data.demo import write_film
from genconvit.data.detectors import build_face_detector, with_detector_digest
from genconvit.data.faces import Face, FaceDetector
from genconvit.data.video import evenly_spaced
from genconvit.errors import ClipError, UserError
from genconvit.evaluate.aggregate import decide
from genconvit.files import write_json
from genconvit.models.registry import build_from_settings
from genconvit.predict import Detector, load_detector
from genconvit.wording import plural
from ray_jobs.cluster import connected
from ray_jobs.extract_tasks import Task
from ray_jobs.judge_clips import Scoring, judge_clips
from ray_jobs.options import Given
from ray_jobs.output import Output, new_out_folder

STEPS = ("decode", "detect", "crop", "network", "aggregate")
MADE_UP_CLIPS, MADE_UP_SECONDS = 4, 10
CLIPS_A_CPU = 16
"""The cluster judges at least so many, some of them several times."""


def bench_predict(
    source: str | None,
    model: str | None,
    given: Given,
    output: Output,
    *,
    single: int,
    rounds: int,
    out: Path | None,
) -> dict[str, Any]:
    """Times one process on a few clips, then the whole pipeline on all. Writes `predict.json`.

    Args:
        source: Folder or list of clips; by default made-up ones of 1280 x 720, 10 s.
        model: A detector; by default one of untrained weights, which is as fast.
        given: Without a detector `model` and `preprocess` matter, `sampling` and `decision` always.
        output: Where to tell of it.
        single: Clips for the one process.
        rounds: How often it judges each, after one that warms up.
        out: Folder for the results.

    Raises:
        UserError: There are no clips, or no clip can be read.
    """
    out = (out or new_out_folder("bench-predict")).resolve()
    with tempfile.TemporaryDirectory(prefix="genconvit-") as made:
        location = model or str(untrained(Path(made) / "detector", given.settings()))
        detector = load_detector(location)
        settings = given.settings(base=detector.info.settings())
        clips = find_clips(source) if source else _made_up(Path(made))
        output.say(f"Timing one process on {plural(min(single, len(clips)), 'clip')}.")
        chosen = [clips[place] for place in evenly_spaced(len(clips), single)]
        alone = time_process(detector, chosen, settings, rounds)
        if not alone["clips"]:
            raise UserError(f"{source}: not one of {plural(len(chosen), 'clip')} could be read.")
        scoring = Scoring(
            location,
            with_detector_digest(detector.info.preprocess),
            settings.sampling,
            settings.decision,
        )
        with connected(output) as ray_logs:
            output.say(f"Ray's logs: {ray_logs}")
            cluster = _time_cluster(clips, scoring)
    report = {
        "source": source or f"made up, 1280 x 720, {MADE_UP_SECONDS} s",
        "detector": detector.info.id,
        "device": detector.device.type,
        "sampling": settings.sampling.model_dump(mode="json"),
        "single": alone,
        "cluster": cluster,
    }
    write_json(out / "predict.json", report)
    _show(report, output)
    output.say(f"Results: {out / 'predict.json'}")
    output.emit({"event": "bench", "out": str(out), **report})
    return report


def untrained(folder: Path, settings: Settings) -> Path:
    """Writes a detector that has learned nothing, which is as fast as one that has."""
    info = DetectorInfo(
        model=settings.model,
        preprocess=with_detector_digest(settings.preprocess),
        sampling=settings.sampling,
        decision=settings.decision,
    )
    save_detector(folder, build_from_settings(settings.model).state_dict(), info)
    return folder


def _made_up(folder: Path) -> list[Clip]:
    path = write_film(folder / "film.mp4", MADE_UP_SECONDS)
    return [Clip(path, f"film{number}") for number in range(MADE_UP_CLIPS)]


class _Stopwatch:
    """Where the time goes on the way from a clip to its verdict, which is left as it is.

    Attributes:
        seconds: By step.
        cpu: CPU seconds by step, of all threads: what is left of `seconds` on an idle machine.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STEPS, 0.0)
        self.cpu = dict.fromkeys(STEPS, 0.0)
        self._clock, self._cpu_clock = time.perf_counter(), time.process_time()

    def lap(self, step: str, *, instead_of: str | None = None) -> None:
        """A step ends; it was a part of another one, too, where `instead_of` says so."""
        now, cpu_now = time.perf_counter(), time.process_time()
        for passed, sums in (
            (now - self._clock, self.seconds),
            (cpu_now - self._cpu_clock, self.cpu),
        ):
            sums[step] += passed
            if instead_of is not None:
                sums[instead_of] -= passed
        self._clock, self._cpu_clock = now, cpu_now


class _TimedFaces(FaceDetector):
    """A face detector. What comes before it in a frame is decoding."""

    def __init__(self, faces: FaceDetector, watch: _Stopwatch) -> None:
        self._faces, self._watch = faces, watch

    def detect(self, image_HWC: NDArray[np.uint8]) -> list[Face]:
        self._watch.lap("decode")
        found = self._faces.detect(image_HWC)
        self._watch.lap("detect")
        return found


def time_process(
    detector: Detector, clips: list[Clip], settings: Settings, rounds: int
) -> dict[str, Any]:
    """Judges clips in this process, each step timed; clips that cannot be read do not count.

    Returns:
        How many clips, frames and crops there were; the seconds of a clip by step, mean over clips:
        of each clip's round of median time (`seconds`), and of its fastest round (`fastest`, and of
        CPU `cpu`).
    """
    counts = {"clips": 0, "frames": 0, "crops": 0}
    medians, fastest = [], []
    for clip in clips:
        try:
            timed = [_time_clip(detector, clip, settings) for _ in range(rounds + 1)][1:]
        except ClipError:
            continue
        timed.sort(key=lambda found: sum(found[0].seconds.values()))
        medians.append(timed[len(timed) // 2][0].seconds)
        fastest.append(timed[0][0])
        counts["clips"] += 1
        counts["frames"] += timed[0][1].frames_sampled
        counts["crops"] += len(timed[0][1].crops)
    return {
        **counts,
        "rounds": rounds,
        "seconds": _mean(medians),
        "fastest": _mean([watch.seconds for watch in fastest]),
        "cpu": _mean([watch.cpu for watch in fastest]),
    }


def _mean(found: list[dict[str, float]]) -> dict[str, float]:
    return {step: round(fmean(one[step] for one in found), 5) for step in STEPS} if found else {}


def _time_clip(detector: Detector, clip: Clip, settings: Settings) -> tuple[_Stopwatch, ClipCrops]:
    preprocess = detector.info.preprocess
    faces = build_face_detector(preprocess)
    counts, crops = CropCounts(), []
    watch = _Stopwatch()
    timed = _TimedFaces(faces, watch)
    for crop in iter_crops(clip.path, preprocess, settings.sampling, counts, timed):
        watch.lap("crop")
        crops.append(crop)
    watch.lap("decode")
    found = ClipCrops(crops, counts.frames_sampled, counts.frames_with_face)
    verdict, _ = detector.judge_crops(clip.name, found, settings.decision)
    watch.lap("network")
    decide(clip.name, verdict.timeline, found.frames_sampled, settings.decision)
    watch.lap("aggregate", instead_of="network")
    return watch, found


def _time_cluster(clips: list[Clip], scoring: Scoring) -> dict[str, Any]:
    """Judges all clips; the rate is that after the first verdict, when all processes are there."""
    cpus = int(ray.cluster_resources()["CPU"])
    count = max(len(clips), CLIPS_A_CPU * cpus)
    tasks = [
        Task(Clip(clip.path, f"{number} {clip.name}"))
        for number, clip in enumerate(islice(cycle(clips), count))
    ]
    started = time.monotonic()
    first, last, before, judged, failed = 0.0, 0.0, 0, 0, 0
    for some in judge_clips(tasks, scoring):
        last = time.monotonic()
        judged += len(some)
        failed += sum(clip.verdict is None for clip in some)
        if not first:
            first, before = last, judged
    seconds = max(last - first, 1e-9)
    return {
        "cpus": cpus,
        "gpus": int(ray.cluster_resources().get("GPU", 0)),
        "clips": judged,
        "failed": failed,
        "first_verdict_s": round(first - started, 2),
        "seconds": round(last - started, 2),
        "clips_per_s": round((judged - before) / seconds, 3),
    }


def _show(report: dict[str, Any], output: Output) -> None:
    alone, cluster = report["single"], report["cluster"]
    whole = sum(alone["seconds"].values())
    title = f"one process, {plural(alone['clips'], 'clip')}, {report['device']}"
    steps = Table("step", "ms a clip", "share", "fastest round", "CPU of it", title=title)
    columns = [alone[name] for name in ("seconds", "fastest", "cpu")]
    for step in STEPS:
        median, *best = (f"{1000 * column[step]:.1f}" for column in columns)
        steps.add_row(step, median, f"{alone['seconds'][step] / whole:.0%}", *best)
    steps.add_section()
    median, *best = (f"{1000 * sum(column.values()):.1f}" for column in columns)
    steps.add_row("all", median, "", *best)
    output.say(steps)
    table = Table("", "clips/s")
    table.add_row("one process", f"{1 / whole:.2f}")
    where = plural(cluster["cpus"], "CPU")
    where += f", {plural(cluster['gpus'], 'GPU')}" if cluster["gpus"] else ""
    table.add_row(f"the cluster: {where}", f"{cluster['clips_per_s']:.2f}")
    output.say(table)
    frames, crops = (alone[what] / alone["clips"] for what in ("frames", "crops"))
    output.say(
        f"{frames:.1f} frames and {crops:.1f} crops a clip. On the cluster the first verdict came "
        f"after {cluster['first_verdict_s']:.1f} s, all of {cluster['clips']} after "
        f"{cluster['seconds']:.1f} s."
    )
    if cluster["failed"]:
        output.warn(f"{plural(cluster['failed'], 'clip')} of them could not be judged.")
