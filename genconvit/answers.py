"""What the HTTP endpoint answers (docs/serving.md): the contract of `serve` and its clients."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from genconvit.verdict import TimelinePoint, Verdict

EXAMPLE_MODEL = {
    "name": "default",
    "id": "v2-base-1a2b3c4d",
    "fingerprint": "1a2b3c4d" * 8,
}
EXAMPLE_TIMINGS = {"wait": 0.4, "decode": 212.0, "queue": 0.6, "network": 38.2, "total": 260.1}
EXAMPLE_POINT = {
    "time_s": 0.48,
    "frame_index": 12,
    "track": 0,
    "box": [212, 80, 344, 236],
    "probability_fake": 0.91,
}
EXAMPLE_DETECTION = {
    "clip": "clip.mp4",
    "verdict": "FAKE",
    "probability_fake": 0.91,
    "reason": "mean P(fake) 0.91 over 1 face in 1 of 1 frame; 1 person",
    "frames_sampled": 1,
    "frames_with_face": 1,
    "tracks": [{"track": 0, "first_s": 0.48, "last_s": 0.48, "crops": 1, "probability_fake": 0.91}],
    "timeline": [EXAMPLE_POINT],
    "intervals": [],
    "threshold": 0.5,
    "band": [0.45, 0.55],
    "probability_interval": None,
    "duration_s": 10.0,
    "width": 1280,
    "height": 720,
    "model": EXAMPLE_MODEL,
    "timings_ms": EXAMPLE_TIMINGS,
    "evidence": [],
    "request_id": "5b0c0f6e",
}
EXAMPLE_JOB = {
    "id": "jOETcNKRW0kgxYYG",
    "state": "running",
    "progress": 0.4,
    "created_at": "2026-03-01T12:00:00Z",
    "started_at": "2026-03-01T12:00:01Z",
    "ended_at": None,
    "attempts": 1,
    "timeline": [EXAMPLE_POINT],
    "detection": None,
    "problem": None,
}


def _with_example(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(
        frozen=True, protected_namespaces=(), json_schema_extra={"examples": [example]}
    )


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class ModelId(_Answer):
    """Which detector answered."""

    name: str = Field(description="As the server calls it.")
    id: str = Field(description="Architecture, preset and first digits of the weights' digest.")
    fingerprint: str = Field(description="SHA-256 of the weights.")


class Timings(_Answer):
    """Where the time of a request went, milliseconds."""

    wait: float = Field(description="Until a process had time to decode it.")
    decode: float = Field(description="Reading frames, finding faces and cutting them out.")
    queue: float = Field(description="Until the crops went through the network.")
    network: float
    total: float


class Evidence(_Answer):
    """Why a crop is judged as it is, as pictures."""

    track: int
    time_s: float
    frame_index: int
    probability_fake: float
    crop: str = Field(description="What the network saw: data:image/jpeg;base64,...")
    heat: str = Field(description="Where the verdict comes from, over the crop.")
    errors: dict[str, str] = Field(
        default_factory=dict, description="Reconstruction errors by branch, as pictures."
    )
    means_something: bool = Field(description="The heat map passed its deletion check.")
    sentence: str = Field(description="What the check and the two branches say.")


class Detection(Verdict):
    """A verdict, and how it came about."""

    model_config = _with_example(EXAMPLE_DETECTION)

    threshold: float = Field(description="P(fake) above it is FAKE.")
    band: tuple[float, float] = Field(description="P(fake) from one to the other is UNDECIDED.")
    probability_interval: tuple[float, float] | None = Field(
        None,
        description="Where P(fake) lies with 95 % had other frames of the clip been looked at "
        "(bootstrap over frames); none with fewer than 2 frames with a face.",
    )
    duration_s: float | None = Field(None, description="None for an image.")
    width: int | None = None
    height: int | None = None
    model: ModelId
    timings_ms: Timings
    evidence: list[Evidence] = Field(default_factory=list, description="With explain=true.")
    request_id: str = ""


class Problem(_Answer):
    """A problem document (RFC 9457), application/problem+json."""

    model_config = _with_example(
        {
            "type": "about:blank",
            "title": "Unprocessable Content",
            "status": 422,
            "detail": "clip.mp4 broke the decoder; it is damaged. Encode it again.",
            "reason": "broken",
            "request_id": "5b0c0f6e",
        }
    )

    type: str = Field("about:blank", description="about:blank: the status says it all.")
    title: str
    status: int
    detail: str = Field(description="One sentence: what is wrong and what to do.")
    reason: str = Field("", description="In a word or two, for counting.")
    request_id: str = ""


class BatchItem(_Answer):
    """One file of a batch: a detection, or why there is none."""

    file: str
    detection: Detection | None = None
    problem: Problem | None = None


class BatchDetection(_Answer):
    """The files of a batch, in their order."""

    model_config = _with_example(
        {"results": [{"file": "clip.mp4", "detection": EXAMPLE_DETECTION, "problem": None}]}
    )

    results: list[BatchItem]


class CropScores(_Answer):
    """P(fake) of each crop of a request, in their order."""

    model_config = _with_example(
        {
            "probability_fake": [0.91, 0.12],
            "model": EXAMPLE_MODEL,
            "timings_ms": EXAMPLE_TIMINGS,
            "request_id": "5b0c0f6e",
        }
    )

    probability_fake: list[float]
    model: ModelId
    timings_ms: Timings
    request_id: str = ""


JobState = Literal["queued", "running", "done", "failed"]


class Job(_Answer):
    """A long clip on its way."""

    model_config = _with_example(EXAMPLE_JOB)

    id: str
    state: JobState
    progress: float = Field(ge=0.0, le=1.0, description="Share of the frames that were looked at.")
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    attempts: int = Field(0, description="How often it was begun; more than 1 after a crash.")
    timeline: list[TimelinePoint] = Field(description="What is known so far.")
    detection: Detection | None = None
    problem: Problem | None = None


class ModelCard(_Answer):
    """A detector that is served."""

    name: str
    default: bool
    id: str
    fingerprint: str
    loaded_at: datetime
    arch: str
    preset: str
    image_size: int
    frames: int = Field(description="Frames that are looked at unless a request says otherwise.")
    aggregation: str
    threshold: float
    band: tuple[float, float]
    calibrated: bool
    device: str
    metrics: dict[str, float | None]
    licence: str | None = None


class ModelList(_Answer):
    """All detectors that are served."""

    models: list[ModelCard]


class Health(_Answer):
    """The server's state."""

    status: Literal["ok", "starting"]
    detector: str = Field(description="Id of the default detector.")
    details: dict[str, Any] = Field(default_factory=dict)
