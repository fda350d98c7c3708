"""A clip without a verdict, in every report."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ClipFailure(BaseModel):
    """A clip without a verdict, and why."""

    model_config = ConfigDict(frozen=True)

    clip: str
    reason: str
