"""What a sandbox and its process, which decodes, tell each other.

A request is one byte over a socket and two files in memory that travel with it: the request as JSON
and the untrusted bytes. An answer is its length (4 bytes, big endian), a JSON header, and the raw
bytes that the header announces. The process may have been taken over by a hostile file, so every
header is checked against these models, and nothing of an answer is ever run or unpickled.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from genconvit.config import PreprocessSettings, SamplingSettings, ServeSettings

CLIP_FD = 63
CLIP_PATH = f"/proc/self/fd/{CLIP_FD}"
"""Where the process finds the clip: a file that has no name and is gone with the process."""

CROPS_A_PART = 32
MAX_HEADER_BYTES = 65_536

Count = Annotated[int, Field(ge=0, lt=2**53)]
Pixel = Annotated[int, Field(ge=-(2**31), lt=2**31)]


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True)


class Limits(_Request):
    """Of one request. What exceeds them is refused, before it is decoded where that can be told."""

    max_pixels: int
    max_duration_s: float
    max_frames: int
    """That are looked at."""
    max_crops: int
    time_s: float
    """Waiting for the process; what the caller does meanwhile does not count."""

    @classmethod
    def of(cls, settings: ServeSettings, *, job: bool = False) -> Limits:
        """Those of a request, or of a job."""
        return cls(
            max_pixels=settings.max_pixels,
            max_duration_s=settings.max_job_duration_s if job else settings.max_duration_s,
            max_frames=settings.max_frames,
            max_crops=settings.max_crops,
            time_s=settings.job_s if job else settings.request_s,
        )


class Start(_Request):
    """The first request: get ready."""

    task: Literal["start"] = "start"
    memory_mb: int
    """The process may not grow beyond it, MB (1,000,000 bytes)."""
    preprocess: PreprocessSettings
    """Whose face detector to build."""


class ClipRequest(_Request):
    """Crop the faces of a clip or image."""

    task: Literal["clip"] = "clip"
    medium: Literal["image", "video"]
    kind: str
    preprocess: PreprocessSettings
    sampling: SamplingSettings
    image_size: int
    limits: Limits


class CropsRequest(_Request):
    """Decode ready crops, which lie one behind the other in the file."""

    task: Literal["crops"] = "crops"
    sizes: list[int]
    """Bytes of each."""
    image_size: int
    limits: Limits


Request = Start | ClipRequest | CropsRequest
REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="task")])


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Ready(_Answer):
    """The process takes requests."""

    answer: Literal["ready"] = "ready"


class Place(_Answer):
    """Where in its clip a crop was cut out."""

    frame_index: Count
    time_s: float
    track: Count
    box: tuple[Pixel, Pixel, Pixel, Pixel]
    """x0, y0, x1, y1 in pixels of the frame."""
    face_score: float


class PartHeader(_Answer):
    """Some crops of a clip. Their pixels follow, uint8 (N, S, S, 3)."""

    answer: Literal["part"] = "part"
    places: Annotated[list[Place], Field(max_length=CROPS_A_PART)]
    frames_sampled: Count
    frames_with_face: Count
    frames_total: Count
    width: Count
    height: Count
    duration_s: Annotated[float, Field(ge=0)] | None
    last: bool


class CropsHeader(_Answer):
    """Some of the ready crops. Their pixels follow, uint8 (N, S, S, 3)."""

    answer: Literal["crops"] = "crops"
    count: Annotated[int, Field(ge=1, le=CROPS_A_PART)]


class Refusal(_Answer):
    """There is no result."""

    answer: Literal["refusal"] = "refusal"
    cause: Literal["too large", "unreadable", "memory", "fault"]
    """unreadable: the file is to blame. fault: an exception that nobody foresaw."""
    kind: Annotated[str, Field(pattern="^[a-z ]{1,32}$")]
    """For counting."""
    detail: Annotated[str, Field(max_length=2000)]
    """A sentence in which `CLIP_PATH` stands for the file's name; of a fault, where it happened."""


Answer = Ready | PartHeader | CropsHeader | Refusal
ANSWER: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="answer")])
