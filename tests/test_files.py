from __future__ import annotations

from pathlib import Path

import pytest

from genconvit.files import locked, replaced_file, replaced_folder, write_json


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replaced_file(path) as aside:
        aside.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_the_old_one_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(ZeroDivisionError), replaced_folder(path) as aside:
        (aside / "half").touch()
        raise ZeroDivisionError
    assert [p.name for p in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.mkdir()
    (path / "old").touch()
    with replaced_folder(path) as aside:
        (aside / "new").touch()
    assert [p.name for p in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_json_that_others_cannot_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"auc": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time_is_in_a_folder(tmp_path: Path) -> None:
    def busy() -> None:
        raise InterruptedError

    folder = tmp_path / "run"
    with locked(folder, busy), pytest.raises(InterruptedError), locked(folder, busy):
        raise AssertionError("two at once")
    assert not folder.exists()
    with locked(folder, busy):
        (folder / "state").touch()
    assert folder.exists()
