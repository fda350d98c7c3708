"""How fast clips become shards, beside one process that does the same, step by step."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from rich.table import Table

from genconvit.config import Settings
from genconvit.data.catalog import Clip
from genconvit.data.crops import crop_box, crop_face, encode_crop
from genconvit.data.detectors import build_face_detector, with_detector_digest
from genconvit.data.faces import Face
from genconvit.data.video import evenly_spaced, sample_frames
from genconvit.errors import ClipError, UserError
from genconvit.files import write_json
from genconvit.folder import Folder
from ray_jobs.cluster import connected
from ray_jobs.estimate import human_bytes
from ray_jobs.extract import find_split_clips
from ray_jobs.extract_plan import make_request
from ray_jobs.extract_run import run_extraction
from ray_jobs.output import Output, new_out_folder

STEPS = ("decode", "detect", "crop", "encode")


def bench_extract(
    source: str, settings: Settings, output: Output, *, single: int, out: Path | None
) -> dict[str, Any]:
    """Times one process, then one a CPU at once, on a few clips, and the whole pipeline on all.

    CPUs share caches, memory and often cores: as many processes at once are slower than one times
    their number, whoever runs them. Writes `extract.json`.

    The shards go to a temporary folder and are removed.

    Args:
        source: Folder or list of clips.
        settings: `preprocess` and `sampling` matter.
        output: Where to tell of it.
        single: Clips for the one process.
        out: Folder for the results.

    Raises:
        UserError: There are no clips, or no clip can be read.
    """
    out = (out or new_out_folder("bench-extract")).resolve()
    settings = settings.model_copy(update={"preprocess": with_detector_digest(settings.preprocess)})
    clips = find_split_clips(source, settings.split)
    chosen = [clips[place] for place in evenly_spaced(len(clips), single)]
    with connected(output) as ray_logs, tempfile.TemporaryDirectory(prefix="genconvit-") as made:
        output.say(f"Ray's logs: {ray_logs}")
        cpus = int(ray.cluster_resources()["CPU"])
        # A Ray worker has the same threads and libraries as those of the pipeline.
        task = ray.remote(num_cpus=1)(time_steps)
        alone = ray.get(task.remote(chosen, settings))
        if not alone["clips"]:
            raise UserError(f"{source}: not one of {len(chosen)} clips could be read.")
        together = ray.get([task.remote(chosen, settings) for _ in range(cpus)])
        request = make_request(clips, settings, Folder(made))
        memory: list[int] = []
        started = time.monotonic()
        shards, records = run_extraction(
            request, output, on_event=lambda event: memory.append(event["peak_memory"])
        )
        seconds = time.monotonic() - started
    bound, reachable = cpus * _rate(alone), sum(map(_rate, together))
    report = {
        "source": source,
        "cpus": cpus,
        "single": alone,
        "clips": len(records),
        "crops": sum(record.crops for record in records),
        "shard_bytes": sum(shard.bytes for shard in shards),
        "seconds": round(seconds, 2),
        "clips_per_s": round(len(records) / seconds, 3),
        "bound_clips_per_s": round(bound, 3),
        "of_bound": round(len(records) / seconds / bound, 3),
        "together_clips_per_s": round(reachable, 3),
        "of_together": round(len(records) / seconds / reachable, 3),
        "peak_task_bytes": max(memory, default=0),
        "peak_driver_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    write_json(out / "extract.json", report)
    _show(report, output)
    output.say(f"Results: {out / 'extract.json'}")
    output.emit({"event": "bench", "out": str(out), **report})
    return report


def _rate(timed: dict[str, Any]) -> float:
    """Clips a second of a process that only decodes and detects."""
    return float(timed["clips"] / (timed["seconds"]["decode"] + timed["seconds"]["detect"]))


def time_steps(clips: Sequence[Clip], settings: Settings) -> dict[str, Any]:
    """Extracts clips in this process, each step timed; clips that cannot be read do not count."""
    job = settings.preprocess
    detector = build_face_detector(job)
    cut = crop_box if job.shape == "tight" else crop_face
    seconds = dict.fromkeys(STEPS, 0.0)
    counts = {"clips": 0, "frames": 0, "crops": 0}
    for clip in clips:
        clock = time.perf_counter()

        def lap(step: str) -> None:
            nonlocal clock
            now = time.perf_counter()
            seconds[step] += now - clock
            clock = now

        try:
            for frame in sample_frames(clip.path, settings.sampling):
                lap("decode")
                faces: list[Face] = detector.detect(frame.image_HWC)
                lap("detect")
                crops = [cut(frame.image_HWC, face, job.margin, job.size) for face in faces]
                lap("crop")
                for crop in crops:
                    encode_crop(crop, job.jpeg_quality)
                lap("encode")
                counts["frames"] += 1
                counts["crops"] += len(faces)
            lap("decode")
            counts["clips"] += 1
        except ClipError:
            continue
    return {**counts, "seconds": {step: round(value, 4) for step, value in seconds.items()}}


def _show(report: dict[str, Any], output: Output) -> None:
    alone = report["single"]
    whole = sum(alone["seconds"].values())
    steps = Table("step", "s a clip", "share", title=f"one process, {alone['clips']} clips")
    for step, value in alone["seconds"].items():
        steps.add_row(step, f"{value / alone['clips']:.3f}", f"{value / whole:.0%}")
    output.say(steps)
    table = Table("", "clips/s", title=f"{report['clips']} clips, {report['cpus']} CPUs")
    table.add_row("one process, all steps", f"{alone['clips'] / whole:.2f}")
    cpus = report["cpus"]
    table.add_row(f"decode and detect alone, x {cpus}", f"{report['bound_clips_per_s']:.2f}")
    table.add_row(f"the same by {cpus} processes at once", f"{report['together_clips_per_s']:.2f}")
    table.add_row("extract, from its start to the last shard", f"{report['clips_per_s']:.2f}")
    table.add_row(f"extract of one process x {cpus}", f"{report['of_bound']:.0%}")
    table.add_row(f"extract of {cpus} processes at once", f"{report['of_together']:.0%}")
    output.say(table)
    output.say(
        f"{report['crops']} crops, {human_bytes(report['shard_bytes'])} of shards; the largest "
        f"task held {human_bytes(report['peak_task_bytes'])} of memory, this process "
        f"{human_bytes(report['peak_driver_bytes'])}."
    )
