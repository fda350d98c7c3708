"""The file of API keys: a line a key, `name  sha256  [requests_per_minute]  [admin]`; # comments.

It holds hashes alone, so that who reads it has no key. A key is 256 random bits, which nobody can
try out; what makes a hash slow protects passwords, which people choose, and would only cost time
with every request. So it is plain SHA-256.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from genconvit.config_serve import MODEL_NAME
from genconvit.errors import UserError
from genconvit.files import replaced_file

PREFIX = "gcv_"
"""Of every key, so that scanners for leaked secrets find it."""
MOST_PER_MINUTE = 1e9


@dataclass(frozen=True)
class KeyEntry:
    """A line of the file.

    Attributes:
        name: Whose key it is.
        digest: SHA-256 of the key, 64 hex digits.
        requests_per_minute: How often it may ask; None: as often as the server's settings say.
        admin: Whether it may change what the server does, such as reload a model.
    """

    name: str
    digest: str
    requests_per_minute: float | None = None
    admin: bool = False


def digest_of(key: str) -> str:
    """SHA-256 of a key, 64 hex digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def parse_keys(text: str, path: Path) -> list[KeyEntry]:
    """Reads the lines of a keys file.

    Raises:
        UserError: A line is wrong, or a name or key is there twice; says which line.
    """
    entries: list[KeyEntry] = []
    lines: dict[str, int] = {}
    for number, fields in _lines(text):
        entry = _entry(fields, f"{path} line {number}")
        for what in (entry.name, entry.digest):
            if what in lines:
                raise UserError(
                    f"{path} line {number}: {what} is in line {lines[what]} too; remove one."
                )
            lines[what] = number
        entries.append(entry)
    return entries


def read_keys(path: Path) -> list[KeyEntry]:
    """The keys of a file.

    Raises:
        UserError: It cannot be read, or a line is wrong.
    """
    return parse_keys(_read(path), path)


def add_key(
    path: Path, name: str, requests_per_minute: float | None = None, admin: bool = False
) -> str:
    """Makes a key and adds its hash to the file, which it makes where there is none.

    Returns:
        The key, which is nowhere else.

    Raises:
        UserError: The name is none or is there, the rate is none, or the file is wrong.
    """
    text = _read(path) if path.exists() else ""
    key = PREFIX + secrets.token_urlsafe(32)
    fields = [name, digest_of(key)]
    if requests_per_minute is not None:
        fields.append(f"{requests_per_minute:.15g}")
    if admin:
        fields.append("admin")
    _entry(fields, str(path))
    if any(entry.name == name for entry in parse_keys(text, path)):
        raise UserError(f"{path} has a key {name}; choose another name, or remove that one first.")
    _write(path, text + ("\n" if text and not text.endswith("\n") else "") + "  ".join(fields))
    return key


def remove_key(path: Path, name: str) -> None:
    """Removes a key; a server that runs refuses it from its next request on.

    Raises:
        UserError: There is no such key, or the file is wrong.
    """
    text = _read(path)
    if all(entry.name != name for entry in parse_keys(text, path)):
        raise UserError(f"{path} has no key {name}; genconvit keys list shows them all.")
    [removed] = [number for number, fields in _lines(text) if fields[0] == name]
    kept = [line for number, line in enumerate(text.split("\n"), 1) if number != removed]
    _write(path, "\n".join(kept))


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each line that is not empty."""
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.partition("#")[0].split()
        if fields:
            yield number, fields


def _entry(fields: list[str], where: str) -> KeyEntry:
    name, *others = fields
    if not re.fullmatch(MODEL_NAME, name):
        raise UserError(
            f"{where}: {name!r} is no name; use letters, digits, '.', '_' and '-', at most 64."
        )
    if not others or not re.fullmatch("[0-9a-f]{64}", others[0]):
        raise UserError(
            f"{where}: after the name {name} comes the SHA-256 of its key, 64 hex digits; "
            "genconvit keys new writes such a line."
        )
    digest, *others = others
    admin = others[-1:] == ["admin"]
    rates = others[:-1] if admin else others
    if len(rates) > 1:
        raise UserError(
            f"{where}: {rates[1]!r} is too much; write name, hash, and if need be the requests a "
            "minute and the word admin."
        )
    return KeyEntry(name, digest, _rate(rates[0], where) if rates else None, admin)


def _rate(text: str, where: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate <= MOST_PER_MINUTE:
        raise UserError(
            f"{where}: {text!r} is no number of requests a minute, from above 0 to "
            f"{MOST_PER_MINUTE:,.0f}, and not the word admin."
        )
    return rate


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"keys file {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"keys file {path} is damaged (not text); make it anew.") from error


def _write(path: Path, text: str) -> None:
    with replaced_file(path, 0o600) as aside:
        aside.write_text(text.rstrip("\n") + "\n" if text.strip() else "", encoding="utf-8")
