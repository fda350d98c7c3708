from __future__ import annotations

import json
from pathlib import Path

import pytest

from genconvit.config import ServeSettings
from genconvit.errors import UserError
from ray_jobs.cli import main
from ray_jobs.cli_serve import served
from serve.http.keys import Caller, Keys


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = 0
    try:
        main([*map(str, arguments)])
    except SystemExit as error:
        code = int(error.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_key_is_made_listed_and_removed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "keys.txt"
    code, key, err = run(
        capsys, "keys", "new", "ada", "--file", file, "--admin", "--requests-per-minute", 30
    )
    assert code == 0
    assert key.startswith("gcv_") and len(key.splitlines()) == 1  # ready for KEY=$(...)
    assert key.strip() not in err
    keys = Keys(ServeSettings(keys=str(file)))
    assert keys.check({"x-api-key": key.strip()}) == Caller("ada", admin=True)
    code, out, _ = run(capsys, "keys", "list", "--file", file, "--json")
    assert json.loads(out) == {"name": "ada", "requests_per_minute": 30, "admin": True}
    assert "ada" in run(capsys, "keys", "list", "--file", file)[1]
    assert run(capsys, "keys", "remove", "ada", "--file", file)[0] == 0
    assert run(capsys, "keys", "list", "--file", file, "--json")[1] == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["keys", "new", "a b", "--file", "keys.txt"], "'a b' is no name"),
        (["keys", "new", "a", "--file", "k", "--requests-per-minute", "0"], "requests a minute"),
        (["keys", "remove", "a", "--file", "none.txt"], "none.txt cannot be read"),
        (["keys", "list", "--file", "bad.txt"], "bad.txt line 1"),
        (["serve"], "give a detector to serve"),
        (["serve", "--model", "a", "--model", "b"], "the name default is that of a too"),
        (["serve", "--model", "a", "--keys", "bad.txt"], "bad.txt line 1"),
        (["serve", "--model", "a", "--tls-key", "k"], "belong together"),
    ],
)
def test_bad_input_ends_with_2_and_one_sentence(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.txt").write_text("ada\n")
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert expected in err
    assert len(err.splitlines()) == 1
    assert not out


def test_detectors_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr=0.1").mkdir()
    here = str(tmp_path)

    def names(*models: str) -> list[tuple[str, str]]:
        return list(served([*models], ServeSettings()).models.items())

    assert names("runs/best") == [("default", f"{here}/runs/best")]
    assert names("b=x", "a=s3://bucket/a=b") == [("b", f"{here}/x"), ("a", "s3://bucket/a=b")]
    assert names("b=x", "y") == [("b", f"{here}/x"), ("default", f"{here}/y")]
    for location in ("s3://bucket/a=b", "runs/lr=0.1/best", "lr=0.1"):
        assert names(location)[0][0] == "default"
    with pytest.raises(UserError, match="the name a is that of x too; write NAME=y"):
        names("a=x", "a=y")


def test_the_settings_name_detectors_unless_the_command_does(tmp_path: Path) -> None:
    settings = ServeSettings(models={"a": str(tmp_path)}, port=1234)
    assert served([], settings).models == {"a": str(tmp_path)}
    changed = served(["b=/x"], settings)
    assert (changed.models, changed.port) == ({"b": "/x"}, 1234)


def test_files_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("keys.txt").touch()
    given = ServeSettings(keys="keys.txt", tls_certificate="c.pem", tls_key="k.pem")
    settings = served(["x"], given)
    assert settings.keys == str(tmp_path / "keys.txt")
    assert settings.tls_certificate == str(tmp_path / "c.pem")
    assert settings.tls_key == str(tmp_path / "k.pem")
