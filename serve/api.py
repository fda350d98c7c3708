"""The HTTP interface.

Ray copies the class to the replicas as it is when it is decorated. So its annotations are not
postponed, since FastAPI
could not resolve their names there, and what it calls stands above it.
"""

from typing import Annotated, Any

from fastapi import FastAPI, File, Request, UploadFile
from fastapi.responses import JSONResponse
from ray import serve

from genconvit.config import ServeSettings
from genconvit.verdict import Verdict

api = FastAPI(
    title="GenConViT deepfake-video detector",
    description="Judges clips and images: FAKE, REAL or UNDECIDED, with P(fake) and the reason.",
)


def _problem(status: int, detail: str) -> JSONResponse:
    """A problem document (RFC 9457)."""
    return JSONResponse(
        {"type": "about:blank", "status": status, "detail": detail},
        status_code=status,
        media_type="application/problem+json",
    )


@serve.ingress(api)
class Api:
    """Takes requests and hands the clips on.

    Args:
        judge: Handle of the deployment that judges.
        detector_id: Name of the detector.
        settings: Limits.
    """

    def __init__(self, judge: Any, detector_id: str, settings: ServeSettings) -> None:
        self.judge = judge
        self.detector_id = detector_id
        self.limit = settings.max_upload_mb * 1_000_000

    @api.post(
        "/v1/detect",
        response_model=Verdict,
        responses={413: {"description": "Too large"}, 422: {"description": "No clip"}},
    )
    async def detect(self, request: Request, file: Annotated[UploadFile, File()]) -> Any:
        """Judges one clip or image, sent as the multipart field `file`."""
        if (file.size or 0) > self.limit:
            return _problem(413, f"{file.filename} is larger than {self.limit // 1_000_000} MB.")
        name = file.filename or "upload"
        answer = await self.judge.judge.remote(name, await file.read())
        if "error" in answer:
            return _problem(422, answer["error"])
        return answer["verdict"]

    @api.get("/healthz")
    async def healthz(self) -> dict[str, Any]:
        """Whether requests are taken, and which detector answers; it waits for no clip."""
        return {"status": "ok", "detector": self.detector_id}
