from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from genconvit.config import StreamSettings
from genconvit.data.crops import decode_crop
from genconvit.data.shards import FrameDataset, read_clips
from genconvit.data.synthetic import write_synthetic_shards
from genconvit.data.training_data import Epochs, TrainingData
from genconvit.recipe.resident import Crops, Resident, ResidentEpochs, read_crops
from tests.conftest import small_settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> FrameDataset:
    return write_synthetic_shards(tmp_path_factory.mktemp("s") / "shards", 300, small_settings())


@pytest.fixture(scope="module")
def crops(dataset: FrameDataset) -> Crops:
    return read_crops(dataset, "train", 64)


def epochs(crops: Crops, rows: np.ndarray, seed: int = 0, **stream: object) -> ResidentEpochs:
    settings = StreamSettings.model_validate(stream)
    return ResidentEpochs(
        crops, Resident(crops.images, CPU), rows, settings, batch_size=32, seed=seed
    )


def images_of(found: ResidentEpochs, epoch: int = 1) -> list[bytes]:
    return [image.numpy().tobytes() for batch in found.train(epoch) for image in batch["image"]]


def test_every_crop_of_the_split_is_there_with_its_clip(
    dataset: FrameDataset, crops: Crops
) -> None:
    assert len(crops) == 300
    for name, stored in read_clips(dataset, "train", 3).items():
        rows = crops.rows_of([name])
        there = Counter(crops.images[row].tobytes() for row in rows)
        assert there == Counter(decode_crop(crop.jpeg, 64).tobytes() for crop in stored.crops)
        [label] = {int(label) for label in crops.labels[rows]}
        assert label == (int(name.removeprefix("train")) % 2)


def test_an_epoch_has_each_chosen_crop_once_in_an_order_of_its_own(crops: Crops) -> None:
    rows = crops.rows_of(["train0", "train1", "train4"])
    found = epochs(crops, rows)
    assert (found.rows, found.class_counts) == (96, (64, 32))
    wanted = Counter(crops.images[row].tobytes() for row in rows)
    first, second = (images_of(found, epoch) for epoch in (1, 2))
    assert Counter(first) == Counter(second) == wanted
    assert first != second
    assert images_of(epochs(crops, rows)) == first
    assert images_of(epochs(crops, rows, seed=1)) != first
    assert [len(batch["label"]) for batch in found.train(1, skip=1)] == [32, 32]


def test_balance_and_the_cap_are_those_of_training(crops: Crops) -> None:
    rows = crops.rows_of(["train0", "train1", "train4"])
    balanced = epochs(crops, rows, balance="class")
    assert balanced.class_counts == (48, 48)
    labels = np.concatenate([batch["label"] for batch in balanced.train(1)])
    assert np.bincount(labels).tolist() == [48, 48]
    capped = epochs(crops, rows, frames_per_clip=5)
    assert (capped.rows, capped.class_counts) == (15, (10, 5))
    assert images_of(capped, 1) != images_of(capped, 2)
    allowed = {crops.images[row].tobytes() for row in rows}
    assert set(images_of(capped)) <= allowed


@pytest.mark.parametrize("stream", [{}, {"balance": "class", "frames_per_clip": 3}])
def test_faces_are_those_of_an_epoch_as_training_has_it(
    dataset: FrameDataset, stream: dict[str, object]
) -> None:
    streamed = Epochs(
        TrainingData.of(dataset), StreamSettings.model_validate(stream), batch_size=32, seed=0
    )
    crops = read_crops(dataset, "train", 64)
    boxes = np.arange(4 * len(crops)).reshape(-1, 4)
    distinct = Crops(crops.images, crops.clip_of, crops.clips, boxes)
    resident = epochs(distinct, np.arange(len(crops)), **stream)
    (there, labels), (here, own) = streamed.faces(), resident.faces()
    assert np.bincount(labels).tolist() == np.bincount(own).tolist() == list(resident.class_counts)
    assert there.shape == here.shape == (resident.rows, 4)
    assert (there == [0, 0, 64, 64]).all()
    batch = next(iter(resident.train(1)))
    assert (distinct.labels[batch["box"][:, 0] // 4] == batch["label"]).all()


def test_the_val_split_is_another(dataset: FrameDataset) -> None:
    val = read_crops(dataset, "val", 64)
    assert {clip.name for clip in val.clips} == {"val0", "val1"}
    assert len(val) == 64
