from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.watching.logs import LOG_FILE, LOGGER, log_request, request_id_of, set_up_logs


@pytest.fixture(autouse=True)
def no_handlers_stay() -> Iterator[None]:
    yield
    for handler in list(logging.getLogger(LOGGER).handlers):
        logging.getLogger(LOGGER).removeHandler(handler)
        handler.close()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]


def test_a_request_is_one_line_in_the_file_and_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logs(tmp_path)
    log_request(
        request_id="a-1", route="/v1/detect", status=200, milliseconds=12.5, bytes=1234,
        key="desk", model="v2-base-1a2b3c4d", verdict="FAKE",
    )  # fmt: skip
    [line] = lines(tmp_path)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info", "message": "request", "request_id": "a-1", "route": "/v1/detect",
        "status": 200, "milliseconds": 12.5, "bytes": 1234, "key": "desk",
        "model": "v2-base-1a2b3c4d", "verdict": "FAKE",
    }  # fmt: skip
    assert json.loads(capsys.readouterr().err) | {"time": ""} == line | {"time": ""}


def test_a_second_set_up_writes_no_line_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logs()
    set_up_logs(tmp_path)
    log_request(request_id="a", route="/", status=200, milliseconds=1.0, bytes=0)
    assert len(lines(tmp_path)) == len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("status", "level"), [(200, "info"), (422, "info"), (503, "info"), (500, "error")]
)
def test_only_faults_of_the_server_are_errors(status: int, level: str, tmp_path: Path) -> None:
    set_up_logs(tmp_path)
    log_request(request_id="a", route="/", status=status, milliseconds=1.0, bytes=0, reason="x")
    assert lines(tmp_path)[0]["level"] == level


def test_there_is_no_place_for_a_file_name(tmp_path: Path) -> None:
    set_up_logs(tmp_path)
    with pytest.raises(TypeError):
        log_request(  # type: ignore[call-arg]
            request_id="a", route="/", status=200, milliseconds=1.0, bytes=0, clip="anna.mp4"
        )


def test_a_text_cannot_begin_a_line_of_its_own(tmp_path: Path) -> None:
    set_up_logs(tmp_path)
    forged = 'x\n{"status": 200}\u2028'
    log_request(request_id="a", route="/", status=422, milliseconds=1.0, bytes=0, reason=forged)
    [line] = lines(tmp_path)
    assert line["reason"] == forged


@given(st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True))
def test_an_id_of_the_client_is_kept(given_id: str) -> None:
    assert request_id_of(given_id) == given_id


@given(st.one_of(st.none(), st.text(max_size=80)))
def test_every_id_is_short_and_plain(given_id: str | None) -> None:
    found = request_id_of(given_id)
    assert 1 <= len(found) <= 64
    assert found.isascii()
    assert all(character.isalnum() or character in "._-" for character in found)


@pytest.mark.parametrize("bad", [None, "", "a b", "a\n", "ä", "a" * 65, "../a"])
def test_another_one_is_replaced_by_a_new_one(bad: str | None) -> None:
    assert request_id_of(bad) != request_id_of(bad)
