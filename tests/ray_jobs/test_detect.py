from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_jobs.cli import main
from tests.little_server import LittleServer, busy, hang_up, little_server


@pytest.fixture(scope="module")
def running() -> Iterator[LittleServer]:
    with little_server() as server:
        yield server


@pytest.fixture
def server(running: LittleServer, monkeypatch: pytest.MonkeyPatch) -> LittleServer:
    running.asked.clear(), running.troubles.clear(), running.received.clear(), running.jobs.clear()
    running.key = None
    monkeypatch.delenv("GENCONVIT_API_KEY", raising=False)
    return running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "good.mp4").write_bytes(bytes(1000))
    (folder / "letter.mp4").write_text("Dear reader")
    return folder


def ask(
    capsys: pytest.CaptureFixture[str], server: LittleServer, *arguments: object
) -> tuple[int, str, str]:
    code = 0
    try:
        main(["detect", "--url", server.url, *map(str, arguments)])
    except SystemExit as error:
        code = int(error.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize("way", [[], ["--job"]])
def test_an_object_a_clip_and_failures_do_not_stop_the_rest(
    capsys: pytest.CaptureFixture[str], server: LittleServer, folder: Path, way: list[str]
) -> None:
    code, out, err = ask(capsys, server, folder, folder / "none.mp4", "--json", *way)
    assert code == 0
    lines = {line["clip"]: line for line in map(json.loads, out.splitlines())}
    assert lines[str(folder / "good.mp4")]["verdict"] == "FAKE"
    assert "neither a video" in lines[str(folder / "letter.mp4")]["error"]
    assert "does not exist" in lines[str(folder / "none.mp4")]["error"]
    assert len(lines) == 3
    assert len(err.splitlines()) == 2


def test_people_see_what_predict_shows(
    capsys: pytest.CaptureFixture[str], server: LittleServer, folder: Path
) -> None:
    code, out, _ = ask(capsys, server, folder / "good.mp4")
    assert code == 0
    for part in ("▲ FAKE", "P(fake) 0.90", "over 2 faces", "track 0", str(folder)[:20]):
        assert part in out


def test_what_is_asked_for_reaches_the_server(
    capsys: pytest.CaptureFixture[str], server: LittleServer, folder: Path
) -> None:
    given = ("--frames", 3, "--aggregation", "max", "--model", "b")
    ask(capsys, server, folder / "good.mp4", *given)
    ask(capsys, server, folder / "good.mp4", *given, "--job")
    assert server.asked[:2] == [
        "POST /v1/detect?frames=3&aggregation=max&model=b",
        "POST /v1/jobs?frames=3&aggregation=max&model=b",
    ]


def test_a_job_leaves_nothing_on_the_server(
    capsys: pytest.CaptureFixture[str], server: LittleServer, folder: Path
) -> None:
    code, _, _ = ask(capsys, server, folder / "good.mp4", "--job")
    assert code == 0
    assert server.asked[-1].startswith("DELETE /v1/jobs/")
    assert not server.jobs


def test_the_key_comes_from_a_file_or_the_environment(
    capsys: pytest.CaptureFixture[str],
    server: LittleServer,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.key = "gcv_secret"
    code, _, err = ask(capsys, server, folder)
    assert (code, err) == (2, "error: this server asks for an API key.\n")
    assert len(server.asked) == 1  # no other clip would fare better
    monkeypatch.setenv("GENCONVIT_API_KEY", "gcv_secret")
    assert ask(capsys, server, folder / "good.mp4")[0] == 0
    monkeypatch.setenv("GENCONVIT_API_KEY", "gcv_another")
    (tmp_path / "key").write_text("gcv_secret\n")
    assert ask(capsys, server, folder / "good.mp4", "--key-file", tmp_path / "key")[0] == 0


def test_a_server_that_breaks_ends_it_with_all_that_is_known(
    capsys: pytest.CaptureFixture[str], server: LittleServer, folder: Path
) -> None:
    server.troubles = [busy(413, None), hang_up]
    code, out, err = ask(capsys, server, folder / "letter.mp4", folder / "good.mp4", "--job")
    assert code == 2
    assert [line.partition(":")[0] for line in err.splitlines()] == ["warning", "error"]
    assert "letter.mp4: the server is busy" in err  # whose sentence does not name the clip
    assert not out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["letter.mp4"], "letter.mp4 is neither"),
        (["none.mp4"], "does not exist"),
        (["https://example.org/a.mp4"], "takes files, not addresses"),
        (["good.mp4", "--aggregation", "mode"], "give one of mean, median"),
        (["good.mp4", "--key-file", "none.txt"], "--key-file none.txt cannot be read"),
        (["good.mp4", "--key-file", "empty.txt"], "--key-file empty.txt is empty"),
        (["good.mp4", "--key-file", "letter.mp4"], "the API key has characters"),
        (["good.mp4", "--url", "localhost"], "no server's address"),
        (["good.mp4", "--ca-file", "letter.mp4"], "letter.mp4 holds no certificates"),
    ],
)
def test_bad_input_ends_with_2_and_one_sentence(
    capsys: pytest.CaptureFixture[str],
    server: LittleServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(folder)
    (folder / "empty.txt").touch()
    code, out, err = ask(capsys, server, *arguments)
    assert code == 2
    assert expected in err
    assert len(err.splitlines()) == 1
    assert not out


def test_it_starts_without_what_only_a_detector_needs(folder: Path) -> None:
    script = (
        "import sys; from ray_jobs.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'sklearn', 'cv2', 'pandas', 'fastapi'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, "detect", "--key-file", "none.txt", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "none.txt cannot be read" in done.stderr
    assert done.stdout == "[]\n"
