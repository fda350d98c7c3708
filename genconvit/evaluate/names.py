"""Short names for detectors and datasets that are shown side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath


def short_names(locations: Sequence[str]) -> list[str]:
    """The end of each path or URL, as long as it must be to tell them apart.

    A last part `best` is left out: training calls every detector so, and the run's name says more.

    Args:
        locations: All different.
    """
    parts = [_parts(location) for location in locations]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return list(locations)


def _parts(location: str) -> tuple[str, ...]:
    parts = PurePosixPath(location.rpartition("://")[2]).parts
    return parts[:-1] if parts[1:] and parts[-1] == "best" else parts
