from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from genconvit.config import StreamSettings
from genconvit.data.clip_table import ClipRecord, write_clip_table
from genconvit.data.plan import load_chunk
from genconvit.data.training_data import Epochs, TrainingData, refuse_leaks
from genconvit.errors import UserError
from tests.data.test_shards import make_dataset, table


def small_dataset(path: Path, prefix: str, reals: int = 20, fakes: int = 60) -> TrainingData:
    rows = [table(reals, 1, "train", f"{prefix}real"), table(fakes, 0, "train", f"{prefix}fake")]
    return TrainingData.of(
        make_dataset(
            path, pa.concat_tables(rows), table(3, 1, "val", f"{prefix}val"),
            table(3, 1, "test", f"{prefix}test"),
        )
    )  # fmt: skip


def epochs(data: TrainingData, world: int = 1, rank: int = 0, **settings: object) -> Epochs:
    stream = StreamSettings.model_validate(settings)
    return Epochs(data, stream, batch_size=8, seed=0, rank=rank, world=world)


def test_there_is_no_test_split_to_open(tmp_path: Path) -> None:
    data = small_dataset(tmp_path, "")
    with pytest.raises(UserError, match="test"):
        data.row_groups("test")
    assert "test" not in data.counts


def test_workers_get_as_many_rows_as_they_say(tmp_path: Path) -> None:
    data = small_dataset(tmp_path, "")
    for settings in ({}, {"balance": "class"}, {"frames_per_clip": 7}, {"real_only": True}):
        shares = [epochs(data, 3, rank, **settings) for rank in range(3)]
        sizes = {sum(len(chunk) for chunk in share.train(2)) for share in shares}
        assert sizes == {shares[0].rows}


