from __future__ import annotations

import json
import uuid
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genconvit.config import SplitSettings
from genconvit.data.catalog import Catalog, Clip, find_clips, read_catalog
from genconvit.data.splits import assign_splits, leaking_groups
from genconvit.errors import UserError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"clip")
    return folder


def write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def told(catalog: Catalog) -> dict[str, tuple[str | None, str, str, str, str | None]]:
    return {c.name: (c.label, c.group, c.method, c.source, c.split) for c in catalog.clips}


FF = "manipulated_sequences/Deepfakes/c23/videos"


@pytest.fixture
def ff(tmp_path: Path) -> Path:
    return touch(
        tmp_path,
        "original_sequences/youtube/c23/videos/000.mp4",
        "original_sequences/youtube/raw/videos/003.mp4",
        f"{FF}/000_003.mp4",
        f"{FF}/071_054.mp4",
        "manipulated_sequences/FaceShifter/c40/videos/003_000.mp4",
        "manipulated_sequences/Deepfakes/masks/videos/000_003.mp4",
        "original_sequences/actors/c23/videos/01__walking.mp4",
        "manipulated_sequences/DeepFakeDetection/c23/videos/01_02__walking__ABC.mp4",
    )


@pytest.mark.parametrize("folder", ["", "splits", "dataset/splits"])
def test_faceforensics(ff: Path, folder: str) -> None:
    write(ff / folder / "train.json", [["000", "003"]])
    write(ff / folder / "test.json", [["054", "071"]])
    catalog = read_catalog(ff)
    assert catalog.layout == "faceforensics++"
    assert told(catalog) == {
        "original_sequences/youtube/c23/videos/000.mp4": (
            *("real", "000", "", "faceforensics++_c23", "train"),
        ),
        "original_sequences/youtube/raw/videos/003.mp4": (
            *("real", "000", "", "faceforensics++_raw", "train"),
        ),
        f"{FF}/000_003.mp4": ("fake", "000", "Deepfakes", "faceforensics++_c23", "train"),
        f"{FF}/071_054.mp4": ("fake", "054", "Deepfakes", "faceforensics++_c23", "test"),
        "manipulated_sequences/FaceShifter/c40/videos/003_000.mp4": (
            *("fake", "000", "FaceShifter", "faceforensics++_c40", "train"),
        ),
        "original_sequences/actors/c23/videos/01__walking.mp4": (
            *("real", "actor_01", "", "deepfakedetection_c23", None),
        ),
        "manipulated_sequences/DeepFakeDetection/c23/videos/01_02__walking__ABC.mp4": (
            *("fake", "actor_01", "DeepFakeDetection", "deepfakedetection_c23", None),
        ),
    }
    assert any("swapped in" in note for note in catalog.notes)
    assert any(
        "1 videos or images do not belong" in note and "masks" in note for note in catalog.notes
    )


def test_videos_that_the_official_splits_name_are_missed(ff: Path) -> None:
    write(ff / "test.json", [["054", "071"]])
    missing = read_catalog(ff).missing
    assert f"{FF}/054_071.mp4" in missing
    assert f"{FF}/071_054.mp4" not in missing
    assert "original_sequences/youtube/c23/videos/054.mp4" in missing
    assert not any("masks" in name or "actors" in name for name in missing)


def test_faceforensics_without_splits_says_so_and_joins_only_what_pairs_join(ff: Path) -> None:
    catalog = read_catalog(ff)
    assert any("no train.json" in note for note in catalog.notes)
    assert {c.split for c in catalog.clips} == {None}
    assert {c.group for c in catalog.clips} == {"000", "054", "actor_01"}
    assert leaking_groups(assign_splits(catalog.clips, SplitSettings())) == []


@pytest.mark.parametrize("part", ["manipulated_sequences", "manipulated_sequences/Deepfakes", FF])
def test_a_part_of_faceforensics_is_known_by_the_folders_above(ff: Path, part: str) -> None:
    write(ff / "splits/train.json", [["000", "003"]])
    clips = {Path(c.name).name: c for c in read_catalog(ff / part).clips}
    clip = clips["000_003.mp4"]
    assert (clip.label, clip.method, clip.split) == ("fake", "Deepfakes", "train")
    assert clip.path == ff / FF / "000_003.mp4"


