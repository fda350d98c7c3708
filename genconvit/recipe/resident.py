"""Crops in memory: decoded once for all runs, on the device where they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genconvit.config import StreamSettings
from genconvit.data.clip_table import ClipRecord
from genconvit.data.plan import Chunk, chunks, load_chunk, whole
from genconvit.data.sampling import RowIndex, choose_rows
from genconvit.data.shards import FrameDataset
from genconvit.data.tensors import to_device
from genconvit.errors import UserError
from genconvit.train.feed import Batch

Ints = NDArray[np.int64]
Load = Callable[[Iterable[Chunk]], Iterable[Batch]]
"""Loads chunks, with `COLUMNS`, in their order."""
COLUMNS = ("video_id", "box")
UPLOADED_ROWS = 1024


@dataclass(frozen=True)
class Crops:
    """All crops of a split.

    Attributes:
        images: uint8 (N, S, S, 3), RGB.
        clip_of: Which of the clips each is of (N).
        clips: The clips that have crops, by name.
        boxes: Faces x0, y0, x1, y1 in pixels of their frames (N, 4).
    """

    images: NDArray[np.uint8]
    clip_of: Ints
    clips: tuple[ClipRecord, ...]
    boxes: Ints

    def __len__(self) -> int:
        return len(self.clip_of)

    @property
    def labels(self) -> Ints:
        """0 fake, 1 real (N)."""
        return np.array([clip.label == "real" for clip in self.clips], np.int64)[self.clip_of]

    def rows_of(self, names: Iterable[str]) -> Ints:
        """The crops of clips, by clip and in the order of the split."""
        chosen = set(names)
        asked = np.array([clip.name in chosen for clip in self.clips])
        rows = np.flatnonzero(asked[self.clip_of])
        return rows[np.argsort(self.clip_of[rows], kind="stable")]


def clips_of(dataset: FrameDataset, split: str) -> list[ClipRecord]:
    """The clips of a split that have crops, by name."""
    found = [clip for clip in dataset.clips() if clip.split == split and clip.crops]
    return sorted(found, key=lambda clip: clip.name)


def read_crops(
    dataset: FrameDataset, split: str, image_size: int, load: Load | None = None
) -> Crops:
    """Decodes a split.

    Args:
        dataset: The dataset.
        split: Its split.
        image_size: Side of the decoded crops, pixels.
        load: Loads its chunks elsewhere; by default here, one after another.

    Raises:
        UserError: The split is empty, or there are crops of unknown clips.
    """
    planned = chunks(whole(dataset.row_groups(split)))
    load = load or partial(map, partial(load_chunk, image_size=image_size, columns=COLUMNS))
    clips = tuple(clips_of(dataset, split))
    place = {clip.name: number for number, clip in enumerate(clips)}
    total = sum(len(chunk) for chunk in planned)
    images_NHWC = np.empty((total, image_size, image_size, 3), np.uint8)
    box_N4, clip_N, start = np.empty((total, 4), np.int64), np.empty(total, np.int64), 0
    for rows in load(planned):
        end = start + len(rows["image"])
        images_NHWC[start:end], box_N4[start:end] = rows["image"], rows["box"]
        try:
            clip_N[start:end] = [place[name] for name in rows["video_id"]]
        except KeyError as error:
            raise UserError(
                f"{dataset.path} has crops of {error.args[0]} in its {split} split, and no such "
                "clip in its list; extract again."
            ) from error
        start = end
    return Crops(images_NHWC, clip_N, clips, box_N4)


class Resident:
    """Crops where a run computes: in a GPU's memory, or where they are.

    Args:
        images_NHWC: uint8 (N, S, S, 3); may be read-only.
        device: Of the run.
    """

    def __init__(self, images_NHWC: NDArray[np.uint8], device: torch.device) -> None:
        self._here, self._there = images_NHWC, torch.empty(0)
        self._device = device
        if device.type == "cuda":
            self._there = torch.empty(images_NHWC.shape, dtype=torch.uint8, device=device)
            for start in range(0, len(images_NHWC), UPLOADED_ROWS):
                part = np.array(images_NHWC[start : start + UPLOADED_ROWS])
                self._there[start : start + len(part)] = torch.from_numpy(part)

    def __getitem__(self, rows: Ints) -> Tensor:
        """Crops uint8 (B, S, S, 3) on the device."""
        if self._device.type == "cuda":
            return self._there.index_select(0, to_device(torch.from_numpy(rows), self._device))
        return torch.from_numpy(self._here[rows])


class ResidentEpochs:
    """The batches of a run's epochs: the same for the same arguments.

    Args:
        crops: Of the split.
        resident: The same crops, on the device.
        rows: Those that are trained on.
        settings: `mix` and `cache` have no part in it.
        batch_size: Crops a batch.
        seed: Of the run.

    Attributes:
        rows: Crops in an epoch.
        class_counts: Those of them that are (fake, real).
    """

    def __init__(
        self,
        crops: Crops,
        resident: Resident,
        rows: Ints,
        settings: StreamSettings,
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        self._crops, self._resident, self._of_split = crops, resident, rows
        self._settings, self._batch_size, self._seed = settings, batch_size, seed
        self._label_N = crops.labels
        self._index = _index(crops, rows)
        self._example = self._chosen(seed)  # epochs have other crops, but as many
        self.rows = len(self._example)
        reals = int(self._label_N[self._example].sum())
        self.class_counts = (self.rows - reals, reals)

    def train(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, counted from 1, without the first so many."""
        seed = self._seed * 100_003 + epoch
        rows = np.random.default_rng(seed).permutation(self._chosen(seed))
        return islice(batches_of(self._resident, self._crops, rows, self._batch_size), skip, None)

    def faces(self) -> tuple[Ints, Ints]:
        """Face boxes (N, 4) and labels (N) of crops as they are in an epoch."""
        return self._crops.boxes[self._example], self._label_N[self._example]

    def _chosen(self, seed: int) -> Ints:
        return self._of_split[choose_rows(self._index, self._settings, seed)]


def batches_of(
    resident: Resident, crops: Crops, rows: Sequence[int] | Ints, batch_size: int
) -> Iterator[Batch]:
    """Crops in the order of `rows`; the last batch may be smaller."""
    label_N = crops.labels
    for start in range(0, len(rows), batch_size):
        chosen = np.asarray(rows[start : start + batch_size], np.int64)
        yield {
            "image": resident[chosen],
            "label": label_N[chosen],
            "box": crops.boxes[chosen],
        }


def _index(crops: Crops, rows: Ints) -> RowIndex:
    """What is known of the rows that are trained on."""
    methods = sorted({(clip.label, clip.method) for clip in crops.clips})
    number = {method: place for place, method in enumerate(methods)}
    method_C = np.array([number[clip.label, clip.method] for clip in crops.clips], np.int64)
    none = np.zeros(len(rows), np.int64)
    clip = crops.clip_of[rows]
    return RowIndex((), none, rows, crops.labels[rows], method_C[clip], clip, none)
