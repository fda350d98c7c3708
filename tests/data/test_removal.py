from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genconvit.data.removal import name_digest, remove_group, removed_groups, removed_names
from genconvit.data.shards import open_dataset
from genconvit.errors import UserError
from genconvit.folder import Folder, open_parquet
from tests.data.audit_data import Made, write_dataset

CLIPS = [
    Made("a", "p1"),
    Made("b", "p2", label="fake"),
    Made("c", "p1", "val"),
    Made("d", "p3", "val", label="fake"),
    Made("e", "p1", "test"),
    Made("f", "p1", "test", crops=0),
]
Rows = list[dict[str, object]]


class KilledError(Exception):
    """Stands for the end of the process."""


class Mortal(Folder):
    """A folder at which the process ends after so many changes."""

    left = 0

    def folder(self, name: str) -> Mortal:
        return Mortal(self.at(name))

    @classmethod
    def _live(cls) -> None:
        if cls.left == 0:
            raise KilledError
        cls.left -= 1

    @contextlib.contextmanager
    def written(self, name: str) -> Iterator[Path]:
        self._live()
        with super().written(name) as aside:
            yield aside

    def remove(self, name: str) -> None:
        self._live()
        super().remove(name)


def rows_of(folder: Folder) -> Rows:
    rows: Rows = []
    for shard in open_dataset(folder.location).shards:
        with open_parquet(shard.path) as file:
            rows += file.read().to_pylist()
    return sorted(rows, key=lambda row: (str(row["video_id"]), str(row["frame_index"])))


def two_versions(path: Path) -> Folder:
    top = Folder(path)
    write_dataset(path / "v1", CLIPS[:4])
    write_dataset(path / "v2", CLIPS)
    top.write_json("current.json", {"version": "v2"})
    (path / ".work").mkdir()
    (path / ".work" / "part.parquet").write_bytes(b"p1")
    return top


def mentions(folder: Path, group: str, names: set[str]) -> list[str]:
    """Files that hold the group's name other than the records of its removal."""
    found = []
    for file in folder.rglob("*.parquet"):
        with open_parquet(str(file)) as table:
            for row in table.read().to_pylist():
                if row["group"] == group or names & {row.get("video_id"), row.get("name")}:
                    found.append(str(file))
    return found


