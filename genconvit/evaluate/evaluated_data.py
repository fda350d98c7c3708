"""Which data an evaluation is of: beside what a detector was trained on, in every report."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

OF_SHARDS = "the shards of all splits, as extraction writes it"
OF_CLIPS = "the names, labels and sizes of the clips"
OF_SCORES = "the file of scores (SHA-256)"


class EvaluatedData(BaseModel):
    """What was evaluated."""

    model_config = ConfigDict(frozen=True)

    location: str
    split: str | None = Field(None, description="Of shards, or of a list that has splits.")
    digest: str = Field(description="The same for the same data, wherever they lie.")
    digest_of: str = Field(description="What the digest is made of.")

    def facts(self) -> list[tuple[str, str]]:
        """Rows of a table."""
        return [
            ("evaluated", self.location + (f", split {self.split}" if self.split else "")),
            ("digest of the evaluated data", f"{self.digest}, of {self.digest_of}"),
        ]


def clips_digest(clips: Iterable[tuple[str, str | None, int]]) -> str:
    """A digest of clips that tells other clips, labels and files from these, without reading them.

    Args:
        clips: Name, label and size in bytes of each, in any order.
    """
    lines = sorted(f"{size} {label or ''} {name}" for name, label, size in clips)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
