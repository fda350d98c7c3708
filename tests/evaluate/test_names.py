from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from genconvit.evaluate.names import short_names

part = st.sampled_from(["a", "b", "best", "runs"])
paths = st.lists(part, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(st.lists(paths, unique=True, max_size=6))
def test_names_are_never_shared(locations: list[str]) -> None:
    names = short_names(locations)
    assert len(names) == len(set(names)) == len(locations)


def test_names_are_as_short_as_they_can_be() -> None:
    assert short_names(["/runs/tuned/best"]) == ["tuned"]
    assert short_names(["/runs/a/best", "s3://bucket/b/last"]) == ["a", "last"]
    assert short_names(["/x/run/best", "/y/run/best"]) == ["x/run", "y/run"]
    assert short_names(["/runs/a/best", "/runs/a"]) == ["/runs/a/best", "/runs/a"]
