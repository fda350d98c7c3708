from __future__ import annotations

from pathlib import Path

from genconvit.data.leakage import leak_sentences
from genconvit.data.shards import open_dataset
from tests.data.audit_data import Made, write_dataset

FINE = [Made("a", "g1"), Made("b", "g2", "val"), Made("c", "g1", label="fake")]


def leaks(path: Path, *clips: Made) -> list[str]:
    return leak_sentences(open_dataset(write_dataset(path, [*FINE, *clips]).location).clips())


def test_groups_in_one_split_each_are_no_leak(tmp_path: Path) -> None:
    same = [Made("x", "g3", content="1"), Made("y", "g3", content="1")]
    assert leaks(tmp_path, *same) == []


def test_a_group_in_two_splits_is_named(tmp_path: Path) -> None:
    [leak] = leaks(tmp_path, Made("d", "g1", "test"))
    assert "g1 (test, train)" in leak


def test_a_copy_under_another_name_and_group_is_named(tmp_path: Path) -> None:
    copy = [Made("x", "g3", content="1"), Made("y", "g4", "test", content="1")]
    [leak] = leaks(tmp_path, *copy)
    assert "x (real, train) = y (real, test)" in leak


def test_one_content_with_both_labels_is_an_error_even_in_one_split(tmp_path: Path) -> None:
    torn = [Made("x", "g3", content="1"), Made("y", "g3", content="1", label="fake")]
    [leak] = leaks(tmp_path, *torn)
    assert "both fake and real" in leak and "x (real, train) = y (fake, train)" in leak


def test_clips_that_gave_no_crop_teach_nothing(tmp_path: Path) -> None:
    assert leaks(tmp_path, Made("d", "g1", "test", crops=0)) == []