def test_copies_of_faceforensics_vary(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "flat/original/000.mp4",
        "flat/Deepfakes/000_003.mp4",
        "flat/DeepFakeDetection/02_15__walking__ABC.mp4",
        "upper/Manipulated_Sequences/face2face/C23/Videos/000_003.MP4",
        "frames/manipulated_sequences/FaceSwap/c23/frames/000_003/0.png",
        "frames/manipulated_sequences/FaceSwap/c23/frames/000_003/1.png",
    )
    flat = {c.name: (c.label, c.group) for c in find_clips(tmp_path / "flat")}
    assert flat == {
        "original/000.mp4": ("real", "000"),
        "Deepfakes/000_003.mp4": ("fake", "000"),
        "DeepFakeDetection/02_15__walking__ABC.mp4": ("fake", "actor_02"),
    }
    (upper,) = find_clips(tmp_path / "upper")
    assert (upper.method, upper.source) == ("face2face", "faceforensics++_c23")
    (frames,) = find_clips(tmp_path / "frames")
    assert frames.name == "manipulated_sequences/FaceSwap/c23/frames/000_003"
    touch(tmp_path, "frames/manipulated_sequences/FaceSwap/c23/videos/000_003.mp4")
    catalog = read_catalog(tmp_path / "frames")
    assert [c.name for c in catalog.clips] == [
        "manipulated_sequences/FaceSwap/c23/videos/000_003.mp4"
    ]
    assert any("folders of frames" in note for note in catalog.notes)


@pytest.mark.parametrize("content", ["[[", {"000": "003"}, [["000"]], [[0, 3]]])
def test_a_broken_split_file_is_refused(ff: Path, content: object) -> None:
    write(ff / "val.json", content)
    with pytest.raises(UserError, match=r"val\.json is not"):
        read_catalog(ff)


@given(st.sets(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=30))
def test_whatever_the_pairs_no_video_is_in_two_groups(pairs: set[tuple[int, int]]) -> None:
    url = f"memory://{uuid.uuid4()}"
    files = fsspec.filesystem("memory")
    for a, b in pairs:
        files.pipe_file(f"{url}/{FF}/{a:03d}_{b:03d}.mp4", b"clip")
    groups: dict[str, set[str]] = {}
    for clip in read_catalog(url).clips:
        for video in Path(clip.name).stem.split("_"):
            groups.setdefault(video, set()).add(clip.group)
    files.rm(url, recursive=True)
    assert all(len(found) == 1 for found in groups.values())


def test_celeb_df(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "Celeb-real/id0_0000.mp4",
        "Celeb-synthesis/id0_id1_0000.mp4",
        "Celeb-synthesis/id1_id0_0000.mp4",
        "Youtube-real/00170.mp4",
    )
    listed = (
        "1 YouTube-real/00170.mp4\n0 Celeb-synthesis/id1_id0_0000.mp4\n1 Celeb-real/id9_0001.mp4"
    )
    write(tmp_path / "List_of_testing_videos.txt", listed)
    catalog = read_catalog(tmp_path)
    assert catalog.layout == "celeb-df"
    assert told(catalog) == {
        "Celeb-real/id0_0000.mp4": ("real", "id0_0000", "", "celeb-df", "train"),
        "Celeb-synthesis/id0_id1_0000.mp4": (
            *("fake", "id0_0000", "Celeb-synthesis", "celeb-df", "train"),
        ),
        "Celeb-synthesis/id1_id0_0000.mp4": (
            *("fake", "id1_0000", "Celeb-synthesis", "celeb-df", "test"),
        ),
        "Youtube-real/00170.mp4": ("real", "youtube_00170", "", "celeb-df", "test"),
    }
    assert catalog.missing == ["Celeb-real/id9_0001.mp4"]
    assert any("same people" in note for note in catalog.notes)
    assert {c.split for c in find_clips(tmp_path / "Celeb-synthesis")} == {"train", "test"}


@pytest.mark.parametrize("part", ["", "Celeb-real", "Celeb-synthesis"])
def test_celeb_df_leaves_out_what_shares_a_film_with_its_list(tmp_path: Path, part: str) -> None:
    touch(
        tmp_path,
        *(f"Celeb-real/videos/{name}.mp4" for name in ("ID0_0000", "id0_0001", "id1_0000")),
        *(f"Celeb-synthesis/id0_{name}.mp4" for name in ("id1_0000", "id2_0000", "id1_0001")),
        "YouTube-real/00170.mp4",
    )
    listed = "1 Celeb-real/id1_0000.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n"
    write(tmp_path / "List_of_testing_videos.txt", listed)
    catalog = read_catalog(tmp_path / part)
    assert catalog.layout == "celeb-df"
    assert {Path(c.name).stem: c.split for c in catalog.clips} == {
        **({} if part == "Celeb-synthesis" else {"id0_0001": "train", "id1_0000": "test"}),
        **({} if part == "Celeb-real" else {"id0_id1_0000": "test", "id0_id1_0001": "train"}),
        **({} if part else {"00170": "train"}),
    }
    assert leaking_groups(catalog.clips) == []
    [note] = [note for note in catalog.notes if "left out" in note]
    count = 1 if part else 2
    assert f"{count} clips are left out: they share a film with the official test list" in note


