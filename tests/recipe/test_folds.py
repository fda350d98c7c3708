from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genconvit.data.clip_table import ClipRecord
from genconvit.errors import UserError
from genconvit.recipe.folds import assign_folds, group_of, refuse_one_sided

CLIPS = st.lists(
    st.tuples(
        st.integers(0, 12), st.sampled_from(["fake", "real"]), st.integers(0, 2), st.integers(0, 3)
    ),
    min_size=1,
    max_size=60,
).map(
    lambda rows: [
        ClipRecord(f"c{n}", label, f"g{group}" if group else "", f"m{method}", f"s{source}")
        for n, (group, label, source, method) in enumerate(rows)
    ]
)


@given(CLIPS, st.integers(2, 6), st.integers(0, 9), st.randoms())
def test_groups_stay_whole_and_each_clip_is_held_out_once(clips, folds, seed, random) -> None:
    groups = {group_of(clip) for clip in clips}
    if len(groups) < folds:
        with pytest.raises(UserError, match=f"the train split has {len(groups)}"):
            assign_folds(clips, folds, seed)
        return
    dealt = assign_folds(clips, folds, seed)
    assert sorted(dealt) == sorted(clip.name for clip in clips)
    assert set(dealt.values()) == set(range(folds))
    for group in groups:
        assert len({dealt[clip.name] for clip in clips if group_of(clip) == group}) == 1
    mixed = list(clips)
    random.shuffle(mixed)
    assert assign_folds(mixed, folds, seed) == dealt


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=12, max_size=50),
    st.integers(2, 4),
)
def test_each_fold_has_its_share_of_every_class_source_and_method(rows, folds) -> None:
    """Groups of a real clip and a fake of it: as many of each kind, to two, in every fold."""
    clips = [
        ClipRecord(f"{label}{n}", label, f"g{n}", method, f"s{source}")
        for n, (source, method) in enumerate(rows)
        for label, method in (("real", ""), ("fake", f"m{source}"))
    ]
    dealt = assign_folds(clips, folds)
    for kinds in (
        lambda clip: clip.label,
        lambda clip: (clip.label, clip.source),
        lambda clip: (clip.label, clip.method),
    ):
        held = Counter((dealt[clip.name], kinds(clip)) for clip in clips)
        for kind in {kinds(clip) for clip in clips}:
            counts = [held[fold, kind] for fold in range(folds)]
            assert max(counts) - min(counts) <= 2, (kind, counts)


def test_another_seed_deals_other_folds() -> None:
    clips = [ClipRecord(f"c{n}", ("fake", "real")[n % 2], f"g{n // 2}") for n in range(40)]
    assert assign_folds(clips, 4, seed=0) != assign_folds(clips, 4, seed=1)


def test_folds_that_leave_one_class_are_refused() -> None:
    clips = [ClipRecord(f"c{n}", "fake" if n < 2 else "real", f"g{n // 2}") for n in range(8)]
    folds = assign_folds(clips, 2)
    with pytest.raises(UserError, match="has no fake clips to train on"):
        refuse_one_sided(clips, folds, blended=False)
    refuse_one_sided(clips, folds, blended=True)
