"""Exporting a detector, in this process: one graph is traced, and a few crops check it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np

from genconvit.config import SamplingSettings
from genconvit.data.catalog import find_clips
from genconvit.data.crops import Crop, decode_crop, extract_crops
from genconvit.data.demo import write_demo_clips
from genconvit.data.shards import SPLITS, is_dataset, open_dataset, read_clips, refuse_other_crops
from genconvit.errors import ClipError, UserError
from genconvit.export import ExportReport, check_format, export_onnx
from genconvit.predict import Detector, load_detector
from ray_jobs.output import Output

CROPS = 16
"""Crops that the file is checked with."""
CROPS_A_CLIP = 4
"""Crops of one clip, so that several clips have a part."""


def export(
    model: str | Path, out: Path, format: str, crops: Path | None, output: Output
) -> ExportReport:
    """Writes a detector as one file, once it answers on real crops as the detector does.

    Args:
        model: The detector's folder or URL.
        out: The file.
        format: `onnx`.
        crops: Shards, or a clip, an image, or a folder or CSV of them; by default the clips of the
            built-in demo.
        output: Where to tell of it.

    Raises:
        UserError: The format is unknown or its packages are missing, the detector cannot be loaded,
            no crops were found, or the export failed.
    """
    check_format(format)
    detector = load_detector(model, "cpu")
    with output.bar("finding crops"):
        crops_BHWC = find_crops(detector, crops)
    with output.bar(f"writing {out.name}"):
        report = export_onnx(detector, out, crops_BHWC)
    output.say(
        f"{out}: {report.bytes / 2**20:.1f} MiB, ONNX opset {report.opset}.\n"
        f"On {report.crops} crops onnxruntime {report.onnxruntime} differs from the detector by at "
        f"most {report.logits_difference:.1e} in the logits and {report.probability_difference:.1e}"
        " in P(fake)."
    )
    output.emit({"event": "exported", "detector": detector.info.id, **asdict(report)})
    return report


def find_crops(detector: Detector, crops: Path | None) -> np.ndarray:
    """Real crops from several clips.

    Args:
        detector: Whose crops they are.
        crops: Shards, or a clip, an image, or a folder or CSV of them; None for the demo's clips.

    Returns:
        uint8 RGB (B, S, S, 3), B from 1 to `CROPS`, S the network's image size.

    Raises:
        UserError: There are none, they are another detector's, or the demo is not installed.
    """
    if crops is not None:
        found = _crops_of(detector, crops)
    else:
        with tempfile.TemporaryDirectory(prefix="genconvit-") as folder:
            try:
                write_demo_clips(Path(folder))
            except UserError as error:
                raise UserError(
                    "the built-in clips are not installed, so give real crops with --crops: "
                    "shards, clips or images."
                ) from error
            found = _crops_of(detector, Path(folder))
    size = detector.info.model.image_size
    return np.stack([decode_crop(crop.jpeg, size) for crop in found])


def _crops_of(detector: Detector, path: Path) -> list[Crop]:
    clips = _stored(detector, path) if is_dataset(path) else _extracted(detector, path)
    found = list(islice((crop for clip in clips for crop in clip[:CROPS_A_CLIP]), CROPS))
    if not found:
        raise UserError(f"no face was found in {path}; give --crops with faces.")
    return found


def _stored(detector: Detector, path: Path) -> Iterator[list[Crop]]:
    """Each clip's crops, from shards."""
    dataset = open_dataset(path)
    refuse_other_crops(dataset, detector.info.preprocess)
    for split in SPLITS:
        if sum(dataset.counts.get(split, {}).values()):
            for clip in read_clips(dataset, split, CROPS).values():
                yield clip.crops


def _extracted(detector: Detector, path: Path) -> Iterator[list[Crop]]:
    """Each clip's crops, from files spread over a folder."""
    clips = find_clips(path)
    sampling = SamplingSettings(frames=CROPS_A_CLIP)
    for clip in clips[:: max(1, len(clips) // CROPS)]:
        try:
            yield extract_crops(clip.path, detector.info.preprocess, sampling).crops
        except ClipError:
            if len(clips) == 1:
                raise


if __name__ == "__main__":
    import sys

    from ray_jobs.cli import main

    main(["export", *sys.argv[1:]])
