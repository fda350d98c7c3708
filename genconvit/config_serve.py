"""Settings of the HTTP endpoint."""

from __future__ import annotations

import re

from pydantic import Field, field_validator, model_validator

from genconvit.config_data import Section

MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class ServeSettings(Section):
    """The HTTP endpoint."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=1, le=65_535, description="Port to listen on.")
    models: dict[str, str] = Field(
        default_factory=dict,
        description="Detectors by name: folder or URL. The first one is the default.",
    )

    # Limits of a request
    max_upload_mb: int = Field(
        512, ge=1, le=1_000_000, description="Largest body of a request, MB (1,000,000 bytes)."
    )
    max_bodies_mb: int = Field(
        2048, ge=1, le=10_000_000, description="Bodies of all requests together, MB."
    )
    max_pixels: int = Field(
        36_000_000, ge=4096, le=2**27, description="Largest frame or image, pixels."
    )
    max_duration_s: float = Field(
        300, gt=0, le=86_400, description="Longest clip of POST /v1/detect, seconds."
    )
    max_job_duration_s: float = Field(
        7200, gt=0, le=864_000, description="Longest clip of POST /v1/jobs, seconds."
    )
    max_frames: int = Field(
        256, ge=1, le=100_000, description="Most frames a request may ask to be looked at."
    )
    max_crops: int = Field(
        2048, ge=1, le=1_000_000, description="Most faces of a clip, or crops of a request."
    )
    max_batch_files: int = Field(
        32, ge=1, le=10_000, description="Most files of POST /v1/detect/batch."
    )
    upload_s: float = Field(
        600, gt=0, le=86_400, description="A body arrives within so long, seconds."
    )
    request_s: float = Field(60, gt=0, le=3600, description="Time budget of a request, seconds.")
    explain_s: float = Field(
        300, gt=0, le=3600, description="Time budget of a request with explain=true, seconds."
    )
    job_s: float = Field(3600, gt=0, le=864_000, description="Time budget of a job, seconds.")
    max_requests: int = Field(
        32, ge=1, le=100_000, description="Requests at once; further ones are answered with 503."
    )
    decode_memory_mb: int = Field(
        2048,
        ge=256,
        le=1_000_000,
        description="Memory of a process that decodes, MB. A file that needs more is refused.",
    )

    # Who may ask
    keys: str | None = Field(
        None, description="File with the hashes of API keys (genconvit keys); none: no key needed."
    )
    requests_per_minute: float = Field(
        600, gt=0, le=1e9, description="Of one key, unless the key's own line says otherwise."
    )
    tls_certificate: str | None = Field(None, description="PEM file of the certificate.")
    tls_key: str | None = Field(None, description="PEM file of its key.")
    cors_origins: tuple[str, ...] = Field(
        (), description="Web pages of other origins that may ask; none by default."
    )

    log_folder: str | None = Field(
        None, description="Folder for requests.jsonl, a line a request; none: Ray's logs have it."
    )

    # Jobs
    state: str | None = Field(
        None,
        description="Folder of the jobs' store; on a cluster one that all nodes share. None: a "
        "folder that goes when the server stops.",
    )
    keep_jobs_s: float = Field(
        3600, gt=0, le=8_640_000, description="Finished jobs are forgotten after so long, seconds."
    )
    max_jobs: int = Field(
        100, ge=1, le=1_000_000, description="Jobs that wait or run; further ones get 503."
    )
    max_jobs_per_key: int = Field(
        25,
        ge=1,
        le=1_000_000,
        description="Of them, those of one key, so that it cannot fill the queue for all; further "
        "ones get 429. Without keys, all jobs are of one.",
    )

    # How many processes
    decoders: tuple[int, int] = Field(
        (2, 8), description="Fewest and most processes that decode and crop; each takes a CPU."
    )
    job_decoders: int = Field(
        1, ge=1, le=1000, description="Processes that decode for jobs alone: so many run at once."
    )
    scorers: tuple[int, int] = Field(
        (1, 1),
        description="Fewest and most processes a detector; each takes a GPU if there is one.",
    )
    scorer_gpus: float | None = Field(
        None,
        ge=0,
        le=1,
        description="GPUs of a scoring process; none: a whole one where the cluster has one.",
    )
    batch_crops: int = Field(
        256,
        ge=1,
        le=65_536,
        description="Most crops in a pass of the network: what comes while others are computed "
        "goes together.",
    )

    @field_validator("decoders", "scorers")
    @classmethod
    def _rises(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1]:
            raise ValueError("must be the fewest and the most, at least 1")
        return value

    @field_validator("models")
    @classmethod
    def _names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not re.fullmatch(MODEL_NAME, name):
                raise ValueError(f"{name!r} is no name; use letters, digits, '.', '_' and '-'")
        return value

    @model_validator(mode="after")
    def _one_body_fits(self) -> ServeSettings:
        if self.max_upload_mb > self.max_bodies_mb:
            raise ValueError("max_upload_mb must not be more than max_bodies_mb")
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> ServeSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together")
        return self