@settings(max_examples=20)
@given(
    clips=st.lists(
        st.builds(
            Made,
            name=st.integers(0, 99).map("clip{}".format),
            group=st.sampled_from(["p1", "p2", "p3"]),
            split=st.sampled_from(["train", "val", "test"]),
            label=st.sampled_from(["fake", "real"]),
            crops=st.integers(0, 2),
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda clip: clip.name,
    ),
    shard=st.integers(1, 4),
)
def test_exactly_the_rows_of_the_others_remain(
    tmp_path_factory: pytest.TempPathFactory, clips: list[Made], shard: int
) -> None:
    group = clips[0].group
    folder = write_dataset(tmp_path_factory.mktemp("removal") / "v1", clips, shard)
    rest = [row for row in rows_of(folder) if row["group"] != group]
    records = [record for record in open_dataset(folder.location).clips() if record.group != group]
    remove_group(folder, group)
    assert rows_of(folder) == rest
    dataset = open_dataset(folder.location)
    assert dataset.clips() == records
    shards = {name for name in folder.names() if "/" in name}
    assert shards == {shard["path"] for shard in dataset.manifest["shards"]}
    assert sum(sum(split.values()) for split in dataset.counts.values()) == len(rest)


def test_all_versions_lose_the_group_and_say_so(tmp_path: Path) -> None:
    top = two_versions(tmp_path)
    digests = {open_dataset(tmp_path / name).digest for name in ("v1", "v2")}
    removal = remove_group(top, "p1")
    assert set(removal.digests) == digests
    assert {name: (v["clips"], v["crops"]) for name, v in removal.versions.items()} == {
        "v1": (2, 6),
        "v2": (4, 9),
    }
    assert mentions(tmp_path, "p1", {"a", "c", "e", "f"}) == []
    assert removed_groups(top) == {"p1"}
    assert not (tmp_path / ".work").exists()
    manifest = open_dataset(tmp_path).manifest
    [entry] = manifest["removed_groups"]
    assert (entry["group"], entry["clips"], entry["crops"]) == ("p1", 4, 9)
    assert manifest["leaking_groups"] == ["p2"] and manifest["source"] == "clips.csv"
    remove_group(top, "p3")
    assert [e["group"] for e in open_dataset(tmp_path).manifest["removed_groups"]] == ["p1", "p3"]
    assert removed_groups(top) == {"p1", "p3"}


def test_killed_anywhere_it_opens_and_a_repeat_finishes(tmp_path: Path) -> None:
    whole = two_versions(tmp_path / "whole")
    remove_group(whole, "p1")
    expected = {name: rows_of(whole.folder(name)) for name in ("v1", "v2")}
    deaths = 0
    while True:
        path = tmp_path / f"killed{deaths}"
        two_versions(path)
        Mortal.left = deaths
        try:
            remove_group(Mortal(path), "p1")
            break
        except KilledError:
            deaths += 1
        everything = [rows_of(Folder(path / name)) for name in ("v1", "v2")]
        assert all(everything), "a version does not open or is empty"
        removal = remove_group(Folder(path), "p1")
        assert {name: rows_of(Folder(path / name)) for name in expected} == expected
        assert removal.versions["v2"]["clips"] == 4
        assert mentions(path, "p1", {"a", "c", "e", "f"}) == []
        [entry] = open_dataset(path).manifest["removed_groups"]
        assert (entry["clips"], entry["crops"]) == (4, 9)
        assert sorted(Folder(path).names()) == sorted(whole.names())
    assert deaths > 15


def test_one_version_alone_notes_it_for_the_whole_dataset(tmp_path: Path) -> None:
    top = two_versions(tmp_path)
    remove_group(top.folder("v1"), "p1")
    assert removed_groups(top) == {"p1"}
    assert any(row["group"] == "p1" for row in rows_of(top.folder("v2")))
    remove_group(top, "p1")
    assert not any(row["group"] == "p1" for row in rows_of(top.folder("v2")))


@pytest.mark.parametrize("version", ["", "v1"])
def test_versions_that_a_kill_left_unfinished_go(tmp_path: Path, version: str) -> None:
    two_versions(tmp_path)
    # The first has halves of files only, which no listing shows.
    for file in ("0123456789ab/train/.x.parquet.12", "ba9876543210/val/x.parquet"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_bytes(b"p1")
    write_dataset(tmp_path / "aaaaaaaaaaaa", CLIPS)
    (tmp_path / "notes").mkdir()
    (tmp_path / "v2" / ".clips.parquet.12").write_bytes(b"p1")
    (tmp_path / "v1" / ".clips.parquet.12").write_bytes(b"p1")
    remove_group(Folder(tmp_path / version), "p1")
    assert {path.name for path in tmp_path.iterdir()} == {
        *("v1", "v2", "aaaaaaaaaaaa", "notes", "current.json", "removals.json")
    }
    assert not list((tmp_path / "v1").rglob(".*"))


def test_an_unfinished_version_behind_a_url_goes() -> None:
    top = Folder("memory://unfinished")
    try:
        write_dataset("memory://unfinished/v1", CLIPS)
        with top.written("0123456789ab/train/x.parquet") as aside:
            aside.write_bytes(b"p1")
        remove_group(top, "p1")
        assert {name.split("/")[0] for name in top.names()} == {"v1", "removals.json"}
    finally:
        top.remove("")


def test_digests_of_the_removed_names_are_kept_over_versions_and_calls(tmp_path: Path) -> None:
    top = two_versions(tmp_path)
    # A call with one version, by a program that kept no names.
    remove_group(top.folder("v1"), "p1")
    entries = top.read_json("removals.json", "")["removed"]
    assert entries[0].pop("names") == sorted(map(name_digest, "ac"))
    top.write_json("removals.json", {"removed": entries})
    assert removed_names(top) == set()
    removal = remove_group(top, "p1")
    assert removal.names == sorted(map(name_digest, "acef"))
    assert remove_group(top, "p1").names == removal.names
    remove_group(top, "p3")
    assert removed_names(top) == set(map(name_digest, "acefd"))
    assert name_digest("a") == "ca978112ca1bbdca"


def test_a_group_that_is_not_there_is_refused_with_near_names(tmp_path: Path) -> None:
    write_dataset(tmp_path, CLIPS)
    with pytest.raises(UserError, match=r"no group p11 \(near are .*p1"):
        remove_group(Folder(tmp_path), "p11")
    assert removed_groups(Folder(tmp_path)) == set()


def test_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"extract\.json"):
        remove_group(Folder(tmp_path), "p1")


def test_it_works_through_a_url() -> None:
    folder = write_dataset("memory://removal", CLIPS)
    try:
        remove_group(folder, "p1")
        assert {row["group"] for row in rows_of(folder)} == {"p2", "p3"}
        assert removed_groups(folder) == {"p1"}
    finally:
        folder.remove("")
