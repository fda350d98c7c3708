"""What runs of recipes show: AUC over clips by set, over seeds, and with intervals over groups.

The scores of a recipe's seeds are averaged clip by clip (an ensemble of its seeds), and whole
groups of clips are drawn for the interval of its AUC (`genconvit.evaluate.resampling`): the same
ones for all recipes, so that differences are paired. Each seed's own AUC stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from genconvit.evaluate.estimate import Estimate
from genconvit.evaluate.metrics import binary_scores
from genconvit.evaluate.resampling import DRAWS, drawn_counts, estimated, ratio, resampled_scores
from genconvit.evaluate.shortcuts import ScoreProbes, score_probes
from genconvit.evaluate.subgroups import LEAST_CLIPS
from genconvit.recipe.runs import RunRecord

ALL, PAIRS = "all", "pairs"
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Judged:
    """Clips that every seed of every recipe judged exactly once.

    Attributes:
        clips: Names (N), sorted.
        is_fake: Labels (N).
        groups: Groups (N).
        sources: Sources (N).
        scores: P(fake) (S, N) of each seed, by recipe. Recipes may have different seeds.
        folds: The fold in which each was held out (N): the networks of a fold judged it.
    """

    clips: tuple[str, ...]
    is_fake: Bools
    groups: tuple[str, ...]
    sources: tuple[str, ...]
    scores: dict[str, Floats]
    folds: tuple[str, ...]


class SetResult(BaseModel):
    """A recipe on one set of clips."""

    model_config = ConfigDict(frozen=True)

    auc: Estimate = Field(description="Of the mean score of all seeds.")
    difference: Estimate = Field(description="Of that AUC to the baseline's, by paired draws.")
    seeds: list[float | None] = Field(description="AUC of each seed.")
    mean: float | None = Field(description="Mean of the seeds' AUC.")


class ClipSet(BaseModel):
    """Clips over which an AUC is taken."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="all, pairs, or a source.")
    clips: int
    fake: int
    real: int
    results: dict[str, SetResult] = Field(description="By recipe.")


class ViewResult(BaseModel):
    """All recipes under cross-validation, or by the val split."""

    model_config = ConfigDict(frozen=True)

    sets: list[ClipSet]
    pairs: int = Field(description="Pairs of a fake and a real clip of one group and source.")
    pairs_right: dict[str, Estimate] = Field(
        description="Share of pairs in which the fake's mean score of all seeds is the higher one; "
        "equal ones count half. By recipe."
    )
    seeds: dict[str, list[int]] = Field(description="Seeds of which every run is done, by recipe.")
    curve: dict[str, dict[int, float]] = Field(
        description="Mean over seeds of the AUC over all clips, after some epochs, by recipe."
    )
    score_probes: dict[str, ScoreProbes] = Field(
        description="What the mean score of all seeds follows within the classes, by recipe."
    )


def pool(records: Sequence[RunRecord], epoch: int | None = None) -> dict[int, dict[str, float]]:
    """The scores of a recipe by seed and clip, each clip scored once a seed.

    Args:
        records: Runs of one recipe, in one view.
        epoch: After which; by default the last one.
    """
    scores: dict[int, dict[str, float]] = {}
    for record in records:
        own = record.scores if epoch is None else record.curve[epoch]
        scores.setdefault(record.seed, {}).update(zip(record.clips, own, strict=True))
    return scores


def judged_clips(records: Mapping[str, Sequence[RunRecord]], runs_a_seed: int) -> Judged | None:
    """Puts runs together; a seed of which a run is missing is left out.

    Args:
        records: Of each recipe, the runs of one view that are done.
        runs_a_seed: Runs that a whole seed has.

    Returns:
        None where no recipe has a whole seed.
    """
    scores: dict[str, Floats] = {}
    known: dict[str, tuple[str, str, str, str]] = {}
    names: list[str] = []
    for recipe, own in records.items():
        whole = set(whole_seeds(own, runs_a_seed))
        kept = [record for record in own if record.seed in whole]
        for record in kept:
            fold = [record.fold] * len(record.clips)
            about = zip(record.labels, record.groups, record.sources, fold, strict=True)
            known |= dict(zip(record.clips, about, strict=True))
        names = sorted(known)
        if kept:
            by_seed = pool(kept)
            scores[recipe] = np.array(
                [[by_seed[seed][name] for name in names] for seed in sorted(by_seed)]
            )
    if not scores:
        return None
    labels, groups, sources, folds = zip(*(known[name] for name in names), strict=True)
    is_fake_N = np.array([label == "fake" for label in labels])
    return Judged(tuple(names), is_fake_N, groups, sources, scores, folds)


def whole_seeds(records: Sequence[RunRecord], runs_a_seed: int) -> list[int]:
    """The seeds of a recipe of which every run is done."""
    seeds = [record.seed for record in records]
    return sorted(seed for seed in set(seeds) if seeds.count(seed) == runs_a_seed)


