from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serve import hostile
from tests.serve.decoding.bench import Bench


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return hostile.video(tmp_path_factory.mktemp("mp4"), "mp4", "mp4v")


@pytest.fixture(scope="module")
def long_mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Takes seconds to decode when every frame is looked at."""
    folder = tmp_path_factory.mktemp("long")
    return hostile.video(folder, "mp4", "mp4v", frames=300, side=480)
