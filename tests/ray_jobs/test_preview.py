from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from genconvit.config import PreprocessSettings, SamplingSettings
from genconvit.data.clip_table import ClipRecord
from genconvit.data.crops import encode_crop
from genconvit.data.shards import SCHEMA, open_dataset, write_manifest, write_shard
from genconvit.errors import UserError
from genconvit.folder import Folder
from ray_jobs.output import Output
from ray_jobs.preview import CELL, choose, preview
from tests.conftest import small_settings


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of three crops each; the first four are real."""
    path = tmp_path_factory.mktemp("preview")
    rng = np.random.default_rng(0)
    rows, records = [], []
    for clip in range(6):
        label = int(clip < 4)
        name, method = f"folder/clip{clip}.mp4", "" if label else "swap"
        known = {"label": label, "video_id": name, "method": method, "split": "train"}
        for frame in range(3):
            jpeg = encode_crop(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), 95)
            rows.append({**dict.fromkeys(SCHEMA.names), **known, "image": jpeg})
            rows[-1] |= {"frame_index": frame, "track": 0}
        records.append(
            ClipRecord(name, ("fake", "real")[label], method=method, split="train", crops=3)
        )
    shard = write_shard(Folder(path), pa.Table.from_pylist(rows, schema=SCHEMA))
    preprocess = PreprocessSettings(size=64).model_dump(mode="json")
    sampling = SamplingSettings().model_dump(mode="json")
    write_manifest(
        Folder(path), [shard], records, settings={"preprocess": preprocess, "sampling": sampling}
    )
    return path


def drawn(shards: Path, out: Path, *texts: str, count: int = 4) -> np.ndarray:
    settings = small_settings(*texts)
    preview(shards, settings, out, Output(as_json=True), split="train", count=count)
    return cv2.imread(str(out))


def test_the_sheet_has_a_row_a_crop_and_says_where_it_is(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = drawn(shards, tmp_path / "new" / "a.png", count=4)
    told = json.loads(capsys.readouterr().out)
    assert told == {"event": "preview", "path": str(tmp_path / "new" / "a.png"), "crops": 4}
    assert 4 * CELL < sheet.shape[0] < 5 * CELL + 40
    # As stored, three draws, eight kinds, and two fakes with their masks.
    assert 16 * CELL < sheet.shape[1] < 17 * CELL


def test_the_seed_draws_the_sheet(shards: Path, tmp_path: Path) -> None:
    first, again = (drawn(shards, tmp_path / name) for name in ("a.png", "b.png"))
    other = drawn(shards, tmp_path / "c.png", "seed=1")
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or (first != other).any()


@pytest.mark.parametrize(("count", "labels"), [(4, [0, 0, 1, 1]), (9, [0, 0, 1, 1, 1, 1])])
def test_crops_are_of_different_clips_and_half_are_real(
    shards: Path, count: int, labels: list[int]
) -> None:
    rows = choose(open_dataset(shards), "train", count, 0, 64)
    assert [row.label for row in rows] == labels
    assert len({row.clip for row in rows}) == len(rows)
    assert rows[0].caption.splitlines() == ["fake, swap", Path(rows[0].clip).name]
    assert rows[-1].caption.splitlines()[0] == "real"


def test_another_suffix_and_another_split_are_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.png"):
        drawn(shards, tmp_path / "a.jpg")
    with pytest.raises(UserError, match="no crops in its val split"):
        preview(shards, small_settings(), tmp_path / "a.png", Output(), split="val", count=2)
