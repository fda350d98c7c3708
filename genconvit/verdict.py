"""A verdict: the answer for one clip, the same in `predict --json`, in Python and over HTTP."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TimelinePoint(BaseModel):
    """One face in one frame."""

    model_config = ConfigDict(frozen=True)

    time_s: float = Field(description="Time of the frame, seconds from the start.")
    frame_index: int = Field(description="Index of the frame in the clip, from 0.")
    track: int = Field(description="Which face of the clip this is, from 0.")
    box: tuple[int, int, int, int] = Field(
        description="Face box x0, y0, x1, y1 in pixels of the frame."
    )
    probability_fake: float = Field(ge=0.0, le=1.0)
    sigmoids: tuple[float, float] | None = Field(
        None,
        exclude_if=lambda pair: pair is None,
        description="Aggregation `original` only: sigmoids of the fake and the real logit, the "
        "mean where two networks judge.",
    )


class TrackSummary(BaseModel):
    """One face through the clip."""

    model_config = ConfigDict(frozen=True)

    track: int
    first_s: float
    last_s: float
    crops: int = Field(description="In how many of the sampled frames the face was seen.")
    probability_fake: float = Field(ge=0.0, le=1.0)


class Interval(BaseModel):
    """A stretch of time in which one face looks manipulated."""

    model_config = ConfigDict(frozen=True)

    start_s: float = Field(description="Seconds from the start, midway between two sampled frames.")
    end_s: float
    track: int = Field(description="Which face of the clip this is, from 0.")
    probability_fake: float = Field(ge=0.0, le=1.0, description="Mean of its crops.")
    peak: float = Field(ge=0.0, le=1.0, description="The highest P(fake) of its crops.")


class Verdict(BaseModel):
    """FAKE, REAL or UNDECIDED, with P(fake), the reason and the timeline."""

    model_config = ConfigDict(frozen=True)

    clip: str = Field(description="The clip as it was named in the request.")
    verdict: Literal["FAKE", "REAL", "UNDECIDED"]
    probability_fake: float | None = Field(
        ge=0.0, le=1.0, description="None where no face was found (0.5 with `original`)."
    )
    reason: str = Field(description="One sentence.")
    frames_sampled: int = Field(description="Frames that were looked at.")
    frames_with_face: int
    tracks: list[TrackSummary]
    timeline: list[TimelinePoint] = Field(description="Ordered by frame, then track.")
    intervals: list[Interval] = Field(
        default_factory=list,
        description="Where a face looks manipulated. None are sought in still images, with the "
        "aggregation `original`, and where sampled frames lie too far apart.",
    )