def test_an_epoch_goes_on_after_the_batches_that_were_seen(tmp_path: Path) -> None:
    data = small_dataset(tmp_path, "")
    for settings in ({}, {"balance": "class"}):
        share = epochs(data, 2, 1, **settings)
        images = [load_chunk(chunk, 64)["image"] for chunk in share.train(2)]
        left = [load_chunk(chunk, 64)["image"] for chunk in share.train(2, skip=3)]
        assert (np.concatenate(left) == np.concatenate(images)[3 * 8 :]).all()
        assert share.train(2, skip=share.rows // 8 + 1) == []


def test_class_weights_follow_what_is_drawn(tmp_path: Path) -> None:
    data = small_dataset(tmp_path, "")
    assert epochs(data).class_counts == (60, 20)
    assert epochs(data, balance="class").class_counts == (40, 40)
    assert epochs(data, frames_per_clip=10).class_counts == (10, 10)
    assert epochs(data, real_only=True).class_counts == (0, 20)


def test_datasets_are_mixed_by_weight_and_validated_by_all(tmp_path: Path) -> None:
    one, two = (small_dataset(tmp_path / name, name) for name in "ab")
    both = TrainingData.of(*one.datasets, *two.datasets)
    assert both.counts["train"] == {"fake": 120, "real": 40}
    mixed = epochs(both, mix=(3, 1))
    paths = Counter(
        Path(piece.path).parents[1].name
        for chunk in mixed.train(1) for piece in chunk.pieces for _ in piece.rows
    )  # fmt: skip
    assert paths == {"a": 120, "b": 40}
    assert sum(len(chunk) for chunk in mixed.validate()) == 6
    with pytest.raises(UserError, match="one share for each --data"):
        epochs(both, mix=(1, 1, 1))


def test_the_val_split_can_be_a_part_of_the_train_split(tmp_path: Path) -> None:
    one, two = (small_dataset(tmp_path / name, name) for name in "ab")
    both = TrainingData.of(*one.datasets, *two.datasets)
    joined = both.joined()
    assert joined.counts == {"train": {"fake": 120, "real": 46}, "val": {}}
    assert joined.digest == both.digest
    for settings in ({}, {"frames_per_clip": 60}):
        share = epochs(joined, **settings)
        assert (share.rows, share.class_counts) == (166, (120, 46))
        names = Counter(
            name
            for chunk in share.train(1)
            for name in load_chunk(chunk, 16, ("video_id",))["video_id"]
        )
        assert names["0/aval"] == names["1/bval"] == 3
        assert "0/atest" not in names
    with pytest.raises(UserError, match="val"):
        joined.row_groups("val")


def test_a_clip_in_train_and_val_is_no_leak_where_both_are_trained_on(tmp_path: Path) -> None:
    same = [table(4, 1, split, "a") for split in ("train", "val")]
    refuse_leaks(TrainingData.of(make_dataset(tmp_path / "x", *same)).joined(), allowed=False)
    held_out = make_dataset(tmp_path / "y", *same, table(4, 1, "test", "a"))
    with pytest.raises(UserError, match="several splits"):
        refuse_leaks(TrainingData.of(held_out).joined(), allowed=False)


def test_a_clip_that_is_trained_on_and_validated_by_is_refused(tmp_path: Path) -> None:
    leaking = TrainingData.of(
        make_dataset(tmp_path / "x", table(4, 1, "train", "a"), table(4, 1, "val", "a"))
    )
    with pytest.raises(UserError, match=r"several splits.*--allow-leakage"):
        refuse_leaks(leaking, allowed=False)
    refuse_leaks(leaking, allowed=True)
    refuse_leaks(small_dataset(tmp_path / "y", ""), allowed=False)


def test_clips_of_one_name_in_two_datasets_are_two_clips(tmp_path: Path) -> None:
    one = make_dataset(tmp_path / "x", table(2, 1, "train", "t"), table(3, 1, "val", "a.mp4"))
    two = make_dataset(tmp_path / "y", table(2, 0, "train", "u"), table(3, 0, "val", "a.mp4"))
    (chunk,) = epochs(TrainingData.of(one, two)).validate()
    batch = load_chunk(chunk, 16, ("video_id", "label"))
    assert sorted(zip(batch["video_id"], batch["label"], strict=True)) == (
        [("0/a.mp4", 1)] * 3 + [("1/a.mp4", 0)] * 3
    )
    (chunk,) = epochs(TrainingData.of(one)).validate()
    assert set(load_chunk(chunk, 16, ("video_id",))["video_id"]) == {"a.mp4"}


def test_a_dataset_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    one = make_dataset(tmp_path / "x", table(3, 1, "train", "a"))
    with pytest.raises(UserError, match="give a dataset once"):
        TrainingData.of(one, one)


def test_a_share_of_a_dataset_without_training_crops_is_refused(tmp_path: Path) -> None:
    one = make_dataset(tmp_path / "x", table(3, 1, "val", "a"))
    two = make_dataset(tmp_path / "y", table(2, 0, "train", "u"))
    with pytest.raises(UserError, match="no crops in its train split"):
        epochs(TrainingData.of(one, two), mix=(1, 1))
    with pytest.raises(UserError, match=r"y.* no real crops in its train split"):
        epochs(TrainingData.of(two), mix=(1,), real_only=True)
    assert epochs(TrainingData.of(one, two)).rows == 2


def test_equal_files_without_crops_are_no_leak(tmp_path: Path) -> None:
    for name, split in (("x", "train"), ("y", "val")):
        made = make_dataset(tmp_path / name, table(4, 1, split, name))
        broken = ClipRecord("broken", split=split, content="same", failure_kind="damaged")
        write_clip_table(made.folder, [*made.clips(), broken])
    refuse_leaks(TrainingData.open([tmp_path / "x", tmp_path / "y"]), allowed=False)


def test_a_clip_in_two_splits_of_two_datasets_is_refused(tmp_path: Path) -> None:
    one = make_dataset(tmp_path / "x", table(4, 1, "train", "same"))
    two = make_dataset(tmp_path / "y", table(4, 1, "val", "same"))
    with pytest.raises(UserError, match="is the same file as"):
        refuse_leaks(TrainingData.of(one, two), allowed=False)
