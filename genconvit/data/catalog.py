"""Finding the clips of a dataset, with their labels, groups and splits."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

from genconvit.data.clip import LABELS, SPLITS, label_at
from genconvit.data.clip import Clip as Clip
from genconvit.data.clip import Label as Label
from genconvit.data.clip import Split as Split
from genconvit.data.clip import default_group as default_group
from genconvit.data.layout_rules import Reading, bases_of, groups_of, read_layout
from genconvit.data.layouts import DEEPFAKETIMIT, FACEFORENSICS, LAYOUTS
from genconvit.data.manifest_files import MANIFEST_SUFFIXES, read_manifest
from genconvit.data.tree import Tree, join
from genconvit.errors import UserError
from genconvit.storage import is_url, list_files


@dataclass(frozen=True)
class Catalog:
    """A dataset: its clips, and what its own lists say of it."""

    layout: str
    """`folder`, `csv`, `json`, `jsonl`, `clip`, or the names of known layouts."""
    clips: list[Clip]
    missing: list[str] = field(default_factory=list)
    """Files that the layout's lists name, and are not there."""
    notes: list[str] = field(default_factory=list)
    """What a user must know, a sentence each."""


def find_clips(path: str | Path) -> list[Clip]:
    """The clips of a dataset: those of `read_catalog`.

    Raises:
        UserError: The path does not exist, holds no clip, or a list of clips is wrong.
    """
    clips = read_catalog(path).clips
    for clip in clips:
        if _is_no_text(clip.name):
            raise UserError(f"{path} has a file whose name is not UTF-8: {clip.name!a}; rename it")
    return clips


def _is_no_text(name: str) -> bool:
    """Whether a name has bytes that are no UTF-8, which no table can hold."""
    return any("\ud800" <= letter <= "\udfff" for letter in name)


def read_catalog(path: str | Path) -> Catalog:
    """Find the clips of a dataset, and tell how it is laid out.

    A dataset is one of:

    - a folder with the files of a known dataset, or of several: see `layouts.py`;
    - any other folder: every video and image in it, at any depth. A folder `real` or `fake` on the
      way to a clip (the outermost one) is its label, and a folder `train`, `val` or `test` directly
      around that is its split;
    - a CSV, JSON or JSONL file with `video_name` (or `path`), `label` and perhaps `group`,
      `method`, `source`, `split` and others. Names are relative to the file's folder. Files that
      are missing are left to fail one by one, unless all are;
    - one clip, whatever its name.

    Where no group is given, `default_group` makes one.

    Args:
        path: A path, or any fsspec URL.

    Returns:
        The clips, ordered by name; those of a CSV in its order.

    Raises:
        UserError: The path does not exist, holds no clip, or a list of clips is wrong.
    """
    suffix = Path(str(path)).suffix.lower()
    if is_url(path):
        files = {} if suffix in MANIFEST_SUFFIXES else list_files(str(path))
        is_folder, is_file = bool(files) and "" not in files, bool(files)
    else:
        path = Path(path)
        is_folder, is_file = path.is_dir(), path.is_file()
    if is_folder:
        return _folder(path)
    if suffix in MANIFEST_SUFFIXES:
        return Catalog(suffix[1:], _clips_of_manifest(path))
    if not is_file:
        raise UserError(f"{path} does not exist; check the path")
    pure = _pure(path)
    return Catalog("clip", [Clip(path, pure.name, group=default_group(pure))])


def attach_labels(clips: list[Clip], csv_path: str | Path) -> list[Clip]:
    """Give clips the labels of a CSV, and its groups, methods, sources, splits and other columns
    where it has them.

    A row's `video_name` is looked for relative to the CSV's folder, then among the clips' names
    (relative to their folder), then among the ends of their paths, where only one clip may fit: a
    file name alone will do, and another folder will not. JSON and JSONL files do as well.

    Returns:
        The clips in their order, those without a row without a label; then the rows whose files
        are missing, left to fail one by one.

    Raises:
        UserError: The CSV is wrong, a row fits several clips, two rows fit one, or no row fits any.
    """
    rows = read_manifest(csv_path)
    for row in rows:
        if row.label is None:
            raise UserError(f"{csv_path} has no label for {row.name}; write real or fake")
    by_path = {_resolved(clip): clip for clip in clips}
    by_name = {clip.name: clip for clip in clips}
    by_file: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        by_file[_pure(clip.path).name].append(clip)
    labelled: dict[str, Clip] = {}
    missing: dict[str, Clip] = {}
    for row in rows:
        found = by_path.get(_resolved(row)) or by_name.get(row.name)
        fitting = [found] if found else [c for c in by_file[Path(row.name).name] if _ends(c, row)]
        if len(fitting) > 1:
            raise UserError(
                f"{csv_path} has {row.name}, and {len(fitting)} clips have that file name; "
                "write its path relative to the CSV"
            )
        name = fitting[0].name if fitting else row.name
        if name in labelled or name in missing:
            raise UserError(f"{csv_path} labels the clip {name} twice; remove a row")
        if fitting:
            given = {
                key: value
                for key in ("label", "group", "method", "source", "split")
                if (value := getattr(row, key))
            }
            columns = {**fitting[0].columns, **row.columns}
            labelled[name] = replace(fitting[0], **given, columns=columns)
        else:
            missing[name] = row
    if not labelled:
        raise UserError(
            f"none of the {len(rows)} names in {csv_path} is that of a clip, "
            f"the first is {rows[0].name}; write paths relative to the CSV"
        )
    ours = (labelled.get(clip.name, replace(clip, label=None)) for clip in clips)
    return [*ours, *missing.values()]


