from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from ray_jobs.cli import app, main
from tests.conftest import Cluster
from tests.data.audit_data import Made, write_dataset

CLIPS = [
    Made("a", "g1"),
    Made("b", "g1", label="fake"),
    Made("c", "g2", "val"),
    Made("d", "g2", "val", label="fake"),
]


def audit(
    capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[object, dict[str, object]]:
    capsys.readouterr()
    words = ["audit", *map(str, arguments), "--json"]
    code = typer.main.get_command(app).main(words, standalone_mode=False)
    return code, json.loads(capsys.readouterr().out)


def test_the_exit_code_tells_leakage_and_damage(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine, leaky, out = tmp_path / "fine", tmp_path / "leaky", tmp_path / "out"
    write_dataset(fine, CLIPS)
    code, told = audit(capsys, fine, "--out", out)
    assert not code and told["ok"] and told["crops"] == 12
    assert json.loads((out / "audit.json").read_text())["leaks"] == []
    assert (out / "report.html").is_file()

    write_dataset(leaky, [*CLIPS, Made("e", "g1", "val")])
    code, told = audit(capsys, leaky, "--out", out)
    assert code == 1 and not told["ok"]

    next(fine.glob("train/*.parquet")).write_bytes(b"no")
    code, told = audit(capsys, fine, "--out", out)
    assert code == 1 and told["damaged"] and not told["leaks"]


def test_a_removal_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path, CLIPS)
    code, told = audit(capsys, tmp_path, "--remove-group", "g1")
    assert not code and told["group"] == "g1"
    with pytest.raises(SystemExit) as end:
        main(["audit", str(tmp_path), "--remove-group", "g22"])
    assert end.value.code == 2
    assert "near are g2" in capsys.readouterr().err
