from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from genconvit.data.audit.features import METADATA, SPECTRUM, feature_names
from genconvit.data.audit.measure import features_in_shard, features_of_crops, joined, shards_of
from genconvit.data.audit.scan import scan_shard
from genconvit.data.shards import SCHEMA, FrameDataset, open_dataset, read_clips, write_shard
from genconvit.folder import Folder
from tests.data.audit_data import Made, write_dataset

CLIPS = [
    Made("few", "g0", crops=1),
    *(Made(f"c{n}", f"g{n}", quality=30 + 10 * n, crops=3 + 2 * n) for n in range(4)),
    Made("v", "h", "val"),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> FrameDataset:
    return open_dataset(write_dataset(tmp_path_factory.mktemp("measure"), CLIPS).location)


def test_crops_measure_the_same_in_hand_in_a_shard_and_in_an_audit(dataset: FrameDataset) -> None:
    found = joined(map(features_in_shard, shards_of(dataset, "train")))
    assert set(found) == {"few", "c0", "c1", "c2", "c3"}
    in_hand = read_clips(dataset, "train", 10)
    audited = {clip.name: clip for shard in dataset.shards for clip in scan_shard(shard).clips}
    for name, features in found.items():
        assert len(features) == len(feature_names()) == len(METADATA) + len(SPECTRUM)
        assert features == pytest.approx(features_of_crops(in_hand[name].crops))
        # Pillow decodes for the audit.
        assert features == pytest.approx(audited[name].features, abs=0.02)
    size = {name: features[METADATA.index("JPEG bytes")] for name, features in found.items()}
    assert size["c0"] < size["c3"]
    assert features_of_crops([]) is None


def test_a_clip_in_several_shards_is_one_clip_and_a_damaged_crop_ends_nothing(
    tmp_path: Path,
) -> None:
    clip = Made("long", "g", crops=6)
    rows = clip.rows()
    rows[0]["image"] = b"no picture"
    parts = []
    for place, some in enumerate((rows[:2], rows[2:], [{**rows[0], "video_id": "broken"}])):
        table = pa.Table.from_pylist(some, schema=SCHEMA)
        parts.append(write_shard(Folder(tmp_path), table, key=str(place)).path)
    found = joined(features_in_shard(str(tmp_path / path)) for path in parts)
    bytes_at = METADATA.index("JPEG bytes")
    mean = np.mean([len(row["image"]) for row in rows])  # type: ignore[arg-type]
    assert found["long"][bytes_at] == pytest.approx(mean)
    assert np.isfinite(found["long"]).all()
    assert np.isnan(found["broken"][len(METADATA) :]).all()
    assert np.isfinite(found["broken"][: len(METADATA)]).all()
