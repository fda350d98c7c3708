from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def clip(clips: Path) -> Path:
    """One of the demo's fakes."""
    return sorted(clips.parent.glob("test/fake/*"))[0]
