"""What is measured of clips by the crops at hand, or by those in a shard."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from genconvit.data.audit.features import clip_features, sampled_rows, spectrum_features
from genconvit.data.crops import Crop, decode_stored
from genconvit.data.shards import FrameDataset
from genconvit.errors import ClipError
from genconvit.folder import open_parquet

Features = tuple[float, ...]
"""Of a clip, in the order of `genconvit.data.audit.features.feature_names`."""
Part = Mapping[str, tuple[int, Features]]
"""By the clip's name: how many of its crops a shard has, and their features."""
_OF_CROP = ("box", "face_score", "frame_index", "time_s", "track")


def features_of_crops(crops: Sequence[Crop]) -> Features | None:
    """The features of a clip; None without crops."""
    if not crops:
        return None
    rows = range(len(crops))
    values = {name: [getattr(crop, name) for crop in crops] for name in _OF_CROP}
    size_N = np.array([len(crop.jpeg) for crop in crops], np.int64)
    spectra = _spectra((row, crops[row].jpeg) for row in sampled_rows(rows, values))
    return tuple(clip_features(rows, values, size_N, spectra).tolist())


def features_in_shard(path: str) -> Part:
    """The features of all clips in a shard, of which at most a row group is held at once.

    Unlike `genconvit.data.audit.scan.scan_shard` it looks for no damage, hashes nothing and
    decodes only what it measures.

    Args:
        path: The shard's path or URL.

    Raises:
        OSError, pa.ArrowException: It cannot be read.
    """
    spectra: dict[int, NDArray[np.float64]] = {}
    sizes: list[int] = []
    with open_parquet(path) as file:
        table = file.read(columns=["video_id", *_OF_CROP])
        values = {name: table[name].to_pylist() for name in table.column_names}
        rows_of: dict[str, list[int]] = defaultdict(list)
        for row, name in enumerate(values["video_id"]):
            rows_of[name].append(row)
        wanted = {row for rows in rows_of.values() for row in sampled_rows(rows, values)}
        for group in range(file.num_row_groups):
            images = file.read_row_group(group, columns=["image"])["image"].combine_chunks()
            start = len(sizes)
            sizes += [len(image.as_buffer() or b"") for image in images]
            own = sorted(wanted.intersection(range(start, len(sizes))))
            spectra |= _spectra((row, images[row - start].as_py() or b"") for row in own)
    size_N = np.array(sizes, np.int64)
    return {
        name: (len(rows), tuple(clip_features(rows, values, size_N, spectra).tolist()))
        for name, rows in rows_of.items()
    }


def joined(parts: Iterable[Part]) -> dict[str, Features]:
    """The features of the clips of several shards; of a clip that lies in several, the mean over
    its crops."""
    found: dict[str, list[tuple[int, Features]]] = defaultdict(list)
    for part in parts:
        for name, own in part.items():
            found[name].append(own)
    together = {}
    for name, several in found.items():
        weights, values = zip(*several, strict=True)
        together[name] = tuple(np.average(values, axis=0, weights=weights).tolist())
    return together


def shards_of(dataset: FrameDataset, split: str) -> list[str]:
    """The paths of the shards of a split."""
    return [shard.path for shard in dataset.shards if shard.split == split]


def _spectra(crops: Iterable[tuple[int, bytes]]) -> dict[int, NDArray[np.float64]]:
    """Those of the crops that can be decoded, by their number."""
    found = {}
    for number, jpeg in crops:
        try:
            found[number] = spectrum_features(decode_stored(jpeg))
        except ClipError:  # a damaged crop is no reason to know nothing of a split
            continue
    return found
