from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.local import LocalClient, local_client
from tests.serve.scoring.reloading import write


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """The folder of the detector that is served."""
    return write(tmp_path / "served", 1)


@pytest.fixture
def client(served: Path, tmp_path: Path) -> Iterator[LocalClient]:
    with local_client(tmp_path / "jobs", served, batch_crops=3) as client:
        yield client


@pytest.fixture(scope="module")
def clip(clips: Path) -> Path:
    return sorted(clips.parent.glob("test/fake/*"))[0]
