from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from genconvit.recipe.figures import judged_clips, pairs_of, sets_of, view_result
from genconvit.recipe.runs import RunRecord
from tests.recipe.made_up import records

DRAWS = 200


def scores_of(runs: list[RunRecord], seed: int) -> tuple[list[bool], list[float], list[str]]:
    rows = sorted(
        row
        for run in runs
        if run.seed == seed
        for row in zip(run.clips, run.labels, run.scores, run.sources, strict=True)
    )
    return [row[1] == "fake" for row in rows], [row[2] for row in rows], [row[3] for row in rows]


@given(st.integers(0, 999), st.integers(1, 3), st.integers(1, 4), st.integers(12, 25))
def test_figures_are_those_of_scikit_learn(seed, seeds, folds, quads) -> None:
    generator = np.random.default_rng(seed)
    clips = 4 * quads
    runs = {
        name: records(name, seeds, folds, clips, generator=generator, lift=lift)
        for name, lift in (("ours", 1.0), ("other", 0.0))
    }
    view = view_result(runs, folds, "ours", draws=DRAWS)
    assert view is not None
    means, aucs = {}, {}
    for name, own in runs.items():
        by_seed = [scores_of(own, number) for number in range(seeds)]
        is_fake, _, sources = by_seed[0]
        mean = np.mean([scores for _, scores, _ in by_seed], axis=0)
        means[name], aucs[name] = mean, roc_auc_score(is_fake, mean)
        sets = {one.name: one for one in view.sets}
        result = sets["all"].results[name]
        assert result.auc.value == pytest.approx(aucs[name])
        alone = [roc_auc_score(is_fake, scores) for _, scores, _ in by_seed]
        assert result.seeds == pytest.approx(alone)
        assert result.mean == pytest.approx(np.mean(alone))
        assert view.curve[name] == pytest.approx({1: 0.5, 2: np.mean(alone)})
        of_source = np.array(sources) == "s0"
        assert sets["source s0"].results[name].auc.value == pytest.approx(
            roc_auc_score(np.array(is_fake)[of_source], mean[of_source])
        )
        low, high = result.auc.low, result.auc.high
        assert low is not None and high is not None and low <= high
    difference = sets["all"].results["other"].difference
    assert difference.value == pytest.approx(aucs["other"] - aucs["ours"])
    first = sets["all"].results["ours"].difference
    assert (first.value, first.low, first.high) == (0, 0, 0)


def test_pairs_are_fakes_with_the_reals_of_their_own_group_and_source() -> None:
    generator = np.random.default_rng(0)
    runs = records("ours", 2, 2, 48, generator=generator, lift=0.5)
    judged = judged_clips({"ours": runs}, 2)
    assert judged is not None
    fake_P, real_P = pairs_of(judged)
    assert len(fake_P) == 12 * 4  # each group of four has two fakes and two reals
    p_fake = judged.scores["ours"].mean(axis=0)
    right = 0.0
    for fake, real in zip(fake_P, real_P, strict=True):
        assert judged.is_fake[fake] and not judged.is_fake[real]
        assert judged.groups[fake] == judged.groups[real]
        right += p_fake[fake] > p_fake[real]
    view = view_result({"ours": runs}, 2, "ours", draws=DRAWS)
    assert view is not None and view.pairs == 48
    estimate = view.pairs_right["ours"]
    assert estimate.value == pytest.approx(right / 48)
    assert estimate.low is not None and estimate.high is not None
    assert estimate.low <= estimate.value <= estimate.high


def test_sets_leave_out_what_is_small_or_has_one_class() -> None:
    runs = records("ours", 1, 1, 44, generator=np.random.default_rng(0), lift=0.5)
    judged = judged_clips({"ours": runs}, 1)
    assert judged is not None
    # 44 clips are 11 groups: 6 of source s0 and 5 of s1, each with two fakes and two reals.
    assert {name: int(mask.sum()) for name, mask in sets_of(judged)} == {
        "all": 44,
        "pairs": 44,
        "source s0": 24,
        "source s1": 20,
    }
    small = judged_clips({"ours": records("ours", 1, 1, 40, generator=np.random.default_rng(0),
                                          lift=0.5)}, 1)  # fmt: skip
    assert small is not None
    lonely = [f"g{number}" for number in range(40)]
    alone = replace(small, groups=tuple(lonely), sources=("s",) * 40)
    assert [name for name, _ in sets_of(alone)] == ["all", "source s"]


def test_a_seed_of_which_a_run_is_missing_is_left_out() -> None:
    generator = np.random.default_rng(0)
    whole = records("ours", 2, 2, 48, generator=generator, lift=0.5)
    broken = records("other", 2, 2, 48, generator=generator, lift=0.5)[:-1]
    gone = records("gone", 1, 2, 48, generator=generator, lift=0.5)[:1]
    view = view_result({"ours": whole, "other": broken, "gone": gone}, 2, "ours", draws=DRAWS)
    assert view is not None
    assert view.seeds == {"ours": [0, 1], "other": [0], "gone": []}
    results = view.sets[0].results
    assert len(results["other"].seeds) == 1 and "gone" not in results
    without = view_result({"other": broken}, 2, "gone", draws=DRAWS)
    assert without is not None
    assert without.sets[0].results["other"].difference.value is None
    assert view_result({"gone": gone}, 2, "gone", draws=DRAWS) is None