def test_celeb_df_without_its_list_has_no_split(tmp_path: Path) -> None:
    touch(tmp_path, "celeb-REAL/videos/id0_0000.mp4")
    catalog = read_catalog(tmp_path)
    assert [(c.label, c.split) for c in catalog.clips] == [("real", None)]
    assert any("List_of_testing_videos.txt" in note for note in catalog.notes)


def test_a_wrong_line_of_the_celeb_df_list_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "Celeb-real/id0_0000.mp4")
    write(tmp_path / "List_of_testing_videos.txt", "1 Celeb-real/id0_0000.mp4\nreal video\n")
    with pytest.raises(UserError, match=r"line 2 of .*List_of_testing_videos"):
        read_catalog(tmp_path)


def test_dfdc_in_parts(tmp_path: Path) -> None:
    touch(tmp_path, *(f"dfdc_train_part_0/{name}.mp4" for name in ("a", "b", "stray")))
    touch(tmp_path, "dfdc_train_part_1/c.mp4")
    fake = {"label": "FAKE", "split": "train", "original": "b.mp4"}
    first = {"a.mp4": fake, "b.mp4": {"label": "REAL", "split": "train"}, "gone.mp4": fake}
    write(tmp_path / "dfdc_train_part_0/metadata.json", first)
    lone = {"c.mp4": {"label": "FAKE", "split": "train", "original": "d.mp4"}}
    write(tmp_path / "dfdc_train_part_1/metadata.json", lone)
    catalog = read_catalog(tmp_path)
    assert catalog.layout == "dfdc"
    assert told(catalog) == {
        "dfdc_train_part_0/a.mp4": ("fake", "b", "", "dfdc", "train"),
        "dfdc_train_part_0/b.mp4": ("real", "b", "", "dfdc", "train"),
        "dfdc_train_part_1/c.mp4": ("fake", "d", "", "dfdc", "train"),
    }
    assert catalog.missing == ["dfdc_train_part_0/gone.mp4"]
    assert any("dfdc_train_part_0/stray.mp4" in note for note in catalog.notes)
    assert [c.name for c in find_clips(tmp_path / "dfdc_train_part_0")] == ["a.mp4", "b.mp4"]


