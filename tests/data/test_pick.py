from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from genconvit.data.clip import Clip
from genconvit.data.pick import balanced_clips


def clips(fake: int, real: int, methods: int = 1) -> list[Clip]:
    found = [Clip(f"f{i}", f"f{i}", "fake", method=f"m{i % methods}") for i in range(fake)]
    return [*found, *(Clip(f"r{i}", f"r{i}", "real") for i in range(real)), Clip("u", "u")]


@given(
    fake=st.integers(0, 30), real=st.integers(0, 30), count=st.integers(1, 40), seed=st.integers()
)
def test_as_many_of_each_as_there_are(fake: int, real: int, count: int, seed: int) -> None:
    every = clips(fake, real)
    chosen = balanced_clips(every, count, seed)
    labels = Counter(clip.label for clip in chosen)
    assert len(chosen) == min(count, fake + real)
    assert labels["real"] >= min(real, count // 2)
    assert labels["fake"] >= min(fake, count // 2)
    assert labels[None] == 0
    assert chosen == [clip for clip in every if clip in chosen]


def test_methods_come_alike_and_a_seed_repeats() -> None:
    every = clips(90, 20, methods=3)
    every += [Clip("rare", "rare", "fake", method="rare")]
    chosen = balanced_clips(every, 20)
    methods = Counter(clip.method for clip in chosen if clip.label == "fake")
    assert methods == {"m0": 3, "m1": 3, "m2": 3, "rare": 1}
    assert chosen == balanced_clips(every, 20)
    assert chosen != balanced_clips(every, 20, seed=1)
