"""Everything that is not an answer: problem documents (RFC 9457)."""

from __future__ import annotations

import math
from http import HTTPStatus

from fastapi.responses import JSONResponse

from genconvit.answers import Problem

MEDIA_TYPE = "application/problem+json"


class ProblemError(Exception):
    """What a request is answered with in place of a result.

    Args:
        status: HTTP status.
        detail: One sentence: what is wrong and what to do.
        reason: In a word or two, for counting, such as `too large`.
        retry_after_s: When it may be tried again, with 429 and 503.
    """

    def __init__(
        self, status: int, detail: str, reason: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(status, detail, reason, retry_after_s)  # all of it, to be pickled
        self.status, self.detail, self.reason = status, detail, reason
        self.retry_after_s = retry_after_s

    def document(self, request_id: str = "") -> Problem:
        """As it is sent."""
        title = HTTPStatus(self.status).phrase
        return Problem(
            title=title,
            status=self.status,
            detail=self.detail,
            reason=self.reason,
            request_id=request_id,
        )

    def response(self, request_id: str = "") -> JSONResponse:
        """The HTTP response."""
        headers = {}
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="genconvit"'
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        content = self.document(request_id).model_dump(mode="json")
        return JSONResponse(content, self.status, headers, media_type=MEDIA_TYPE)


def fault(request_id: str) -> ProblemError:
    """For what went wrong in the server: all of it is in its log, nothing in the answer."""
    detail = f"the server failed; its log has more under {request_id}."
    return ProblemError(500, detail, "fault")
