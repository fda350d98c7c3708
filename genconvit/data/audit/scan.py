"""One pass over a shard: is it whole, and what do its crops look like?"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from genconvit.data.audit.features import clip_features, sampled_rows, spectrum_features
from genconvit.data.audit.hashes import (
    COARSE_BYTES,
    FINE_BYTES,
    FLAT,
    perceptual_hashes,
    thumbnail,
)
from genconvit.data.shards import SCHEMA, Shard
from genconvit.folder import Folder

OF_A_CLIP = ("label", "group", "source", "method", "split")
KINDS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("video_id", "group", "split", "method", "source"), (str, "text")),
    **dict.fromkeys(("label", "track", "frame_index"), (int, "whole number")),
    **dict.fromkeys(("face_score", "time_s"), (float, "number")),
    "box": (list, "list"),
}
"""What a row must have in each column; its image is looked at when it is decoded."""


@dataclass(frozen=True)
class Problem:
    """Something in a shard that is damaged."""

    shard: str
    row: int | None
    """None where it is about the shard as a whole."""
    reason: str


@dataclass
class ScannedClip:
    """What the rows of a clip say of it."""

    name: str
    label: int
    group: str
    source: str
    method: str
    split: str
    crops: int
    tracks: int
    features: NDArray[np.float64]
    """`METADATA`, then `SPECTRUM`; NaN where no crop could be decoded."""


@dataclass
class ShardScan:
    """What is kept of a shard: little, however large it is."""

    path: str
    rows: int = 0
    problems: list[Problem] = field(default_factory=list)
    clips: list[ScannedClip] = field(default_factory=list)
    clip_of: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """For each sampled crop, its clip's index in `clips`."""
    row_of: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """For each sampled crop, its row in the shard."""
    coarse: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, COARSE_BYTES), np.uint8))
    fine: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, FINE_BYTES), np.uint8))
    hashed: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    """Whether a sampled crop has a hash: one of a single colour has none that means anything."""

    def problem(self, reason: str, row: int | None = None) -> None:
        """Notes damage."""
        self.problems.append(Problem(self.path, row, reason))


def scan_shard(shard: Shard) -> ShardScan:
    """Reads a shard once, decodes every crop of it, and never fails.

    Args:
        shard: As in a `FrameDataset`, with its whole path.
    """
    scan = ShardScan(shard.path)
    folder, name = shard.path.rsplit("/", 1)
    try:
        content = Folder(folder).read(name)
    except Exception as error:  # a store's error, or a disk's
        scan.problem(f"cannot be read ({error})")
        return scan
    if content is None:
        scan.problem("is missing")
        return scan
    if len(content) != shard.bytes:
        scan.problem(f"has {len(content):,} bytes instead of {shard.bytes:,}")
    elif hashlib.sha256(content).hexdigest() != shard.sha256:
        scan.problem("has another content than when it was written (SHA-256)")
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            _scan_file(scan, shard, file)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        scan.problem(f"is no readable Parquet file ({_first_line(error)})")
    return scan


