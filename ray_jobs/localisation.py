"""Whether a detector knows where in a clip: it judges clips that are forged in part."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from genconvit.data.catalog import Clip
from genconvit.errors import UserError
from genconvit.evaluate.evaluated import EvaluatedClip
from genconvit.evaluate.localisation.localise import LocalisationScores, localisation_scores
from genconvit.evaluate.localisation.splice import SwapPair, swap_pairs, write_splices
from genconvit.verdict import Verdict

SPLICES = ".splices"
"""Folder for the spliced clips, where all nodes see it; nothing is left of it."""
MOST_PAIRS = 100
"""Each becomes a film, of which the driver writes one after the other."""


def pairs_of(clips: Sequence[Clip]) -> list[SwapPair]:
    """Each fake clip with the real one that it was made from.

    Args:
        clips: With labels and groups, as files of this machine.

    Raises:
        UserError: No fake clip has a real one in its group.
    """
    pairs = swap_pairs(clips)
    if len(pairs) > MOST_PAIRS:
        pairs = random.Random(0).sample(pairs, MOST_PAIRS)
    if not pairs:
        raise UserError(
            "--localisation splices a fake clip with the real one of its group, and no fake clip "
            "has one; give a CSV with groups, or leave it out."
        )
    return pairs


def measure_localisation(
    pairs: Sequence[SwapPair],
    judge: Callable[[list[Clip]], list[EvaluatedClip]],
    out: Path,
    seed: int,
) -> LocalisationScores:
    """Splices pairs and has the clips judged.

    Args:
        pairs: Of `pairs_of`.
        judge: Judges clips.
        out: A folder that every node sees; it is made.
        seed: Where the clips are cut.

    Raises:
        UserError: None could be spliced and judged.
    """
    folder = (out / SPLICES).resolve()
    shutil.rmtree(folder, ignore_errors=True)  # of an evaluation that was killed
    folder.mkdir(parents=True)
    try:
        spliced, failures = write_splices(pairs, folder, seed)
        made = {clip.path.name: clip for clip in spliced}
        rows = judge([Clip(clip.path, name) for name, clip in made.items()])
    finally:
        shutil.rmtree(folder)
    verdicts: dict[str, Verdict] = {row.name: row.verdict for row in rows if row.verdict}
    failures += [row.failure.replace(f"{folder}/", "") for row in rows if row.failure]
    truths = [replace(made[name], path=Path(name)) for name in verdicts]
    return localisation_scores(truths, list(verdicts.values()), failures, seed=seed)
