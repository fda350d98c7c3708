"""Clips that look the same, found by the hashes of their crops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genconvit.data.audit.hashes import distances

SAME = 48
"""Fine hashes that differ in so many bits of 256, or fewer, are of the same picture.

Measured on 160 clips: crops of different groups differ in 70 bits or more; compressed again, scaled
or brightened, in 40 or fewer; with a box moved by 2 px of 224 as well, in 48 or fewer
(docs/audit.md)."""
NEIGHBOURS = 1000
"""Where more crops than this share a part of their hash, each is compared with so many."""
MOST_PAIRS = 100_000
"""The search ends after so many pairs of crops: then the dataset is full of copies anyway."""

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class NearPair:
    """Two crops that are the same picture, the nearest of their two clips."""

    first: int
    """Index of a crop."""
    second: int
    bits: int
    """Difference of their fine hashes."""


def near_pairs(
    coarse_NB: NDArray[np.uint8],
    fine_NB: NDArray[np.uint8],
    clip_N: Codes,
    group_N: Codes,
    split_N: Codes,
) -> list[NearPair]:
    """Finds clips with a crop in common, of different splits or different groups.

    Clips of one group in one split are left out: a forgery looks like its source. Only crops that
    agree in one of the four 16-bit parts of their coarse hash are compared, so that time grows
    little faster than their number. By the pigeonhole principle that misses none whose coarse
    hashes differ in three bits or fewer (M. Norouzi et al., "Fast Search in Hamming Space with
    Multi-Index Hashing", CVPR 2012).

    Args:
        coarse_NB: (N, 8), from `perceptual_hashes`.
        fine_NB: (N, 32).
        clip_N: A number for each crop's clip.
        group_N: For its group.
        split_N: For its split.

    Returns:
        A pair for every two clips, the most alike first.
    """
    whole_N = np.ascontiguousarray(coarse_NB).view(np.uint64).ravel()
    found: list[NDArray[np.int64]] = []
    pairs = 0
    for part_N in np.ascontiguousarray(coarse_NB).view(np.uint16).T:
        order = np.lexsort((whole_N, part_N))
        part = part_N[order]
        at = np.arange(len(part))
        for step in range(1, NEIGHBOURS + 1):
            at = at[at + step < len(part)]
            at = at[part[at] == part[at + step]]
            if not at.size or pairs > MOST_PAIRS:
                break
            a, b = order[at], order[at + step]
            apart = (group_N[a] != group_N[b]) | (split_N[a] != split_N[b])
            keep = apart & (clip_N[a] != clip_N[b])
            a, b = a[keep], b[keep]
            bits = distances(fine_NB[a], fine_NB[b])
            same = bits <= SAME
            found.append(np.stack([a[same], b[same], bits[same]], axis=1))
            pairs += int(same.sum())
    return _nearest(np.concatenate(found), clip_N) if found else []


def _nearest(found_P3: NDArray[np.int64], clip_N: Codes) -> list[NearPair]:
    """One pair of crops for every pair of clips."""
    crops_P2 = found_P3[:, :2]
    swap = clip_N[crops_P2[:, 0]] > clip_N[crops_P2[:, 1]]
    crops_P2[swap] = crops_P2[swap, ::-1]
    by_bits = np.lexsort((crops_P2[:, 1], crops_P2[:, 0], found_P3[:, 2]))
    _, first = np.unique(clip_N[crops_P2[by_bits]], axis=0, return_index=True)
    return [NearPair(*map(int, found_P3[row])) for row in by_bits[np.sort(first)]]
