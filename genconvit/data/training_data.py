"""What a training run reads: the train and val splits of one dataset or of several."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genconvit.config import PreprocessSettings, SamplingSettings, StreamSettings
from genconvit.data.clip_table import ClipRecord
from genconvit.data.leakage import copies_of, leak_sentences
from genconvit.data.plan import (
    Chunk,
    Piece,
    chunk_rows,
    chunks,
    deal,
    shuffled,
    whole,
    without_first,
)
from genconvit.data.sampling import RowIndex, choose_rows, pieces_of, read_faces, read_index
from genconvit.data.shards import FrameDataset, RowGroup, digest_of, open_dataset
from genconvit.errors import UserError


@dataclass(frozen=True)
class TrainingData:
    """Datasets that are trained on together. They have no test split any more.

    Attributes:
        datasets: The datasets.
        on_val: Their val splits are part of the train splits (`joined`).
    """

    datasets: tuple[FrameDataset, ...]
    on_val: bool = False

    @classmethod
    def of(cls, *datasets: FrameDataset) -> TrainingData:
        """Takes the train and val splits of datasets.

        Raises:
            UserError: Their crops were made in different ways, or one is given twice.
        """
        first = datasets[0]
        for one, two in itertools.combinations(datasets, 2):
            if one.digest == two.digest:
                raise UserError(
                    f"{two.path} has the same shards as {one.path}; give a dataset once, and with "
                    "--mix the share that it is to have."
                )
        for other in datasets[1:]:
            if other.preprocess.fingerprint() != first.preprocess.fingerprint():
                raise UserError(
                    f"{first.path} has preprocessing {first.preprocess.fingerprint()} and "
                    f"{other.path} {other.preprocess.fingerprint()}; extract one of them again "
                    "with the settings of the other."
                )
        return cls(tuple(dataset.only("train", "val") for dataset in datasets))

    @classmethod
    def open(cls, locations: Sequence[str | Path]) -> TrainingData:
        """Opens datasets.

        Raises:
            UserError: One is none, or their crops were made in different ways.
        """
        return cls.of(*(open_dataset(location) for location in locations))

    def joined(self) -> TrainingData:
        """The same with the val split as a part of the train split, and nothing to validate by."""
        return TrainingData(tuple(map(_joined, self.datasets)), on_val=True)

    @property
    def paths(self) -> list[str]:
        """The folder or URL of each."""
        return [dataset.path for dataset in self.datasets]

    @property
    def path(self) -> str:
        """What messages call it."""
        return " + ".join(self.paths)

    @property
    def preprocess(self) -> PreprocessSettings:
        """How the crops were made."""
        return self.datasets[0].preprocess

    @property
    def sampling(self) -> SamplingSettings:
        """Which frames of a clip they are of."""
        return self.datasets[0].sampling

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """For each split, the crops of `fake` and `real` in all datasets."""
        total: dict[str, Counter[str]] = {}
        for dataset in self.datasets:
            for split in ("train", "val"):
                total.setdefault(split, Counter()).update(dataset.counts.get(split, {}))
        return {split: dict(counts) for split, counts in total.items()}

    @property
    def digest(self) -> str:
        """Twelve hex digits over the content of all shards; of one dataset its own."""
        digests = [dataset.digest for dataset in self.datasets]
        return digests[0] if len(digests) == 1 else digest_of(digests)

    def leaks(self) -> list[str]:
        """Sentences on what is trained on and validated by, in a dataset or across them."""
        found = [leak for each in self.datasets for leak in leak_sentences(self._clips(each))]
        if len(self.datasets) > 1:
            records = [
                (dataset.path, record)
                for dataset in self.datasets
                for record in self._clips(dataset)
                if record.crops
            ]
            home = {id(record): path for path, record in records}
            for same in copies_of([record for _, record in records]):
                pairs = itertools.combinations(same, 2)
                for a, b in pairs:
                    if home[id(a)] != home[id(b)] and a.split != b.split:
                        found.append(
                            f"{a.name} in {a.split} of {home[id(a)]} is the same file as {b.name} "
                            f"in {b.split} of {home[id(b)]}."
                        )
                        break
        return found

    def _clips(self, dataset: FrameDataset) -> list[ClipRecord]:
        """The clips of a dataset, in the splits that they are used as."""
        records = dataset.clips()
        if not self.on_val:
            return records
        return [replace(r, split="train") if r.split == "val" else r for r in records]

    def row_groups(self, split: str) -> list[list[RowGroup]]:
        """The row groups of each dataset; none where a dataset has not the split.

        Raises:
            UserError: No dataset has it.
        """
        held = [any(shard.split == split for shard in d.shards) for d in self.datasets]
        if not any(held):
            self.datasets[0].row_groups(split)  # raises
        several = len(self.datasets) > 1
        return [
            [
                replace(group, tag=f"{number}/" if several else "")
                for group in (dataset.row_groups(split) if has else [])
            ]
            for number, (dataset, has) in enumerate(zip(self.datasets, held, strict=True))
        ]


def _joined(dataset: FrameDataset) -> FrameDataset:
    counts = Counter[str]()
    for split in ("train", "val"):
        counts.update(dataset.counts.get(split, {}))
    shards = tuple(replace(shard, split="train") for shard in dataset.only("train", "val").shards)
    return replace(dataset, counts={"train": dict(counts)}, shards=shards)


def refuse_leaks(data: TrainingData, allowed: bool) -> None:
    """Refuses data whose validation would flatter the detector.

    Raises:
        UserError: It leaks, and that is not allowed.
    """
    leaks = [] if allowed else data.leaks()
    if leaks:
        more = f" (and {len(leaks) - 1} more)" if len(leaks) > 1 else ""
        raise UserError(
            f"{data.path} leaks between its splits: {leaks[0].rstrip('.')}{more}; genconvit audit "
            "tells all, and --allow-leakage trains all the same."
        )


class Epochs:
    """Which crops a worker reads, epoch by epoch: the same for the same arguments.

    Args:
        data: The datasets.
        settings: Balance, mixing and the cap.
        batch_size: Crops a step.
        seed: Of the run.
        rank: The worker's number.
        world: How many workers there are.

    Raises:
        UserError: `stream.mix` does not fit the datasets.
    """

    def __init__(
        self,
        data: TrainingData,
        settings: StreamSettings,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        check_mix(data, settings)
        self._data, self._settings = data, settings
        self._batch_size, self._seed = batch_size, seed
        self._rank, self._world = rank, world

    @property
    def rows(self) -> int:
        """Training crops of this worker in an epoch."""
        return self._size // self._world

    @cached_property
    def class_counts(self) -> tuple[int, int]:
        """Training crops of all workers in an epoch that are (fake, real)."""
        if self._chosen:
            labels = self._index.label[self._example]
            return int((labels == 0).sum()), int((labels == 1).sum())
        counts = self._data.counts["train"]
        return counts.get("fake", 0), counts.get("real", 0)

    def train(self, epoch: int, skip: int = 0) -> list[Chunk]:
        """This worker's crops of an epoch; every worker has as many.

        Args:
            epoch: Counted from 1.
            skip: Batches that are left out at its start.
        """
        seed = self._seed * 100_003 + epoch
        if self._chosen:
            rows = choose_rows(self._index, self._settings, seed)
            pieces = pieces_of(self._index, rows, seed)
        else:
            pieces = shuffled(self._whole("train"), seed)
        mine = deal(pieces, self._world, equal=True)[self._rank]
        planned = chunks(mine, chunk_rows(self._batch_size), shuffle_seed=seed * 4_099 + self._rank)
        return without_first(planned, skip * self._batch_size)

    def faces(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Face boxes (N, 4) and labels (N) of training crops as all workers have them in an epoch.

        Each epoch may draw other crops, but in the same proportions.
        """
        boxes, labels = read_faces(self._data.row_groups("train"))
        return (boxes[self._example], labels[self._example]) if self._chosen else (boxes, labels)

    def validate(self) -> list[Chunk]:
        """This worker's share of the validation crops; each is in one share."""
        return chunks(deal(self._whole("val"), self._world)[self._rank])

    @property
    def _chosen(self) -> bool:
        """Whether rows are chosen one by one, rather than all taken."""
        settings = self._settings
        return (
            settings.balance != "none"
            or settings.real_only
            or settings.frames_per_clip is not None
            or settings.mix is not None
        )

    @cached_property
    def _index(self) -> RowIndex:
        return read_index(self._data.row_groups("train"))

    @cached_property
    def _example(self) -> NDArray[np.int64]:
        """Rows as an epoch has them: other ones in every epoch, but as many."""
        return choose_rows(self._index, self._settings, self._seed)

    @cached_property
    def _size(self) -> int:
        if self._chosen:
            return len(self._example)
        return sum(len(piece) for piece in self._whole("train"))

    def _whole(self, split: str) -> list[Piece]:
        return whole(group for groups in self._data.row_groups(split) for group in groups)


def crops_to_train_on(data: TrainingData | FrameDataset, settings: StreamSettings) -> int:
    """Crops that training may draw from; with `real_only` the real ones."""
    counts = data.counts.get("train", {})
    return counts.get("real", 0) if settings.real_only else sum(counts.values())


def check_mix(data: TrainingData, settings: StreamSettings) -> None:
    """Whether there is a share for each dataset, and something to take it from.

    Raises:
        UserError: There is not.
    """
    for dataset in data.datasets:
        if settings.mix is not None and not crops_to_train_on(dataset, settings):
            real = "real " if settings.real_only else ""
            raise UserError(
                f"--mix (stream.mix) gives {dataset.path} a share, and it has no {real}crops in "
                "its train split; leave it or the shares out."
            )
    if settings.mix is not None and len(settings.mix) != len(data.datasets):
        raise UserError(
            f"--mix (stream.mix) has {len(settings.mix)} shares for {len(data.datasets)} datasets; "
            "give one share for each --data."
        )
