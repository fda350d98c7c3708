from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import write_detector
from tests.serve.local import LocalClient, local_client


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """The folder of the detector that is served."""
    return write_detector(tmp_path / "served", 1)


@pytest.fixture
def client(served: Path, tmp_path: Path) -> Iterator[LocalClient]:
    with local_client(tmp_path / "jobs", served, batch_crops=3) as client:
        yield client
