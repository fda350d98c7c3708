from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genconvit.config import Settings
from genconvit.data.clip_table import ClipRecord
from genconvit.data.crops import encode_crop
from genconvit.data.shards import (
    CURRENT,
    ROWS_PER_GROUP,
    SCHEMA,
    SPLITS,
    FrameDataset,
    is_dataset,
    open_dataset,
    read_clips,
    write_manifest,
    write_shard,
)
from genconvit.errors import UserError
from genconvit.folder import Folder

SETTINGS = Settings().model_dump(mode="json", include={"preprocess", "sampling"})


def table(
    rows: int, label: int = 0, split: str = "val", video_id: str = "v", method: str = ""
) -> pa.Table:
    """Rows of one clip; the colour of each crop is the number of its frame."""
    same = {"label": label, "video_id": video_id, "split": split, "method": method, "group": "g"}
    return pa.Table.from_pylist(
        [
            {**same, "image": grey(i), "frame_index": i, "track": 0, "box": [0, 0, 9, 9],
             "time_s": 0.0, "face_score": 1.0}
            for i in range(rows)
        ],
        schema=SCHEMA,
    )  # fmt: skip


def grey(level: int) -> bytes:
    return encode_crop(np.full((32, 32, 3), level % 256, np.uint8), 95)


def make_dataset(path: Path | str, *tables: pa.Table) -> FrameDataset:
    """A dataset with a shard for each table."""
    folder = Folder(path)
    shards = [write_shard(folder, rows) for rows in tables]
    counts: dict[tuple[str, str, str], int] = {}
    for rows in tables:
        for row in rows.select(["video_id", "label", "split"]).to_pylist():
            key = (row["video_id"], ("fake", "real")[row["label"]], row["split"])
            counts[key] = counts.get(key, 0) + 1
    records = [
        ClipRecord(name, label, group=name, split=split, crops=crops, content=name)
        for (name, label, split), crops in counts.items()
    ]
    write_manifest(folder, shards, records, settings=SETTINGS)
    return open_dataset(path)


def test_a_shard_is_named_after_its_rows(tmp_path: Path) -> None:
    first, again, other = (write_shard(Folder(tmp_path), table(rows)) for rows in (3, 3, 4))
    assert first == again
    assert first.path != other.path
    assert pq.read_schema(tmp_path / first.path) == SCHEMA


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_dataset_is_what_was_written_on_a_path_and_behind_a_url(
    tmp_path: Path, scheme: str
) -> None:
    rows = ROWS_PER_GROUP + 10
    dataset = make_dataset(f"{scheme}{tmp_path}/set", table(rows, 0, "train"), table(3, 1, "val"))
    assert dataset.counts["train"] == {"fake": rows, "real": 0}
    assert dataset.counts["val"] == {"fake": 0, "real": 3}
    assert [group.rows for group in dataset.row_groups("train")] == [ROWS_PER_GROUP, 10]
    assert {record.name for record in dataset.clips()} == {"v"}
    (clip,) = read_clips(dataset, "train", 1).values()
    assert [crop.frame_index for crop in clip.crops] == list(range(rows))


def test_the_newest_version_is_opened_and_any_can_be_named(tmp_path: Path) -> None:
    for version, rows in (("aaa", 2), ("bbb", 3)):
        make_dataset(tmp_path / version, table(rows))
        Folder(tmp_path).write_json(CURRENT, {"version": version})
    assert is_dataset(tmp_path)
    assert open_dataset(tmp_path).counts["val"]["fake"] == 3
    assert open_dataset(tmp_path / "aaa").counts["val"]["fake"] == 2
    assert open_dataset(tmp_path).digest != open_dataset(tmp_path / "aaa").digest


def test_a_split_that_was_left_out_cannot_be_read(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, *(table(2, split=split) for split in SPLITS))
    assert dataset.row_groups("test")
    with pytest.raises(UserError, match="no crops in its test split"):
        dataset.only("train", "val").row_groups("test")


def test_clips_are_found_in_shuffled_shards(tmp_path: Path) -> None:
    rows = pa.concat_tables([table(5, video_id=name, split="train") for name in "abc"])
    mixed = rows.take(np.random.default_rng(0).permutation(len(rows)))
    found = read_clips(make_dataset(tmp_path, mixed), "train", 2)
    assert list(found) == ["a", "b"]
    for clip in found.values():
        assert [crop.frame_index for crop in clip.crops] == list(range(5))
        assert [crop.jpeg for crop in clip.crops] == [grey(i) for i in range(5)]
    named = read_clips(make_dataset(tmp_path, mixed), "train", ["c", "b"])
    assert list(named) == ["b", "c"]


def test_a_folder_that_extract_did_not_write_is_refused(tmp_path: Path) -> None:
    assert not is_dataset(tmp_path)
    with pytest.raises(UserError, match="genconvit extract"):
        open_dataset(tmp_path)


def test_a_manifest_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "extract.json").write_text('{"frames": 3}')
    with pytest.raises(UserError, match="extract again"):
        open_dataset(tmp_path)
