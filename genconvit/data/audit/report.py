"""What an audit found, from the scans of all shards: verdicts in sentences, and the numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from genconvit.config import CLASSES
from genconvit.data.audit.balance import Count, Faces, balance, balance_warnings, faces
from genconvit.data.audit.giveaways import FOLDS, Probe, probes
from genconvit.data.audit.near import near_pairs
from genconvit.data.audit.scan import ScannedClip, ShardScan
from genconvit.data.clip_table import CLIP_TABLE, ClipRecord
from genconvit.data.leakage import conflicting, copies_of, counted, leak_sentences, some
from genconvit.data.shards import FrameDataset


class Crop(BaseModel):
    """Where a crop lies, and of which clip it is."""

    clip: str
    label: str
    method: str
    group: str
    split: str
    shard: str
    row: int


class Near(BaseModel):
    """Two clips with a picture in common."""

    first: Crop
    second: Crop
    bits: int
    """Difference of the two crops' fine hashes, of 256."""

    @property
    def leaks(self) -> bool:
        """Whether they lie in different splits."""
        return self.first.split != self.second.split


class Damage(BaseModel):
    """Something that cannot be read or does not agree with what is said of it."""

    shard: str
    row: int | None
    reason: str


class AuditReport(BaseModel):
    """The content of audit.json."""

    dataset: str
    digest: str
    command: str
    clips: int
    """With crops."""
    crops: int
    groups: int
    leaks: list[str]
    """Sentences; any makes the exit code 1."""
    damaged: list[str]
    """Sentences; any makes the exit code 1."""
    warnings: list[str]
    notes: list[str]
    near: list[Near]
    damage: list[Damage]
    balance: list[Count]
    faces: Faces
    probes: list[Probe]
    """Empty where there are too few groups."""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing leaks and nothing is damaged."""
        return not self.leaks and not self.damaged


def audit_report(
    dataset: FrameDataset, scans: Iterable[ShardScan], command: str = ""
) -> tuple[AuditReport, list[Crop]]:
    """Judges a dataset by the scans of its shards.

    Args:
        dataset: The dataset.
        scans: One a shard.
        command: The command that repeats this audit.

    Returns:
        The report, and all crops that were sampled.
    """
    scans = sorted(scans, key=lambda scan: scan.path)
    records = dataset.clips()
    clips = [clip for scan in scans for clip in scan.clips]
    crops, number_of = _crops(dataset, scans)
    near = _near(scans, clips, crops, number_of)
    damage = [
        Damage(shard=_inside(dataset, problem.shard), row=problem.row, reason=problem.reason)
        for scan in scans
        for problem in scan.problems
    ]
    damage += _disagreements(records, clips)
    counts, found = balance(clips), probes(clips)
    report = AuditReport(
        dataset=dataset.path,
        digest=dataset.digest,
        command=command,
        clips=len(clips),
        crops=sum(clip.crops for clip in clips),
        groups=len({clip.group for clip in clips}),
        leaks=[*leak_sentences(records), *_near_leaks(near)],
        damaged=_damage_sentences(damage),
        warnings=[*_probe_warnings(found), *balance_warnings(counts)],
        notes=_notes(records, near, found),
        near=near,
        damage=damage,
        balance=counts,
        faces=faces(clips, records),
        probes=found,
    )
    return report, crops


def _crops(
    dataset: FrameDataset, scans: Sequence[ShardScan]
) -> tuple[list[Crop], NDArray[np.int64]]:
    """All sampled crops, and the number of each one's clip among the clips of all scans."""
    crops, numbers, start = [], [], 0
    for scan in scans:
        path = _inside(dataset, scan.path)
        for number, row in zip(scan.clip_of.tolist(), scan.row_of.tolist(), strict=True):
            clip = scan.clips[number]
            crops.append(
                Crop(
                    clip=clip.name,
                    label=_word(clip.label),
                    method=clip.method,
                    group=clip.group,
                    split=clip.split,
                    shard=path,
                    row=row,
                )
            )
            numbers.append(start + number)
        start += len(scan.clips)
    return crops, np.array(numbers, np.int64)


def _near(
    scans: Sequence[ShardScan],
    clips: Sequence[ScannedClip],
    crops: Sequence[Crop],
    number_of: NDArray[np.int64],
) -> list[Near]:
    if not crops:
        return []
    hashed = np.flatnonzero(np.concatenate([scan.hashed for scan in scans]))
    clip_N = number_of[hashed]
    pairs = near_pairs(
        np.concatenate([scan.coarse for scan in scans])[hashed],
        np.concatenate([scan.fine for scan in scans])[hashed],
        clip_N,
        _codes([clip.group for clip in clips])[clip_N],
        _codes([clip.split for clip in clips])[clip_N],
    )
    near = [
        Near(first=crops[hashed[p.first]], second=crops[hashed[p.second]], bits=p.bits)
        for p in pairs
    ]
    return sorted(near, key=lambda pair: (not pair.leaks, pair.bits))


