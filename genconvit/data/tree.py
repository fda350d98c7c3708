"""The files of a dataset, on this machine or behind a URL, by their relative names."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

from genconvit.data.clip import IMAGE_SUFFIXES, VIDEO_SUFFIXES, suffix_of
from genconvit.errors import UserError
from genconvit.storage import is_url, list_files, read_remote

_MEDIA = IMAGE_SUFFIXES | VIDEO_SUFFIXES
_LISTS = frozenset({".json", ".txt"})
_ABOVE = 4  # manipulated_sequences/Deepfakes/c23/videos: a user may point at the innermost


class Tree:
    """The videos, images and lists below a folder, without hidden files, through linked folders.

    A layout may be recognised by folders above the one that the user points at. So a place in the
    tree is named by its path from some folders further up: `inside` is the way from there.

    Args:
        location: The folder, or its URL.

    Raises:
        UserError: The store behind the URL refuses.
    """

    def __init__(self, location: str | Path) -> None:
        self.location = location
        found = (
            _visible(list(list_files(str(location)))) if is_url(location) else _walk(str(location))
        )
        self.names: list[str] = []
        """Videos and images, relative to the folder, sorted."""
        self.lists: list[str] = []
        """Files that may list clips."""
        for name in found:
            suffix = suffix_of(name)
            if suffix in _MEDIA:
                self.names.append(name)
            elif suffix in _LISTS:
                self.lists.append(name)
        self.names.sort()
        self._top, self.inside = _split_above(location)

    def places(self) -> list[str]:
        """Every folder with a clip, ending in a slash, and every list, from further up."""
        folders = {name[: name.rfind("/") + 1] for name in self.names}
        return [self.inside + name for name in sorted(folders | set(self.lists))]

    def below(self, base: str) -> Iterator[tuple[str, str]]:
        """The clips below a place: their names, and their paths relative to the place."""
        prefix = base + "/" if base else ""
        if self.inside.startswith(prefix):
            lead = self.inside[len(prefix) :]
            for name in self.names:
                yield name, lead + name
            return
        prefix = prefix[len(self.inside) :]
        for index in range(bisect_left(self.names, prefix), len(self.names)):
            name = self.names[index]
            if not name.startswith(prefix):
                return
            yield name, name[len(prefix) :]

    def read(self, place: str) -> str | None:
        """The text of a file, from further up; None where there is none.

        Raises:
            UserError: It is not text in UTF-8.
        """
        content = read_bytes(join(self._top, place))
        return None if content is None else decode(content, place)

    def named(self, base: str, below: str) -> str | None:
        """The name of a clip by its path from a place; None where it lies outside of the folder."""
        place = f"{base}/{below}" if base else below
        return place[len(self.inside) :] if place.startswith(self.inside) else None


def join(folder: str | Path, name: str) -> Path | str:
    """The location of a file by its folder's and its name, which may be a location itself."""
    if is_url(name):
        return name
    if is_url(folder):
        return f"{folder}{'' if str(folder).endswith('/') else '/'}{name}"
    return Path(folder, name)


def read_bytes(location: str | Path) -> bytes | None:
    """The content of a file here or behind a URL; None where there is no file."""
    if is_url(location):
        folder, _, name = str(location).rpartition("/")
        return read_remote(folder, name)
    return Path(location).read_bytes() if Path(location).is_file() else None


def decode(content: bytes, name: str | Path) -> str:
    """The text of a file.

    Raises:
        UserError: It is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not text in UTF-8; save it as such") from error


def _walk(folder: str) -> Iterator[str]:
    for parent, _, files in os.walk(folder, followlinks=True):
        way = os.path.relpath(parent, folder).replace(os.sep, "/")
        lead = "" if way == "." else way + "/"
        yield from (lead + file for file in _visible(files))


def _visible(names: list[str]) -> Iterator[str]:
    return (name for name in names if not name.rpartition("/")[2].startswith("."))


def _split_above(location: str | Path) -> tuple[str, str]:
    """A location a few folders further up, and the way from there, ending in a slash or empty."""
    scheme, mark, path = str(location).rpartition("://")
    if not mark:
        path = os.path.abspath(path)  # noqa: PTH100  links stay: their names may tell the layout
    fixed, *folders = path.replace(os.sep, "/").rstrip("/").split("/")  # the bucket, or the root
    above = folders[-_ABOVE:]
    top = "/".join([fixed, *folders[: len(folders) - len(above)]]) or "/"
    return scheme + mark + top, "".join(part + "/" for part in above)
