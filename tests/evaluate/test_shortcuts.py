from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genconvit.data.audit.features import feature_names
from genconvit.evaluate.shortcuts import (
    FAMILIES,
    LEAST_GROUPS,
    FamilyProbe,
    ScoreProbes,
    fold_of,
    ranks_within,
    score_probes,
)

DRAWS = 200
PLACE = {name: place for place, name in enumerate(feature_names())}
MAPS: Sequence[Callable[[NDArray[np.float64]], NDArray[np.float64]]] = (
    lambda scores: 1 / (1 + np.exp(-scores)),
    lambda scores: scores**3,
    lambda scores: 7 * scores - 2,
)


class Clips:
    """Made-up clips of groups of four, two of each class, and of two sources."""

    def __init__(self, seed: int, groups: int = 30) -> None:
        self.generator = np.random.default_rng(seed)
        clips = 4 * groups
        self.is_fake = np.arange(clips) % 2 == 0
        self.groups = [f"g{place // 4}" for place in range(clips)]
        self.sources = [f"s{place // 4 % 2}" for place in range(clips)]
        # Fakes have more of everything, as where they come from another camera.
        self.values = self.generator.normal(self.is_fake[:, None], 1, (clips, len(PLACE)))
        self.noise = self.generator.normal(0, 0.5, clips)

    def probed(
        self, scores: NDArray[np.float64], networks: Sequence[str] | None = None
    ) -> ScoreProbes:
        features = [tuple(row) for row in self.values.tolist()]
        about = (self.groups, self.sources, features)
        return score_probes(self.is_fake, scores, *about, DRAWS, networks)


def by_name(probes: ScoreProbes) -> dict[str, FamilyProbe]:
    return {family.name: family for family in probes.families}


@settings(max_examples=30)
@given(st.integers(0, 999), st.sampled_from(sorted(PLACE)), st.sampled_from((-1.0, 1.0)))
def test_a_score_that_follows_a_feature_within_the_classes_is_found(seed, feature, sign) -> None:
    clips = Clips(seed)
    scores = 5 * clips.is_fake + sign * clips.values[:, PLACE[feature]] + clips.noise
    found = by_name(clips.probed(scores))
    for name, family in found.items():
        assert family.high == (feature in FAMILIES.get(name, ())), name
        if family.high:
            assert family.strongest == feature
            assert family.strongest_correlation is not None
            assert sign * family.strongest_correlation > 0.5
            assert feature in family.warning and "train with more augment." in family.warning


@settings(max_examples=30)
@given(st.integers(0, 999))
def test_a_score_that_follows_the_label_alone_is_not_flagged(seed) -> None:
    clips = Clips(seed)
    probes = clips.probed(5 * clips.is_fake + clips.noise)
    assert not probes.warnings and not probes.reasons
    for family in probes.families:
        assert family.correlation.low is not None and family.correlation.low < 0.2


def test_a_score_that_follows_the_source_is_found() -> None:
    clips = Clips(0)
    other = np.array([source == "s1" for source in clips.sources])
    probes = clips.probed(5 * clips.is_fake + 2 * other + clips.noise)
    [warning] = probes.warnings
    assert "scores follow source" in warning and "AUC of each source" in warning
    assert "source s1 +0." in warning or "source s0 -0." in warning


def test_how_high_a_network_scores_all_its_clips_does_not_count() -> None:
    clips = Clips(0)
    networks = [f"fold{place // 4 % 3}" for place in range(len(clips.is_fake))]
    level = np.array([int(network[-1]) for network in networks])
    scores = clips.is_fake + clips.values[:, PLACE["face size"]] + clips.noise
    before = clips.probed(scores, networks)
    assert by_name(before)["resolution"].high
    assert clips.probed(scores + 50 * level, networks) == before
    assert not clips.probed(scores + 50 * level).warnings


@settings(max_examples=20)
@given(st.integers(0, 999), st.sampled_from(range(len(MAPS))), st.integers(0, 17))
def test_only_the_order_of_scores_and_features_counts(seed, number, column) -> None:
    clips = Clips(seed, groups=12)
    scores = clips.is_fake + clips.values[:, 0] + clips.noise
    before = clips.probed(scores)
    assert clips.probed(MAPS[number](scores)) == before
    clips.values[:, column] = np.exp(clips.values[:, column])
    assert clips.probed(scores) == before


@given(st.lists(st.integers(0, 30), min_size=40, max_size=120), st.integers(0, 9))
def test_a_group_is_whole_in_one_fold(numbers, seed) -> None:
    index_N = np.array([*range(LEAST_GROUPS), *numbers])
    np.random.default_rng(seed).shuffle(index_N)
    fold_N = fold_of(index_N)
    folds = {(group, fold) for group, fold in zip(index_N.tolist(), fold_N.tolist(), strict=True)}
    assert len(folds) == len(set(index_N.tolist()))
    assert set(fold_N.tolist()) == set(range(5))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=30))
def test_ranks_do_not_know_the_class(rows) -> None:
    is_fake = np.array([row[0] for row in rows], dtype=np.int64)
    values = np.array([row[1] for row in rows], dtype=float)
    ranks = ranks_within(values, is_fake)
    for mask in (is_fake == 0, is_fake == 1):
        assert ranks[mask].sum() == pytest.approx(0)
        shifted = ranks_within(np.where(mask, values + 100, values), is_fake)
        assert shifted.tolist() == ranks.tolist()


def test_what_cannot_be_measured_says_why() -> None:
    def reasons(clips: Clips, scores: NDArray[np.float64]) -> dict[str, str]:
        probes = clips.probed(scores)
        assert not probes.warnings
        return {name: family.reason for name, family in by_name(probes).items()}

    few = Clips(0, groups=LEAST_GROUPS - 1)
    assert set(reasons(few, few.noise).values()) == {"9 groups of clips cannot tell, it takes 10"}
    constant = Clips(0)
    same = "all clips of a class have the same score"
    assert set(reasons(constant, 1.0 * constant.is_fake).values()) == {same}
    assert set(reasons(constant, np.full(120, np.nan)).values()) == {"no clip has a score"}
    alike = Clips(0)
    alike.values[:, PLACE["face size"]] = np.where(alike.is_fake, 80.0, 90.0)
    alike.values[:, PLACE["sharpness"]] = np.nan
    alike.sources = alike.groups
    assert reasons(alike, alike.noise) == {
        "resolution": "all clips of a class are alike in it",
        "compression": "the crops of these clips are not at hand",
        "framing": "",
        "source": "no source has clips of several groups",
    }
    unknown = score_probes([True, False] * 20, range(40), [""] * 40, ["s"] * 40, [None] * 40, DRAWS)
    assert unknown.reasons == [
        "Not measured: resolution, compression, framing; the crops of these clips are not at hand.",
        "Not measured: source; all clips of a class are alike in it.",
    ]
    assert len(score_probes([], [], [], [], []).reasons) == 1


def test_clips_that_lack_something_are_left_out_of_that_alone() -> None:
    clips = Clips(0)
    clips.values[:8, PLACE["JPEG bytes"]] = np.nan
    scores = clips.noise.copy()
    scores[-4:] = np.nan
    counts = {name: family.clips for name, family in by_name(clips.probed(scores)).items()}
    assert counts == {"resolution": 116, "compression": 108, "framing": 116, "source": 116}
