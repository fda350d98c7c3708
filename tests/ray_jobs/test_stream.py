from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genconvit.config import StreamSettings
from genconvit.data.match import match_face_sizes
from genconvit.data.plan import load_chunk
from genconvit.data.shards import open_dataset
from genconvit.data.training_data import Epochs, TrainingData
from genconvit.recipe.resident import Resident, ResidentEpochs, read_crops
from ray_jobs.cache_fill import fill_cache
from ray_jobs.output import Output
from ray_jobs.stream import stream
from ray_jobs.training_stream import training_stream
from tests.conftest import small_settings

pytestmark = pytest.mark.usefixtures("cluster")


def epochs(dataset: Path, rank: int = 0, world: int = 1, **settings: Any) -> Epochs:
    data = TrainingData.of(open_dataset(dataset))
    stream = StreamSettings(**settings)
    return Epochs(data, stream, batch_size=10, seed=0, rank=rank, world=world)


def read(chunks: list[Any], cache: Any = None) -> list[dict[str, np.ndarray]]:
    columns = ("label", "video_id", "box")
    found = stream(chunks, image_size=64, batch_size=10, columns=columns, cache=cache)
    return [{name: column.copy() for name, column in batch.items()} for batch in found]


def assert_same(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    assert len(one) == len(two)
    for first, second in zip(one, two, strict=True):
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


def test_workers_together_validate_with_every_row_once(dataset: Path) -> None:
    batches = [b for rank in range(3) for b in read(epochs(dataset, rank, 3).validate())]
    seen = Counter(name for batch in batches for name in batch["video_id"])
    assert sum(seen.values()) == sum(open_dataset(dataset).counts["val"].values())
    assert set(seen.values()) == {2}  # crops a clip


def test_the_stream_gives_what_is_planned_in_batches_of_one_size(dataset: Path) -> None:
    planned = epochs(dataset, 1, 2)
    batches = read(planned.train(1))
    assert sum(len(batch["image"]) for batch in batches) == planned.rows
    assert all(len(batch["image"]) == 10 for batch in batches[:-1])
    loaded = [load_chunk(chunk, 64) for chunk in planned.train(1)]
    for name in ("image", "label"):
        np.testing.assert_array_equal(
            np.concatenate([batch[name] for batch in batches]),
            np.concatenate([chunk[name] for chunk in loaded]),
        )


def test_the_same_epoch_comes_again_and_another_is_another(dataset: Path) -> None:
    first, again, other = (read(epochs(dataset).train(epoch)) for epoch in (1, 1, 2))
    assert_same(first, again)
    assert any((a["image"] != b["image"]).any() for a, b in zip(first, other, strict=True))


def test_the_cache_gives_the_same_batches(dataset: Path) -> None:
    job = small_settings()
    data = TrainingData.of(open_dataset(dataset))
    cache = fill_cache(data, job, Output(as_json=True))
    assert cache is not None
    planned = epochs(dataset, balance="class", frames_per_clip=1)
    for chunks in (planned.train(1), planned.train(2, skip=1), planned.validate()):
        assert_same(read(chunks), read(chunks, cache))


def test_crops_that_do_not_fit_are_not_cached_and_it_is_said(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = TrainingData.of(open_dataset(dataset))
    huge = small_settings()
    model = huge.model.model_copy(update={"image_size": 100_000})
    assert fill_cache(data, huge.model_copy(update={"model": model}), Output()) is None
    assert "decoded anew in every epoch" in " ".join(capsys.readouterr().err.split())


def test_face_sizes_are_matched_in_the_stream_and_in_the_bench_alike(dataset: Path) -> None:
    job = small_settings("augment.match_face_size=true")
    data = TrainingData.of(open_dataset(dataset))
    planned = epochs(dataset)
    caches = (None, fill_cache(data, job, Output(as_json=True)))
    ways = [
        training_stream(planned, job, batch_size=10, num_cpus=1, rank=0, cache=cache)
        for cache in caches
    ]
    plain, cached = (
        [{name: batch[name] for name in ("image", "label", "box", "match_scale")} for batch in way]
        for way in (training(1, 0) for training in ways)
    )
    assert_same(plain, cached)
    later = [{name: batch[name] for name in plain[0]} for batch in ways[0](1, 2)]
    assert_same(plain[2:], later)
    factors = np.concatenate([batch["match_scale"] for batch in plain])
    assert factors.shape == (planned.rows, 2)
    assert factors.min() > 0 and factors.max() <= 1

    # The bench has the same crops: given in the same batches, they get the same factors.
    crops = read_crops(open_dataset(dataset), "train", 64)
    resident = Resident(crops.images, torch.device("cpu"))
    bench = ResidentEpochs(
        crops, resident, np.arange(len(crops)), job.stream, batch_size=10, seed=0
    )
    for one, other in zip(planned.faces(), bench.faces(), strict=True):
        np.testing.assert_array_equal(one, other)
    again = match_face_sizes(lambda epoch, skip: plain, bench.faces, job)(1, 0)
    assert_same(plain, list(again))


def test_a_reader_may_stop_early(dataset: Path) -> None:
    cache = fill_cache(TrainingData.of(open_dataset(dataset)), small_settings(), Output(True))
    for used in (None, cache):
        batches = stream(epochs(dataset).train(1), image_size=64, batch_size=4, cache=used)
        assert len(next(iter(batches))["image"]) == 4
        batches.close()
