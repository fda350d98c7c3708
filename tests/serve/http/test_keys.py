from __future__ import annotations

import contextlib
import logging
import math
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genconvit.config import ServeSettings
from genconvit.errors import UserError
from serve.http.key_file import add_key, parse_keys, read_keys, remove_key
from serve.http.keys import Caller, Keys
from serve.http.rate_limit import BURST_S, TokenBucket
from serve.problems import ProblemError

HASH = "0" * 64


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def refused(keys: Keys, headers: dict[str, str]) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        keys.check(headers)
    return caught.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.txt"


def test_a_key_lets_its_owner_in(path: Path) -> None:
    ada, bob = add_key(path, "ada", admin=True), add_key(path, "bob")
    keys = Keys(ServeSettings(keys=str(path)))
    assert keys.check(bearer(ada)) == Caller("ada", admin=True)
    assert keys.check({"x-api-key": bob}) == Caller("bob", admin=False)
    assert keys.check({"authorization": f"bearer  {bob} "}) == Caller("bob", admin=False)
    # A proxy in front may have its own use of the first header.
    assert keys.check({"authorization": "Basic eDp5", "x-api-key": bob}).name == "bob"


@pytest.mark.parametrize(
    "headers", [{}, bearer(""), bearer("gcv_x"), {"x-api-key": HASH}, bearer("é\x00")]
)
def test_without_a_valid_key_nobody_gets_in(path: Path, headers: dict[str, str]) -> None:
    add_key(path, "ada")
    problem = refused(Keys(ServeSettings(keys=str(path))), headers)
    assert problem.status == 401
    assert "Authorization: Bearer KEY" in problem.detail
    assert problem.response().headers["www-authenticate"].startswith("Bearer")


def test_the_file_holds_no_key_and_is_read_by_its_owner_alone(path: Path) -> None:
    key = add_key(path, "ada", 30, admin=True)
    assert key.startswith("gcv_") and len(key) >= 4 + 256 / 6
    assert key not in path.read_text() and key[4:] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    [entry] = read_keys(path)
    assert (entry.name, entry.requests_per_minute, entry.admin) == ("ada", 30, True)
    assert [each.name for each in path.parent.iterdir()] == ["keys.txt"]


def test_other_lines_and_comments_stay(path: Path) -> None:
    path.write_text(f"# of the newsroom\nold  {HASH}  # until May")
    add_key(path, "new")
    assert path.read_text().startswith(f"# of the newsroom\nold  {HASH}  # until May\nnew  ")
    remove_key(path, "new")
    assert path.read_text() == f"# of the newsroom\nold  {HASH}  # until May\n"
    remove_key(path, "old")
    assert path.read_text() == "# of the newsroom\n"
    with pytest.raises(UserError, match="no key old"):
        remove_key(path, "old")


