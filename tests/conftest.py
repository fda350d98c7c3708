"""Fixtures for all tests. Threads are bounded before anything imports an OpenMP library."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real clips and recorded references, named by GENCONVIT_SHARED."""
    folder = Path(os.environ.get("GENCONVIT_SHARED", "../shared")).resolve()
    if not (folder / "data" / "manifest.csv").is_file():
        pytest.skip(f"no shared data at {folder}; set GENCONVIT_SHARED")
    return folder