def _scan_file(scan: ShardScan, shard: Shard, file: pq.ParquetFile) -> None:
    missing = set(SCHEMA.names) - set(file.schema_arrow.names)
    if missing:
        scan.problem(f"lacks the columns {', '.join(sorted(missing))}")
        return
    sizes = tuple(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
    if sizes != shard.row_groups or sum(sizes) != shard.rows:
        scan.problem(f"has {sum(sizes):,} rows in {len(sizes)} groups, unlike its manifest's entry")
    columns = file.read(columns=[name for name in SCHEMA.names if name != "image"])
    values = {name: columns[name].to_pylist() for name in columns.column_names}
    scan.rows = len(columns)
    sound = _sound_rows(scan, values)
    _check_rows(scan, shard, values, sound)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row in sound:
        rows_of[values["video_id"][row]].append(row)
    wanted = {row for rows in rows_of.values() for row in sampled_rows(rows, values)}
    sizes_N, samples = _decode(scan, file, set(sound), wanted)
    _keep(scan, values, rows_of, sizes_N, samples)


def _sound_rows(scan: ShardScan, values: dict[str, list[Any]]) -> list[int]:
    """The rows that have a value of the right kind in every column; others are problems."""
    sound = []
    for row in range(scan.rows):
        flaw = _flaw({name: values[name][row] for name in KINDS})
        if flaw is None:
            sound.append(row)
        else:
            scan.problem(flaw, row)
    return sound


def _flaw(row: dict[str, Any]) -> str | None:
    for name, (kind, word) in KINDS.items():
        if row[name] is None:
            return f"has no {name}"
        if not isinstance(row[name], kind):
            return f"its {name} is no {word}"
    if len(row["box"]) != 4 or not all(isinstance(side, int) for side in row["box"]):
        return "its box is not four whole numbers"
    return None


def _check_rows(
    scan: ShardScan, shard: Shard, values: dict[str, list[Any]], rows: list[int]
) -> None:
    first: dict[str, tuple[Any, ...]] = {}
    for row in rows:
        name, known = values["video_id"][row], tuple(values[name][row] for name in OF_A_CLIP)
        if values["label"][row] not in (0, 1):
            scan.problem(f"{name}: label {values['label'][row]} is neither 0 nor 1", row)
        elif values["split"][row] != shard.split:
            scan.problem(f"{name}: split {values['split'][row]} in a shard of {shard.split}", row)
        elif known != first.setdefault(name, known):
            scan.problem(f"{name}: its rows differ in {' or '.join(OF_A_CLIP)}", row)


def _decode(
    scan: ShardScan, file: pq.ParquetFile, sound: set[int], wanted: set[int]
) -> tuple[NDArray[np.int64], dict[int, tuple[NDArray[np.uint8], NDArray[np.float64]]]]:
    """Decodes sound rows: the bytes of each crop, and thumbnail and spectrum of those wanted."""
    jpeg_bytes_N = np.zeros(scan.rows, np.int64)
    samples = {}
    start = 0
    for group in range(file.num_row_groups):
        try:
            images = file.read_row_group(group, columns=["image"])["image"].to_pylist()
        except (pa.ArrowException, OSError) as error:
            scan.problem(f"row group {group} cannot be read ({_first_line(error)})")
            images = []
        for row, image in enumerate(images, start):
            if row not in sound:
                continue
            jpeg = image if isinstance(image, bytes) else b""
            jpeg_bytes_N[row] = len(jpeg)
            try:
                image_HWC = _pixels(jpeg, whole=row in wanted)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                scan.problem(f"its crop is no whole JPEG ({_first_line(error)})", row)
                continue
            if row in wanted:
                samples[row] = (thumbnail(image_HWC), spectrum_features(image_HWC))
        start += file.metadata.row_group(group).num_rows
    return jpeg_bytes_N, samples


def _pixels(jpeg: bytes, whole: bool) -> NDArray[np.uint8]:
    """Decodes a crop with Pillow, which raises where data is missing; OpenCV fills in grey.

    Without `whole` every byte is read too, but the picture is scaled down on the way, which takes a
    third of the time, and nothing is returned.
    """
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
        if not whole:
            image.draft("L", (1, 1))
            image.load()
        return np.asarray(image.convert("RGB")) if whole else np.zeros(0, np.uint8)


def _keep(
    scan: ShardScan,
    values: dict[str, list[Any]],
    rows_of: dict[str, list[int]],
    jpeg_bytes_N: NDArray[np.int64],
    samples: dict[int, tuple[NDArray[np.uint8], NDArray[np.float64]]],
) -> None:
    clip_of, row_of = [], []
    for number, (name, rows) in enumerate(rows_of.items()):
        own = [row for row in rows if row in samples]
        known = {name: values[name][rows[0]] for name in OF_A_CLIP}
        tracks = len({values["track"][row] for row in rows})
        spectra = {row: samples[row][1] for row in own}
        features = clip_features(rows, values, jpeg_bytes_N, spectra)
        scan.clips.append(
            ScannedClip(name, crops=len(rows), tracks=tracks, features=features, **known)
        )
        clip_of += [number] * len(own)
        row_of += own
    if not row_of:
        return
    thumbs_NHW = np.array([samples[row][0] for row in row_of], np.uint8)
    scan.clip_of, scan.row_of = np.array(clip_of, np.int64), np.array(row_of, np.int64)
    scan.coarse, scan.fine = perceptual_hashes(thumbs_NHW)
    scan.hashed = thumbs_NHW.reshape(len(thumbs_NHW), -1).std(axis=1) > FLAT


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
