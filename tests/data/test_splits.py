from __future__ import annotations

from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from genconvit.config import SplitSettings
from genconvit.data.catalog import Clip, Label, Split
from genconvit.data.splits import assign_splits, leaking_groups


def clip(name: str, label: Label, group: str, split: Split | None = None) -> Clip:
    return Clip(Path(name), name, label, group, split=split)


def dataset(kinds: list[tuple[int, int]], split: Split | None = None) -> list[Clip]:
    """For each group its numbers of real and fake clips."""
    return [
        clip(f"{label}{group}_{i}", label, f"g{group}", split)
        for group, (real, fake) in enumerate(kinds)
        for label, count in (("real", real), ("fake", fake))
        for i in range(count)
    ]


def groups_of(clips: list[Clip]) -> dict[str | None, set[str]]:
    found: dict[str | None, set[str]] = {}
    for one in clips:
        found.setdefault(one.split, set()).add(one.group)
    return found


kinds = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(any), min_size=1, max_size=60
)
shares = st.builds(
    lambda val, test, seed: SplitSettings(val_fraction=val, test_fraction=test, seed=seed),
    st.floats(0, 0.45),
    st.floats(0, 0.45),
    st.integers(0, 99),
)


@given(kinds, shares, st.randoms())
def test_groups_stay_whole_and_order_does_not_matter(kinds, share, random) -> None:
    clips = dataset(kinds)
    divided = assign_splits(clips, share)
    assert [one.name for one in divided] == [one.name for one in clips]
    assert {one.split for one in divided} <= {"train", "val", "test"}
    assert leaking_groups(divided) == []
    assert groups_of(divided)["train"]
    shuffled = random.sample(clips, len(clips))
    assert set(assign_splits(shuffled, share)) == set(divided)


@given(kinds, shares)
def test_shares_are_about_right(kinds, share) -> None:
    found = groups_of(assign_splits(dataset(kinds), share))
    for split, fraction in (("val", share.val_fraction), ("test", share.test_fraction)):
        assert abs(len(found.get(split, ())) - fraction * len(kinds)) <= 3
        if fraction == 0:
            assert split not in found


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 99))
def test_both_classes_validate_in_proportion(real: int, fake: int, seed: int) -> None:
    clips = dataset([(1, 0)] * real + [(0, 1)] * fake)
    divided = assign_splits(clips, SplitSettings(val_fraction=0.2, seed=seed))
    counts = Counter((one.split, one.label) for one in divided)
    for label, total in (("real", real), ("fake", fake)):
        assert counts["val", label] >= 1
        assert abs(counts["val", label] - 0.2 * total) <= 1.5
        assert counts["train", label] >= 1


def test_seed_changes_the_draw() -> None:
    clips = dataset([(1, 1)] * 30)
    draws = {
        frozenset(groups_of(assign_splits(clips, SplitSettings(seed=seed)))["val"])
        for seed in range(5)
    }
    assert len(draws) == 5


def test_given_splits_stay_and_groups_are_joined() -> None:
    clips = [
        clip("a", "real", "g0", "train"),
        clip("b", "fake", "g0"),
        clip("c", "real", "g1", "val"),
        clip("d", "fake", "g1"),
        clip("e", "fake", "g2", "test"),
    ]
    divided = assign_splits(clips, SplitSettings(val_fraction=0.5))
    assert [one.split for one in divided] == ["train", "train", "val", "val", "test"]


def test_validation_is_taken_out_of_a_dataset_that_only_trains() -> None:
    test = [clip("t", "fake", "held out", "test")]
    clips = dataset([(1, 1)] * 20, split="train") + test
    found = groups_of(assign_splits(clips, SplitSettings(val_fraction=0.2)))
    assert {split: len(groups) for split, groups in found.items()} == {
        "train": 16,
        "val": 4,
        "test": 1,
    }
    assert found["val"].isdisjoint(found["train"])


def test_no_validation_where_none_is_wanted() -> None:
    clips = dataset([(1, 1)] * 5, split="train")
    assert assign_splits(clips, SplitSettings(val_fraction=0.0)) == clips


def test_leaking_groups_are_found() -> None:
    clips = [
        clip("a", "real", "b", "train"),
        clip("b", "fake", "b", "val"),
        clip("c", "real", "c", "train"),
        clip("d", "real", "a", "val"),
        clip("e", "real", "a", "test"),
        clip("f", "real", "c", None),
    ]
    assert leaking_groups(clips) == ["a", "b"]
    assert assign_splits(clips, SplitSettings())[0].split == "train"