def _ends(clip: Clip, row: Clip) -> bool:
    """Whether a clip's path ends in the name of a row, folder by folder."""
    return f"/{_pure(clip.path).as_posix()}".endswith(f"/{row.name}")


def _resolved(clip: Clip) -> Path | str:
    return clip.path.resolve() if isinstance(clip.path, Path) else clip.path


def _pure(path: str | Path) -> Path:
    """A path to take names of: of a URL what comes after the scheme."""
    return Path(str(path).rpartition("://")[2])


def _folder(path: str | Path) -> Catalog:
    tree = Tree(path)
    known = _known_layouts(tree)
    if known is not None:
        return known
    if not tree.names:
        raise UserError(f"no video or image is in the folder {path}; check the path")
    return Catalog("folder", _plain_clips(tree))


def _known_layouts(tree: Tree) -> Catalog | None:
    """What the known layouts say of a folder; None where none of them knows a clip in it."""
    places = tree.places()
    layouts: list[str] = []
    readings: list[Reading] = []
    taken: set[str] = set()
    for layout in LAYOUTS:
        for base in bases_of(layout, tree, places):
            reading = read_layout(layout, tree, base)
            reading.entries = [entry for entry in reading.entries if entry.name not in taken]
            if reading.entries:
                taken.update(reading.left_out, (entry.name for entry in reading.entries))
                layouts.append(layout.name)
                readings.append(reading)
    if not readings:
        return None
    groups = groups_of(readings)
    clips = [
        Clip(
            join(tree.location, entry.name),
            entry.name,
            entry.label,
            groups[entry.keys[0]],
            entry.method,
            entry.source,
            entry.split,
        )
        for reading in readings
        for entry in reading.entries
    ]
    clips.sort(key=lambda clip: clip.name)
    name = " + ".join(dict.fromkeys(layouts))
    notes = [*dict.fromkeys(note for reading in readings for note in reading.notes)]
    notes += _more_notes(name, clips)
    others = [n for n in tree.names if n not in taken and n.rpartition("/")[0] not in taken]
    if others:
        notes.append(
            f"{len(others)} videos or images do not belong to {name} by its lists and names and "
            f"are left out, such as {others[0]}."
        )
    missing = sorted(file for reading in readings for file in reading.missing)
    return Catalog(name, clips, missing, notes)


def _more_notes(name: str, clips: list[Clip]) -> list[str]:
    notes = []
    if FACEFORENSICS.name in name and any(clip.group.startswith("actor_") for clip in clips):
        notes.append(
            "DeepFakeDetection: groups are the target actors, without an official split; the "
            "actors that are swapped in appear in other groups too."
        )
    if name == DEEPFAKETIMIT.name and all(clip.label == "fake" for clip in clips):
        notes.append("DeepfakeTIMIT has only fakes; put VidTIMIT beside it for the real videos.")
    return notes


def _plain_clips(tree: Tree) -> list[Clip]:
    top = _pure(tree.location)
    roots: dict[str, Path] = {"": top}  # the folders of the labels
    clips = []
    for name in tree.names:
        folders = name.split("/")[:-1]
        at = label_at(folders)
        label = split = None
        way = ""
        if at is not None:
            label = LABELS[folders[at].lower()]
            split = SPLITS.get(folders[at - 1].lower()) if at > 0 else None
            way = "/".join(folders[: at + 1])
        if way not in roots:
            roots[way] = top / way
        path = top / name
        group = default_group(path, roots[way])
        location = join(tree.location, name) if is_url(tree.location) else path
        clips.append(Clip(location, name, label, group, split=split))
    return clips


def _clips_of_manifest(location: str | Path) -> list[Clip]:
    clips = read_manifest(location)
    twice = [name for name, rows in Counter(clip.name for clip in clips).items() if rows > 1]
    if twice:
        raise UserError(f"{location} names {twice[0]} more than once; remove a row")
    if not any(isinstance(clip.path, str) or clip.path.exists() for clip in clips):
        raise UserError(
            f"none of the {len(clips)} clips in {location} exists, the first is {clips[0].path}; "
            f"write their paths relative to the {_pure(location).suffix[1:].upper()}"
        )
    folder = _pure(location).parent
    return [
        clip if clip.group else replace(clip, group=_group_of_row(clip, folder)) for clip in clips
    ]


def _group_of_row(clip: Clip, folder: Path) -> str:
    folders = clip.name.split("/")[:-1]
    at = label_at(folders)
    root = folder if at is None else folder.joinpath(*folders[: at + 1])
    return default_group(_pure(clip.path), root)
