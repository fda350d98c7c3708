from __future__ import annotations

import pytest

from genconvit.evaluate.evaluated_data import clips_digest

CLIPS = [("a/1.mp4", "fake", 10), ("b/1.mp4", "real", 20), ("c.mp4", None, 30)]


def test_the_order_of_clips_does_not_matter() -> None:
    assert clips_digest(CLIPS) == clips_digest(CLIPS[::-1])


@pytest.mark.parametrize(
    "other", [("a/2.mp4", "fake", 10), ("a/1.mp4", "real", 10), ("a/1.mp4", "fake", 11)]
)
def test_another_name_label_or_size_is_another_digest(other: tuple[str, str, int]) -> None:
    assert clips_digest([other, *CLIPS[1:]]) != clips_digest(CLIPS)
    assert clips_digest(CLIPS[1:]) != clips_digest(CLIPS)
