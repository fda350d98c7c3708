"""What is asked of the server, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from genconvit.answers import Detection
from genconvit.config_decision import Aggregation
from genconvit.evaluate.aggregate import crop_probability
from genconvit.reference import Statistics
from serve.decoding.cropper import Decoded
from serve.scoring.scorer import Loaded, Scores


@dataclass(frozen=True)
class Options:
    """What a request may choose; None leaves it to the detector.

    Attributes:
        model: Name of the detector.
        frames: Frames to look at.
        aggregation: From the scores of crops to that of the clip.
        explain: With pictures of the evidence.
    """

    model: str | None = None
    frames: int | None = None
    aggregation: Aggregation | None = None
    explain: bool = False


@dataclass
class Judged:
    """A detection, and what only the server's statistics want to know.

    Attributes:
        detection: The answer.
        statistics: Of the crops: `serve.watching.drift.look_at`, one a part of the clip.
        batch_crops: Crops in each pass through the network.
    """

    detection: Detection
    statistics: list[Statistics] = field(default_factory=list)
    batch_crops: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class ScoredCrops:
    """Scores of ready crops.

    Attributes:
        probability_fake: One a crop.
        model: The detector's name.
        loaded: The detector.
        statistics: Of the crops: `serve.watching.drift.look_at`.
        wait_ms, decode_ms, queue_ms, network_ms: Where the time went.
        batch_crops: Crops in each pass through the network.
    """

    probability_fake: list[float]
    model: str
    loaded: Loaded
    statistics: Statistics
    wait_ms: float
    decode_ms: float
    queue_ms: float
    network_ms: float
    batch_crops: list[int]

    @classmethod
    def of(cls, model: str, decoded: Decoded, passes: list[Scores]) -> ScoredCrops:
        """Puts the passes together."""
        info = passes[-1].loaded.info
        rows = np.concatenate([scores.logits for scores in passes])
        p_fake = [crop_probability(row, info.decision, info.temperature)[0] for row in rows]
        return cls(
            probability_fake=p_fake,
            model=model,
            loaded=passes[-1].loaded,
            statistics=decoded.statistics,
            wait_ms=decoded.wait_ms,
            decode_ms=decoded.decode_ms,
            queue_ms=max(scores.queue_ms for scores in passes),
            network_ms=sum(scores.network_ms for scores in passes),
            batch_crops=[scores.batch_crops for scores in passes],
        )
