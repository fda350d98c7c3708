"""Who may ask, and how often: API keys in the header of a request."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from genconvit.config_serve import ServeSettings
from genconvit.errors import UserError
from serve.http.key_file import KeyEntry, digest_of, read_keys
from serve.http.rate_limit import TokenBucket
from serve.problems import ProblemError

logger = logging.getLogger(__name__)

_HINT = "send the header Authorization: Bearer KEY."


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        name: Name of the key; None where no key is needed.
        admin: Whether it may change what the server does, such as reload a model.
    """

    name: str | None
    admin: bool


def is_local(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Keys:
    """The keys of a server; called from one thread, which an event loop is.

    The file is read again when it changes. One that is damaged or gone leaves the keys as they
    were, so that a slip of the pen locks nobody out, and is told in the log once.

    Args:
        settings: The keys file and the usual rate. Without a file everyone may ask, and who can
            reach the server only from its own machine is an admin.
        clock: Seconds; never goes back.

    Raises:
        UserError: The keys file cannot be read, or a line is wrong.
    """

    def __init__(
        self, settings: ServeSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = Path(settings.keys) if settings.keys else None
        self._requests_per_minute = settings.requests_per_minute
        self._anyone = Caller(None, admin=is_local(settings.host))
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}
        self._entries: list[KeyEntry] = []
        if self._path is not None:
            self._version = _version_of(self._path)
            self._entries = read_keys(self._path)

    def check(self, headers: Mapping[str, str]) -> Caller:
        """Lets a request in, and counts it.

        Args:
            headers: By lower-case name, or any case where the mapping does not care.

        Raises:
            ProblemError: 401 without a valid key, 429 where it asks too often.
        """
        if self._path is None:
            return self._anyone
        self._read_again_if_changed(self._path)
        key = _key_in(headers)
        if key is None:
            raise ProblemError(401, f"this server asks for an API key; {_HINT}", "no key")
        entry = self._find(key)
        if entry is None:
            raise ProblemError(401, f"this server does not know the API key; {_HINT}", "wrong key")
        wait_s = self._bucket(entry).take(self._clock())
        if wait_s > 0:
            rate = self._rate(entry)
            raise ProblemError(
                429,
                f"the key {entry.name} may ask {rate:g} times a minute; ask again in "
                f"{wait_s:.1f} seconds.",
                "rate limit",
                retry_after_s=wait_s,
            )
        return Caller(entry.name, entry.admin)

    def _find(self, key: str) -> KeyEntry | None:
        """The entry of a key; which one it is, and how much of a hash fits, takes no other time."""
        digest, found = digest_of(key), None
        for entry in self._entries:
            if hmac.compare_digest(entry.digest, digest):
                found = entry
        return found

    def _rate(self, entry: KeyEntry) -> float:
        return entry.requests_per_minute or self._requests_per_minute

    def _bucket(self, entry: KeyEntry) -> TokenBucket:
        """What a key has left; a changed file changes it only where the key's rate changes."""
        rate_per_s = self._rate(entry) / 60
        bucket = self._buckets.get(entry.digest)
        if bucket is None or bucket.rate_per_s != rate_per_s:
            bucket = self._buckets[entry.digest] = TokenBucket(rate_per_s, self._clock())
        return bucket

    def _read_again_if_changed(self, path: Path) -> None:
        version = _version_of(path)
        if version == self._version:
            return
        # Before it is read: what changes meanwhile is another version, and is read next time.
        self._version = version
        try:
            self._entries = read_keys(path)
        except UserError as error:
            logger.error("The API keys stay as they were: %s", error)
            return
        known = {entry.digest for entry in self._entries}
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if key in known}
        logger.info("Read %d API keys from %s.", len(known), path)


def _key_in(headers: Mapping[str, str]) -> str | None:
    scheme, _, key = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key", "").strip() or None


def _version_of(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is written or replaced; None where it cannot be looked at."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
