"""A clip of a dataset, and what its name alone tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Label = Literal["real", "fake"]
Split = Literal["train", "val", "test"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts"}
    | {".m2ts", ".flv", ".wmv", ".ogv", ".mxf", ".gif"}
)
LABELS: dict[str, Label] = {"real": "real", "fake": "fake"}
SPLITS: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}

# At the end of a stem or all of it: `_003`, `_img3` and the like; `frame3` also right after a word.
_FRAME_NUMBER = re.compile(
    r"((^|[_\-. ]+)((img|image|face|crop|photo)[_\-. ]*)?|[_\-. ]*frame[_\-. ]*)\d+$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Clip:
    """A video, still image or folder of frames. The words that are not known are empty."""

    path: Path | str
    """On this machine a Path. Behind a URL the URL itself, which a Path would spoil."""
    name: str
    """Unique in its dataset: the path relative to the dataset, with forward slashes."""
    label: Label | None = None
    group: str = ""
    """Clips that share a person or a source. Splits never divide a group."""
    method: str = ""
    source: str = ""
    split: Split | None = None
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What else a list of clips says of it, by column."""


def suffix_of(name: str) -> str:
    """The suffix of a name with forward slashes, in lower case; empty where it has none."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def default_group(path: Path, root: Path | None = None) -> str:
    """The group of a clip of which nothing else is known.

    For a video it is the file's stem, so `real/a.mp4` and `fake/a.mp4` belong together. Images may
    be frames of one video, which must not be divided, so one trailing frame number is left out:
    `video7_003.png` and `id0_1_frame12.png` give `video7` and `id0_1`. `000_003.png` may be frame 3
    of video 000 or a FaceForensics++ pair; `000` is safe for both. A number without a video's name
    (`0001.png`, `frame_12.png`, `real_7.jpg`) gives the folder that it lies in below `root`, or its
    stem when it lies in `root` itself. A CSV with groups is surer than any of this.

    Args:
        path: The clip.
        root: The folder of its label, or of the dataset where there are no labels.
    """
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return path.stem
    video = _FRAME_NUMBER.sub("", path.stem)
    if video and video.lower() not in LABELS:
        return video
    if root is not None and path.parent != root and path.is_relative_to(root):
        return path.parent.relative_to(root).as_posix()
    if root is not None and root.parent.name.lower() in SPLITS:
        return f"{root.parent.name.lower()}/{path.stem}"
    return path.stem


def label_at(folders: list[str]) -> int | None:
    """Which of the folders on the way to a clip is the outermost `real` or `fake`."""
    return next((i for i, folder in enumerate(folders) if folder.lower() in LABELS), None)