def test_another_metadata_file_makes_no_dfdc(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.mp4", "fake/b.mp4")
    for content in ({"a.mp4": {"label": "cat"}}, {"label": "x"}, [1], {"z.mp4": {"label": "REAL"}}):
        write(tmp_path / "metadata.json", content)
        assert read_catalog(tmp_path).layout == "folder"
    write(tmp_path / "metadata.json", '{"a.mp4": {"label"')
    with pytest.raises(UserError, match=r"metadata\.json is not JSON"):
        read_catalog(tmp_path)


def test_dfdc_preview(tmp_path: Path) -> None:
    forged, original = "method_A/12/12_A/12_3_A_001.mp4", "original_videos/12/12_A_001.mp4"
    touch(tmp_path, forged, original)
    listed = {
        forged: {"label": "fake", "set": "train", "target_id": 12, "swapped_id": 3},
        original: {"label": "real", "set": "train", "target_id": 12},
        "method_B/5.mp4": {"label": "fake", "set": "test", "target_id": 5, "swapped_id": 12},
    }
    write(tmp_path / "dataset.json", listed)
    catalog = read_catalog(tmp_path)
    assert catalog.layout == "dfdc-preview"
    assert told(catalog) == {
        forged: ("fake", "actor_12", "method_A", "dfdc_preview", "train"),
        original: ("real", "actor_12", "", "dfdc_preview", "train"),
    }
    assert catalog.missing == ["method_B/5.mp4"]


def test_deepfaketimit_has_real_clips_only_with_vidtimit(tmp_path: Path) -> None:
    fakes = ("fadg0/sa1-video-fram1.avi", "fram1/sa1-video-fadg0.avi")
    touch(tmp_path, *(f"DeepfakeTIMIT/lower_quality/{name}" for name in fakes))
    touch(tmp_path, "DeepfakeTIMIT/higher_quality/fcft0-fjem0/sx1.avi")
    alone = read_catalog(tmp_path)
    assert {(c.group, c.source) for c in alone.clips} == {
        ("fadg0", "deepfaketimit_lower"),
        ("fcft0", "deepfaketimit_higher"),
    }
    assert any("only fakes" in note for note in alone.notes)
    touch(tmp_path, "VidTIMIT/fram1/video/sa1/001.jpg", "VidTIMIT/fram1/video/sa1/002.jpg")
    touch(tmp_path, "VidTIMIT/fram1/sa2.avi")
    both = read_catalog(tmp_path)
    assert both.layout == "deepfaketimit"
    real = [c for c in both.clips if c.label == "real"]
    assert [(c.name, c.group) for c in real] == [
        ("VidTIMIT/fram1/sa2.avi", "fadg0"),
        ("VidTIMIT/fram1/video/sa1", "fadg0"),
    ]
    assert not any("only fakes" in note for note in both.notes)


def test_wilddeepfake_clips_are_folders_of_frames(tmp_path: Path) -> None:
    touch(tmp_path, "real_train/1/real/110/0.png", "real_train/1/real/110/1.png")
    touch(tmp_path, "fake_test/7/fake/3/0.png", "fake_test/12/0.png")
    catalog = read_catalog(tmp_path)
    assert told(catalog) == {
        "fake_test/12": ("fake", "fake_test/12", "", "wilddeepfake", "test"),
        "fake_test/7/fake/3": ("fake", "fake_test/7", "", "wilddeepfake", "test"),
        "real_train/1/real/110": ("real", "real_train/1", "", "wilddeepfake", "train"),
    }


def test_df40_joins_the_groups_of_the_datasets_it_is_made_of(tmp_path: Path) -> None:
    touch(tmp_path, "DF40/simswap/ff/000_003/0.png", "DF40/simswap/cdf/frames/id0_id1_0000/0.png")
    touch(tmp_path, "DF40/simswap/frames/010_020/0.png", "DF40/heygen/real/a/0.png")
    touch(tmp_path, "DF40/MidJourney/fake/12.png")
    alone = read_catalog(tmp_path / "DF40")
    assert alone.layout == "df40"
    assert told(alone) == {
        "simswap/ff/000_003": ("fake", "000", "simswap", "df40_ff", None),
        "simswap/cdf/frames/id0_id1_0000": ("fake", "id0_0000", "simswap", "df40_cdf", None),
        "simswap/frames/010_020": ("fake", "010", "simswap", "df40_ff", None),
        "heygen/real/a": ("real", "heygen/a", "heygen", "df40", None),
        "MidJourney/fake/12.png": ("fake", "MidJourney/12", "MidJourney", "df40", None),
    }
    touch(tmp_path, "rgb/FF/original_sequences/youtube/c23/frames/003/000.png")
    touch(tmp_path, "rgb/Celeb-DF-v2/Celeb-real/frames/id0_0000/000.png")
    together = read_catalog(tmp_path)
    assert together.layout == "faceforensics++ + celeb-df + df40"
    assert {c.group for c in together.clips if c.label == "real"} >= {"000", "id0_0000"}


def test_plain_folders_stay_plain(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "train/real/original_sequences/youtube/c23/videos/000.mp4",
        "train/fake/Deepfakes/000_003.mp4",
        "train/fake/simswap/ff/000_003/0001.png",
        "fake/lower_quality/fadg0/sa1-video-fram1.avi",
    )
    catalog = read_catalog(tmp_path)
    assert (catalog.layout, catalog.notes, catalog.missing) == ("folder", [], [])
    assert len(catalog.clips) == 4
    touch(tmp_path / "other", "Deepfakes/mine.mp4", "real_train/notes.txt")
    assert read_catalog(tmp_path / "other").layout == "folder"


def test_folders_and_tables_behind_a_url() -> None:
    url, files = f"memory://{uuid.uuid4()}", fsspec.filesystem("memory")
    for name in ("real/a.mp4", "fake/a.mp4", "fake/.hidden.mp4", "fake/notes.txt"):
        files.pipe_file(f"{url}/{name}", b"clip")
    clips = find_clips(url)
    assert clips == [
        Clip(f"{url}/fake/a.mp4", "fake/a.mp4", "fake", "a"),
        Clip(f"{url}/real/a.mp4", "real/a.mp4", "real", "a"),
    ]
    files.pipe_file(f"{url}/list.csv", b"video_name,label\nreal/a.mp4,real\n")
    assert find_clips(f"{url}/list.csv") == [clips[1]]
    assert find_clips(f"{url}/real/a.mp4") == [Clip(f"{url}/real/a.mp4", "a.mp4", group="a")]
    for absent in (f"{url}/none", f"{url}/none.csv"):
        with pytest.raises(UserError, match="does not exist"):
            find_clips(absent)
    with pytest.raises(UserError, match="nosuch://x"):
        find_clips("nosuch://x/y")


def test_a_layout_behind_a_url_reads_like_one_on_the_disk(ff: Path) -> None:
    write(ff / "splits/train.json", [["000", "003"]])
    local, remote = read_catalog(ff), read_catalog(f"file://{ff}")
    assert told(remote) == told(local)
    assert (remote.missing, remote.notes) == (local.missing, local.notes)
    part = read_catalog(f"file://{ff}/{FF}")
    assert (part.clips[0].name, part.clips[0].split) == ("000_003.mp4", "train")
    assert part.clips[0].path == f"file://{ff}/{FF}/000_003.mp4"
