"""What is trained on and judged by at once, found in the list of clips alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from genconvit.data.clip_table import ClipRecord

EXAMPLES = 3
"""So many names stand in a sentence."""


def leak_sentences(records: Iterable[ClipRecord]) -> list[str]:
    """What makes figures of these clips too good, a sentence each; none where all is well.

    That is groups in several splits, and the same file in several splits or with both labels.
    Clips without crops teach nothing. `genconvit audit` also compares what the crops look like.
    """
    kept = [record for record in records if record.crops]
    groups = groups_across_splits(kept)
    copies = copies_of(kept)
    across = [same for same in copies if len({record.split for record in same}) > 1]
    sentences = []
    if groups:
        names = some([f"{group} ({', '.join(sorted(splits))})" for group, splits in groups.items()])
        sentences.append(
            f"{counted(len(groups), 'group is', 'groups are')} in several splits: {names}."
        )
    if across:
        names = some([_pair(same) for same in across])
        sentences.append(
            f"{counted(len(across), 'clip is', 'clips are')} in several splits under other names "
            f"(same content): {names}."
        )
    torn = conflicting(copies)
    if torn:
        sentences.append(
            f"{counted(len(torn), 'clip is', 'clips are')} labelled both fake and real (same "
            f"content): {some([_pair(same) for same in torn])}."
        )
    return sentences


def groups_across_splits(records: Iterable[ClipRecord]) -> dict[str, dict[str, int]]:
    """Groups in more than one split, sorted, with their clips by split."""
    groups: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for record in records:
        groups[record.group][record.split] += 1
    return {group: dict(groups[group]) for group in sorted(groups) if len(groups[group]) > 1}


def copies_of(records: Iterable[ClipRecord]) -> list[list[ClipRecord]]:
    """Clips whose files are the same byte for byte: a list for each such file."""
    contents: dict[str, list[ClipRecord]] = defaultdict(list)
    for record in records:
        if record.content:
            contents[record.content].append(record)
    return [same for same in contents.values() if len(same) > 1]


def conflicting(copies: Iterable[Sequence[ClipRecord]]) -> list[Sequence[ClipRecord]]:
    """Of such lists, those with both labels."""
    return [same for same in copies if len({record.label for record in same}) > 1]


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - EXAMPLES
    return ", ".join(names[:EXAMPLES]) + (f" and {more} more" if more > 0 else "")


def counted(count: int, one: str, many: str) -> str:
    """A number with its word: "1 clip", "2 clips"."""
    return f"{count:,} {one if count == 1 else many}"


def _pair(same: Sequence[ClipRecord]) -> str:
    """Two of the clips, of different splits and labels where there are any."""
    first = same[0]
    other = max(same[1:], key=lambda r: (r.split != first.split, r.label != first.label))
    return " = ".join(f"{r.name} ({r.label}, {r.split})" for r in (first, other))
