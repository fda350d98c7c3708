"""A client of the HTTP endpoint (docs/client.md)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from genconvit.answers import (
    BatchDetection,
    CropScores,
    Detection,
    Health,
    Job,
    ModelCard,
    ModelList,
)
from genconvit.client_transport import ApiError as ApiError
from genconvit.client_transport import Transport
from genconvit.client_upload import Content, OnUpload
from genconvit.config_decision import Aggregation

ENDED = ("done", "failed")
"""States of a job that will not change."""
FIRST_POLL_S, LONGEST_POLL_S = 0.25, 5.0


class Client:
    """Asks a server for verdicts.

    Files are read as they are sent, so that a clip need not fit in memory. What fails for a reason
    that passes is tried again (`Transport` says what, and how). Threads may share a client. All
    methods raise `ApiError` where the server does not answer or answers with a problem, and
    `ClipError` for a file that cannot be read.

        from genconvit.client import Client

        with Client("http://127.0.0.1:8000") as client:
            detection = client.detect("clip.mp4")
            print(detection.verdict, detection.probability_fake, detection.reason)

    Args:
        url: Address of the server.
        key: API key, if it asks for one.
        timeout_s: How long the server may say nothing, seconds.
        retries: How often a request is repeated at most.
        ca_file: PEM file of the authorities that the server's certificate may come from; by
            default the usual ones.

    Raises:
        UserError: The address is none, or the PEM file cannot be used.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = 120.0,
        retries: int = 5,
        ca_file: str | Path | None = None,
    ) -> None:
        self._transport = Transport(url, key, timeout_s, retries, ca_file)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the connections back."""
        self._transport.close()

    def detect(
        self,
        clip: Content,
        *,
        frames: int | None = None,
        aggregation: Aggregation | None = None,
        explain: bool | None = None,
        model: str | None = None,
        on_upload: OnUpload | None = None,
    ) -> Detection:
        """Judges a clip or image.

            detection = client.detect("clip.mp4", frames=32)

        Args:
            clip: Path of a file, or its content.
            frames: How many frames are looked at; by default as many as the detector is made for.
            aggregation: How a clip's P(fake) comes from that of its crops.
            explain: Send pictures of the crops that decided most.
            model: Name of a detector, if not the server's first.
            on_upload: Called with the bytes that are sent, and those to send.
        """
        params = {
            "frames": frames,
            "aggregation": aggregation,
            "explain": explain,
            "model": model,
        }
        return self._transport.call(
            "POST", "/v1/detect", Detection, params, files=[clip], on_upload=on_upload
        )

    def detect_batch(
        self,
        clips: Sequence[Content],
        *,
        frames: int | None = None,
        aggregation: Aggregation | None = None,
        explain: bool | None = None,
        model: str | None = None,
        on_upload: OnUpload | None = None,
    ) -> BatchDetection:
        """Judges clips and images of one request; one that fails leaves the others alone.

            for item in client.detect_batch(["a.jpg", "b.jpg"]).results:
                print(item.file, item.detection.verdict if item.detection else item.problem.detail)

        Args:
            clips: Paths of files, or their contents.
            frames: As for `detect`, and so are the others.
        """
        params = {
            "frames": frames,
            "aggregation": aggregation,
            "explain": explain,
            "model": model,
        }
        return self._transport.call(
            "POST", "/v1/detect/batch", BatchDetection, params, files=clips, on_upload=on_upload
        )

    def submit(
        self,
        clip: Content,
        *,
        frames: int | None = None,
        aggregation: Aggregation | None = None,
        model: str | None = None,
        on_upload: OnUpload | None = None,
    ) -> Job:
        """Leaves a long clip with the server, which judges it in its own time.

        A connection that breaks when the clip was sent raises `ApiError`: whether there is a job
        then is not known, and another is not made.

            job = client.wait(client.submit("film.mp4"), lambda job: print(job.progress))
            print(job.detection.verdict if job.detection else job.problem)

        Args:
            clip: Path of a file, or its content.
            frames: As for `detect`, and so are the others.
        """
        params = {"frames": frames, "aggregation": aggregation, "model": model}
        return self._transport.call(
            "POST",
            "/v1/jobs",
            Job,
            params,
            files=[clip],
            on_upload=on_upload,
            repeatable=False,
        )

    def job(self, id: str) -> Job:
        """How far a job is.

        print(client.job(job.id).timeline)
        """
        return self._transport.call("GET", f"/v1/jobs/{quote(id, safe='')}", Job)

    def wait(self, job: Job, on_progress: Callable[[Job], None] | None = None) -> Job:
        """Waits until a job is done or failed, and returns it as it is then.

            job = client.wait(job, on_progress=lambda job: print(f"{job.progress:.0%}"))

        Args:
            job: As `submit` or `job` returned it.
            on_progress: Called whenever it was asked for, with the timeline so far.
        """
        pause_s = FIRST_POLL_S
        while True:
            if on_progress is not None:
                on_progress(job)
            if job.state in ENDED:
                return job
            time.sleep(pause_s * random.uniform(0.8, 1.0))
            pause_s = min(1.3 * pause_s, LONGEST_POLL_S)
            job = self.job(job.id)

    def delete(self, id: str) -> None:
        """Cancels a job if it has not ended, and has its clip and result forgotten.

        client.delete(job.id)
        """
        self._transport.send("DELETE", f"/v1/jobs/{quote(id, safe='')}")

    def crops(
        self,
        crops: Sequence[Content],
        *,
        model: str | None = None,
        on_upload: OnUpload | None = None,
    ) -> CropScores:
        """P(fake) of face crops that are ready: JPEG or PNG, cut as the detector's own.

            print(client.crops(["face0.jpg", "face1.jpg"]).probability_fake)

        Args:
            crops: Paths of files, or their contents.
            model: Name of a detector, if not the server's first.
            on_upload: Called with the bytes that are sent, and those to send.
        """
        params = {"model": model}
        return self._transport.call(
            "POST", "/v1/crops", CropScores, params, files=crops, on_upload=on_upload
        )

    def models(self) -> list[ModelCard]:
        """The detectors of the server.

        print([card.name for card in client.models() if card.default])
        """
        return self._transport.call("GET", "/v1/models", ModelList).models

    def reload(self, name: str) -> ModelCard:
        """Has a detector read again from where it lies; needs the key of an admin.

        print(client.reload("default").fingerprint)
        """
        return self._transport.call("POST", f"/v1/models/{quote(name, safe='')}/reload", ModelCard)

    def health(self) -> Health:
        """Whether the server takes requests.

        assert client.health().status == "ok"
        """
        return self._transport.call("GET", "/healthz", Health)