def test_a_name_is_given_once(path: Path) -> None:
    add_key(path, "ada")
    before = path.read_text()
    with pytest.raises(UserError, match="has a key ada"):
        add_key(path, "ada")
    for name in ("", "a b", "#a", "a\n", "é", "a" * 65):
        with pytest.raises(UserError, match="is no name"):
            add_key(path, name)
    for rate in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="requests a minute"):
            add_key(path, "bob", rate)
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"a  {HASH}\nb", "line 2: after the name b"),
        ("a  1234", "line 1: after the name a"),
        (f"a!  {HASH}", "line 1: 'a!' is no name"),
        (f"a  {HASH}  often", "line 1: 'often' is no number"),
        (f"a  {HASH}  nan", "line 1: 'nan' is no number"),
        (f"a  {HASH}  0 admin", "line 1: '0' is no number"),
        (f"a  {HASH}  9 9", "line 1: '9' is too much"),
        (f"\n\na  {HASH}\na  {'1' * 64}", "line 4: a is in line 3 too"),
        (f"a  {HASH}\nb  {HASH}", "line 2: 0000"),
    ],
)
def test_a_wrong_line_is_named(path: Path, text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_keys(text, path)
    assert str(caught.value).startswith(str(path))
    assert expected in str(caught.value)


@given(st.text(alphabet="a0 \t\n#.!admin\r\x00", max_size=200) | st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(UserError):
        entries = parse_keys(text, Path("keys.txt"))
        assert len({entry.name for entry in entries}) == len(entries)


def test_a_file_that_is_missing_or_wrong_stops_the_start(path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        Keys(ServeSettings(keys=str(path)))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not text"):
        Keys(ServeSettings(keys=str(path)))


def test_a_changed_file_counts_at_once(path: Path) -> None:
    ada = add_key(path, "ada")
    keys = Keys(ServeSettings(keys=str(path)))
    bob = add_key(path, "bob")
    assert keys.check(bearer(bob)).name == "bob"
    remove_key(path, "ada")
    assert refused(keys, bearer(ada)).status == 401


def test_a_damaged_file_keeps_the_old_keys(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ada = add_key(path, "ada")
    keys = Keys(ServeSettings(keys=str(path)))
    good = path.read_text()
    with caplog.at_level(logging.ERROR):
        path.write_text("ada  spilled coffee\n")
        for _ in range(3):
            assert keys.check(bearer(ada)).name == "ada"
        path.unlink()
        assert keys.check(bearer(ada)).name == "ada"
    assert len(caplog.messages) == 2
    assert "line 1" in caplog.messages[0]
    path.write_text(good.replace("ada", "eva"))
    os.utime(path, ns=(1, 1))
    assert keys.check(bearer(ada)).name == "eva"


def test_without_a_file_only_a_local_server_makes_everyone_an_admin() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert Keys(ServeSettings(host=host)).check({}) == Caller(None, admin=True)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""):
        assert Keys(ServeSettings(host=host)).check({}) == Caller(None, admin=False)


def test_a_key_that_asks_too_often_waits(path: Path) -> None:
    clock = Clock()
    ada, bob = add_key(path, "ada", 60), add_key(path, "bob")
    keys = Keys(ServeSettings(keys=str(path), requests_per_minute=120), clock)
    for _ in range(int(BURST_S)):
        keys.check(bearer(ada))
    problem = refused(keys, bearer(ada))
    assert problem.status == 429
    assert problem.retry_after_s == pytest.approx(1)
    assert problem.response().headers["retry-after"] == "1"
    for _ in range(int(2 * BURST_S)):
        keys.check(bearer(bob))
    assert refused(keys, bearer(bob)).status == 429
    remove_key(path, "bob")  # a changed file gives nobody new requests
    assert refused(keys, bearer(ada)).status == 429
    clock.now += problem.retry_after_s or 0
    keys.check(bearer(ada))


@given(
    rate=st.floats(1e-3, 1e3),
    pauses=st.lists(st.floats(0, 20) | st.just(0.0), min_size=1, max_size=150),
)
def test_no_window_of_time_lets_more_through_than_rate_and_burst(
    rate: float, pauses: list[float]
) -> None:
    now, granted = 0.0, []
    bucket = TokenBucket(rate, now)
    for pause in pauses:
        now += pause
        if bucket.take(now) == 0:
            granted.append(now)
    for first in range(len(granted)):
        for last in range(first, len(granted)):
            span = granted[last] - granted[first]
            assert last - first + 1 <= rate * span + bucket.burst + 1e-3


@given(rate=st.floats(1e-3, 1e6), asked=st.integers(1, 50), start=st.floats(0, 1e6))
def test_who_waits_as_long_as_is_asked_goes_through(rate: float, asked: int, start: float) -> None:
    bucket, now = TokenBucket(rate, start), start
    for _ in range(asked):
        wait = bucket.take(now)
        if wait:
            now += wait
            assert bucket.take(now) == 0