def _near_leaks(near: Sequence[Near]) -> list[str]:
    pairs = [pair for pair in near if pair.leaks]
    if not pairs:
        return []
    what = counted(len(pairs), "pair of clips", "pairs of clips")
    return [f"{what} in different splits look the same: {some([_named(p) for p in pairs])}."]


def _disagreements(records: Sequence[ClipRecord], clips: Sequence[ScannedClip]) -> list[Damage]:
    """Clips of which the shards say something else than clips.parquet."""
    shown: dict[str, list[tuple[str, str, str, int]]] = defaultdict(list)
    for clip in clips:
        shown[clip.name].append((_word(clip.label), clip.group, clip.split, clip.crops))
    known = {r.name: (r.label, r.group, r.split, r.crops) for r in records if r.crops}
    reasons = {}
    for name in {*shown, *known}:
        if name not in known:
            reasons[name] = f"{name} has crops in the shards and none in the table"
        elif name not in shown:
            reasons[name] = f"{name} has crops in the table and none in the shards"
        elif (found := _together(shown[name])) != known[name]:
            pairs = zip(("label", "group", "split", "crops"), known[name], found, strict=True)
            told = [
                f"{what} {said}, and {seen} in the shards"
                for what, said, seen in pairs
                if said != seen
            ]
            reasons[name] = f"{name} has {'; '.join(told)}"
    return [Damage(shard=CLIP_TABLE, row=None, reason=reasons[name]) for name in sorted(reasons)]


def _together(parts: Sequence[tuple[str, str, str, int]]) -> tuple[str, str, str, int]:
    """A clip of which several shards hold a part, as very long ones are; what differs is listed."""
    label, group, split = (
        ", ".join(dict.fromkeys(column)) for column in list(zip(*parts, strict=True))[:3]
    )
    return label, group, split, sum(part[3] for part in parts)


def _word(label: int) -> str:
    return CLASSES[label] if label in (0, 1) else str(label)


def _damage_sentences(damage: Sequence[Damage]) -> list[str]:
    rows = [item for item in damage if item.row is not None]
    tables = [item for item in damage if item.row is None and item.shard == CLIP_TABLE]
    shards = [item for item in damage if item.row is None and item.shard != CLIP_TABLE]
    sentences = []
    if shards:
        count = len({item.shard for item in shards})
        names = some([f"{item.shard} {item.reason}" for item in shards])
        sentences.append(f"{counted(count, 'shard is', 'shards are')} damaged: {names}.")
    if rows:
        names = some([f"{item.shard} row {item.row}, {item.reason}" for item in rows])
        sentences.append(f"{counted(len(rows), 'row is', 'rows are')} damaged: {names}.")
    if tables:
        names = some([item.reason for item in tables])
        them = counted(len(tables), "clip is", "clips are")
        sentences.append(f"{them} not what {CLIP_TABLE} says: {names}.")
    return sentences


def _probe_warnings(found: Sequence[Probe]) -> list[str]:
    doubt = {
        "metadata": "A detector may learn that instead of forgery",
        "spectrum": "That may be the forgery itself, or compression that differs by label",
    }
    return [
        f"{probe.name.capitalize()} alone tells fake from real with AUC {probe.auc:.2f}, above all "
        f"{best.name} (AUC {best.auc:.2f}, higher in {best.higher} clips). {doubt[probe.name]}."
        for probe in found
        if probe.high
        for best in probe.features[:1]
    ]


def _notes(
    records: Sequence[ClipRecord], near: Sequence[Near], found: Sequence[Probe]
) -> list[str]:
    notes = []
    kept = [record for record in records if record.crops]
    copies = [same for same in copies_of(kept) if len({record.split for record in same}) == 1]
    copies = [same for same in copies if not conflicting([same])]
    if copies:
        names = some([" = ".join(record.name for record in same[:2]) for same in copies])
        what = counted(len(copies), "clip is", "clips are")
        notes.append(f"{what} more than once in one split (same content): {names}.")
    within = [pair for pair in near if not pair.leaks]
    if within:
        what = counted(len(within), "pair of clips", "pairs of clips")
        notes.append(
            f"{what} of different groups in one split look the same, so those groups may belong "
            f"together: {some([_named(pair) for pair in within])}."
        )
    if not found:
        notes.append(f"Giveaways need {FOLDS} groups of each class; here are too few to say.")
    return notes


def _named(pair: Near) -> str:
    return " = ".join(f"{c.clip} ({c.label}, {c.split})" for c in (pair.first, pair.second))


def _codes(names: Sequence[str]) -> NDArray[np.int64]:
    codes: NDArray[np.int64] = np.unique(names, return_inverse=True)[1]
    return codes


def _inside(dataset: FrameDataset, path: str) -> str:
    return path.removeprefix(f"{dataset.path}/")
