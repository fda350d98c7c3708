"""Finding the clips of a dataset on disk, with their labels, groups and splits."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from genconvit.errors import UserError

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


@dataclass(frozen=True)
class Clip:
    """A video or still image of a dataset. The words that are not known are empty."""

    path: Path
    name: str
    """Unique in its dataset: the path relative to the dataset, with forward slashes."""
    label: Label | None = None
    group: str = ""
    """Clips that share a person or a source. Splits never divide a group."""
    method: str = ""
    source: str = ""
    split: Split | None = None


def find_clips(path: str | Path) -> list[Clip]:
    """Find the clips of a dataset.

    A dataset is one of:

    - a folder: every video and image in it, at any depth. A folder `real` or `fake` on the way to a
      clip (the outermost one) is its label, and a folder `train`, `val` or `test` directly around
      that is its split;
    - a CSV with the columns `video_name,label` and perhaps `group,method,source,split`. Names are
      relative to the CSV's folder. Files that are missing are left to fail one by one, unless all
      are;
    - one clip, whatever its name.

    Where no group is given, `default_group` makes one.

    Returns:
        The clips, ordered by name; those of a CSV in its order.

    Raises:
        UserError: The path does not exist, holds no clip, or the CSV is wrong.
    """
    path = Path(path)
    if path.is_dir():
        clips = [_clip_in_folder(path, file) for file in sorted(_walk(path))]
        if not clips:
            raise UserError(f"no video or image is in the folder {path}; check the path")
        return clips
    if not path.is_file():
        raise UserError(f"{path} does not exist; check the path")
    if path.suffix.lower() == ".csv":
        return _clips_of_csv(path)
    return [Clip(path, path.name, group=default_group(path))]


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


def attach_labels(clips: list[Clip], csv_path: str | Path) -> list[Clip]:
    """Give clips the labels of a CSV, and its groups, methods, sources and splits where it has
    them.

    A row's `video_name` is looked for relative to the CSV's folder, then among the clips' names
    (relative to their
    folder), then among their file names alone, where only one clip may have it.

    Returns:
        The clips in their order, those without a row without a label; then the rows whose files
        are missing, left to
        fail one by one.

    Raises:
        UserError: The CSV is wrong, a row fits several clips, two rows fit one, or no row fits any.
    """
    csv_path = Path(csv_path)
    if not csv_path.is_file():
        raise UserError(f"{csv_path} does not exist; check the path")
    rows = list(_read_rows(csv_path))
    by_path = {clip.path.resolve(): clip for clip in clips}
    by_name = {clip.name: clip for clip in clips}
    files = Counter(clip.path.name for clip in clips)
    by_file = {clip.path.name: clip for clip in clips}
    labelled: dict[str, Clip] = {}
    missing: list[Clip] = []
    for row in rows:
        file = Path(row.name).name
        clip = by_path.get(row.path.resolve()) or by_name.get(row.name)
        if clip is None and files[file] > 1:
            raise UserError(
                f"{csv_path} has {row.name}, and {files[file]} clips have that file name; "
                "write its path relative to the CSV"
            )
        clip = clip or by_file.get(file)
        if clip is None:
            missing.append(row)
        elif clip.name in labelled:
            raise UserError(f"{csv_path} labels the clip {clip.name} twice; remove a row")
        else:
            given = {
                key: value
                for key in ("label", "group", "method", "source", "split")
                if (value := getattr(row, key))
            }
            labelled[clip.name] = replace(clip, **given)
    if not labelled:
        raise UserError(
            f"none of the {len(rows)} names in {csv_path} is that of a clip, "
            f"the first is {missing[0].name}; write paths relative to the CSV"
        )
    return [labelled.get(clip.name, replace(clip, label=None)) for clip in clips] + missing


def _walk(folder: Path) -> Iterator[Path]:
    """Videos and images below a folder, through linked folders too, without hidden files."""
    for parent, _, files in os.walk(folder, followlinks=True):
        for file in files:
            path = Path(parent, file)
            known = path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
            if known and not file.startswith("."):
                yield path


def _clip_in_folder(folder: Path, file: Path) -> Clip:
    relative = file.relative_to(folder)
    at = _label_at(relative)
    clip = _with_default_group(Clip(file, relative.as_posix()), folder)
    if at is None:
        return clip
    split = SPLITS.get(relative.parts[at - 1].lower()) if at > 0 else None
    return replace(clip, label=LABELS[relative.parts[at].lower()], split=split)


def _label_at(relative: Path) -> int | None:
    """Which of the folders on the way to a file is the outermost `real` or `fake`."""
    parents = enumerate(relative.parts[:-1])
    return next((i for i, part in parents if part.lower() in LABELS), None)


def _group_root(folder: Path, relative: Path) -> Path:
    at = _label_at(relative)
    return folder if at is None else folder.joinpath(*relative.parts[: at + 1])


def _clips_of_csv(csv_path: Path) -> list[Clip]:
    clips = _read_rows(csv_path)
    twice = [name for name, rows in Counter(clip.name for clip in clips).items() if rows > 1]
    if twice:
        raise UserError(f"{csv_path} names {twice[0]} more than once; remove a row")
    if not any(clip.path.is_file() for clip in clips):
        raise UserError(
            f"none of the {len(clips)} clips in {csv_path} exists, the first is {clips[0].path}; "
            "write their paths relative to the CSV"
        )
    return [clip if clip.group else _with_default_group(clip, csv_path.parent) for clip in clips]


def _with_default_group(clip: Clip, folder: Path) -> Clip:
    return replace(clip, group=default_group(clip.path, _group_root(folder, Path(clip.name))))


def _read_rows(csv_path: Path) -> list[Clip]:
    """The rows of a CSV as clips. Files may be missing, and groups are empty if it has none."""
    try:
        with csv_path.open(newline="", encoding="utf-8-sig") as file:
            header, *lines = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{csv_path} is not a CSV in UTF-8; save it as one") from error
    columns = [column.strip().lower() for column in header]
    if not {"video_name", "label"} <= set(columns):
        raise UserError(
            f"{csv_path} lacks the column video_name or label; its first line must name both"
        )
    clips = []
    for number, line in enumerate(lines, start=2):
        row = dict(zip(columns, (value.strip() for value in line), strict=False))
        if any(row.values()):
            clips.append(_row_to_clip(row, csv_path, number))
    if not clips:
        raise UserError(f"{csv_path} has no rows; add one for each clip")
    return clips


def _row_to_clip(row: dict[str, str], csv_path: Path, line: int) -> Clip:
    where = f"line {line} of {csv_path}"
    label = LABELS.get(row.get("label", "").lower())
    if label is None:
        raise UserError(f"{where} has the label {row.get('label', '')!r}; write real or fake")
    split_word = row.get("split", "").lower()
    if split_word and split_word not in SPLITS:
        raise UserError(f"{where} has the split {split_word!r}; write train, val or test")
    if not row.get("video_name"):
        raise UserError(f"{where} has no video_name; write the path of its clip")
    name = Path(row["video_name"])
    return Clip(
        csv_path.parent / name,
        name.as_posix(),
        label,
        group=row.get("group", ""),
        method=row.get("method", ""),
        source=row.get("source", ""),
        split=SPLITS.get(split_word),
    )