def view_result(
    records: Mapping[str, Sequence[RunRecord]],
    runs_a_seed: int,
    baseline: str,
    draws: int = DRAWS,
    features: Mapping[str, Sequence[float]] | None = None,
) -> ViewResult | None:
    """All figures of a view.

    Args:
        records: Of each recipe, the runs of this view that are done.
        runs_a_seed: Runs that a whole seed has: the folds, or 1.
        baseline: The recipe that others are compared with.
        draws: Sets of groups to draw.
        features: Of the clips, by name (`genconvit.data.audit.measure`); None where they could not
            be read.

    Returns:
        None where no recipe has a whole seed.
    """
    judged = judged_clips(records, runs_a_seed)
    if judged is None:
        return None
    fake_P, real_P = pairs_of(judged)
    seeds = {recipe: whole_seeds(own, runs_a_seed) for recipe, own in records.items()}
    return ViewResult(
        sets=[_clip_set(judged, name, mask_N, baseline, draws) for name, mask_N in sets_of(judged)],
        pairs=len(fake_P),
        pairs_right=_pairs_right(judged, fake_P, real_P, draws),
        seeds=seeds,
        curve={recipe: _curve(own, seeds[recipe]) for recipe, own in records.items()},
        score_probes={
            recipe: score_probes(
                judged.is_fake,
                scores_SN.mean(axis=0),
                judged.groups,
                judged.sources,
                [(features or {}).get(name) for name in judged.clips],
                draws,
                judged.folds,
            )
            for recipe, scores_SN in judged.scores.items()
        },
    )


def sets_of(judged: Judged) -> Iterator[tuple[str, Bools]]:
    """The sets of clips, as masks (N): all, pairs, and each source with enough of both classes."""
    yield ALL, np.ones(len(judged.clips), dtype=bool)
    paired_N = np.zeros(len(judged.clips), dtype=bool)
    paired_N[np.concatenate(pairs_of(judged))] = True
    if paired_N.any():
        yield PAIRS, paired_N
    of_N = np.array(judged.sources)
    for source in sorted(set(judged.sources)):
        mask_N = of_N == source
        fakes = int(judged.is_fake[mask_N].sum())
        if source and min(fakes, int(mask_N.sum()) - fakes) >= LEAST_CLIPS:
            yield f"source {source}", mask_N


def pairs_of(judged: Judged) -> tuple[Ints, Ints]:
    """Every fake with every real of its own group and source: places (P) of both."""
    members: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
    for place, key in enumerate(zip(judged.groups, judged.sources, strict=True)):
        if key[0]:  # a clip without a group is one of its own
            members.setdefault(key, ([], []))[int(not judged.is_fake[place])].append(place)
    pairs = [(fake, real) for fakes, reals in members.values() for fake in fakes for real in reals]
    fake_P, real_P = np.array(pairs, np.int64).reshape(-1, 2).T
    return fake_P, real_P


def _clip_set(judged: Judged, name: str, mask_N: Bools, baseline: str, draws: int) -> ClipSet:
    is_fake = judged.is_fake[mask_N]
    groups = [group for group, chosen in zip(judged.groups, mask_N, strict=True) if chosen]
    own = {recipe: scores_SN[:, mask_N] for recipe, scores_SN in judged.scores.items()}
    ensembles = {recipe: scores_SN.mean(axis=0) for recipe, scores_SN in own.items()}
    counts = list(drawn_counts(groups, draws))
    drawn = {
        recipe: np.concatenate([resampled_scores(is_fake, p_fake, block)[0] for block in counts])
        for recipe, p_fake in ensembles.items()
    }
    values = {recipe: _auc(is_fake, p_fake) for recipe, p_fake in ensembles.items()}
    results = {}
    for recipe, scores_SN in own.items():
        seeds = [_auc(is_fake, p_fake) for p_fake in scores_SN]
        known = [auc for auc in seeds if auc is not None]
        difference = Estimate()
        if baseline in values:
            value, other = values[recipe], values[baseline]
            difference = estimated(
                None if value is None or other is None else value - other,
                drawn[recipe] - drawn[baseline],
            )
        results[recipe] = SetResult(
            auc=estimated(values[recipe], drawn[recipe]),
            difference=difference,
            seeds=seeds,
            mean=fmean(known) if known else None,
        )
    fakes = int(is_fake.sum())
    return ClipSet(
        name=name, clips=len(is_fake), fake=fakes, real=len(is_fake) - fakes, results=results
    )


def _pairs_right(judged: Judged, fake_P: Ints, real_P: Ints, draws: int) -> dict[str, Estimate]:
    if not len(fake_P):
        return {}
    # Both clips of a pair are of one group, and drawn as often: it is counted at its fake.
    total, blocks = len(judged.clips), list(drawn_counts(judged.groups, draws))
    pairs_N = np.bincount(fake_P, minlength=total)
    pairs_D = np.concatenate([counts_DN @ pairs_N for counts_DN in blocks])
    results = {}
    for recipe, scores_SN in judged.scores.items():
        p_fake_N = scores_SN.mean(axis=0)
        right_P = (np.sign(p_fake_N[fake_P] - p_fake_N[real_P]) + 1) / 2
        right_N = np.bincount(fake_P, right_P, minlength=total)
        right_D = np.concatenate([counts_DN @ right_N for counts_DN in blocks])
        results[recipe] = estimated(float(right_P.mean()), ratio(right_D, pairs_D))
    return results


def _curve(records: Sequence[RunRecord], seeds: Sequence[int]) -> dict[int, float]:
    """Mean over whole seeds of the AUC over all clips, after each epoch that all runs have."""
    kept = [record for record in records if record.seed in seeds]
    if not kept:
        return {}
    labels = {
        name: label
        for record in kept
        for name, label in zip(record.clips, record.labels, strict=True)
    }
    curve = {}
    for epoch in sorted(set.intersection(*(set(record.curve) for record in kept))):
        by_seed = [
            _auc(np.array([labels[name] == "fake" for name in own]), np.array([*own.values()]))
            for own in pool(kept, epoch).values()
        ]
        known = [auc for auc in by_seed if auc is not None]
        if known:
            curve[epoch] = fmean(known)
    return curve


def _auc(is_fake_N: Bools, p_fake_N: Floats) -> float | None:
    return binary_scores(is_fake_N, p_fake_N)["auc"]
