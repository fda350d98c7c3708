"""Requests to a server, with uploads from the disk, and repeated where that can help."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from genconvit.answers import Problem
from genconvit.client_upload import Content, OnUpload, Uploads
from genconvit.errors import UserError

Answer = TypeVar("Answer", bound=BaseModel)
Params = Mapping[str, str | int | bool | None]

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 60.0
CONNECT_S = 10.0
AGAIN_LATER = (429, 503)
"""The server has done nothing, and says so."""
PROXY_FAILED = (502, 504)
"""Where a proxy says so: what the server has done is not known."""


class ApiError(UserError):
    """The server does not answer, or answers with a problem. The message is one sentence.

    Attributes:
        problem: What it answered; None where it cannot be reached, or is no server of ours.
    """

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class Transport:
    """Sends requests, and repeats them with growing waits.

    Repeated is what certainly had no effect (no connection; 429, 503), and where the request may
    have its effect twice also what had perhaps (broken connection; 502 and 504 of a proxy). A
    request that runs into `timeout_s` is not repeated, since its server has enough to do.

    Args:
        url: Address of the server.
        key: API key, if it asks for one.
        timeout_s: How long the server may say nothing, seconds.
        retries: How often a request is repeated at most.
        ca_file: PEM file of the authorities that its certificate may come from.

    Raises:
        UserError: The address is none, or the PEM file cannot be used.
    """

    def __init__(
        self, url: str, key: str | None, timeout_s: float, retries: int, ca_file: str | Path | None
    ) -> None:
        self.url = _checked(url)
        self._timeout_s = timeout_s
        self._retries = retries
        headers = {"Accept": "application/json", "User-Agent": "genconvit-client"}
        if key is not None:
            headers["Authorization"] = f"Bearer {_checked_key(key)}"
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_S),
            verify=True if ca_file is None else _trusting(Path(ca_file)),
        )

    def close(self) -> None:
        """Gives the connections back."""
        self._http.close()

    def call(
        self,
        method: Literal["GET", "POST", "DELETE"],
        path: str,
        answer: type[Answer],
        params: Params | None = None,
        *,
        files: Sequence[Content] = (),
        on_upload: OnUpload | None = None,
        repeatable: bool = True,
    ) -> Answer:
        """Sends a request and reads its answer.

        Args:
            method: HTTP method.
            path: Path, such as `/v1/models`.
            answer: What a good answer is.
            params: Those that are None are left out.
            files: Sent as the fields `file` of a form.
            on_upload: Told of what is sent.
            repeatable: It does no harm to do it twice.

        Raises:
            ApiError: The server does not answer, or not with a good answer.
            ClipError: A file cannot be read.
        """
        response = self.send(
            method, path, params, files=files, on_upload=on_upload, repeatable=repeatable
        )
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise ApiError(
                f"{self.url}{path} answers, but not with a {answer.__name__}; check that the "
                "address is a GenConViT server's, and of this version."
            ) from error

    def send(
        self,
        method: str,
        path: str,
        params: Params | None = None,
        *,
        files: Sequence[Content] = (),
        on_upload: OnUpload | None = None,
        repeatable: bool = True,
    ) -> httpx.Response:
        """As `call`; returns the answer as it came, whose status is one of success."""
        wait_s = FIRST_WAIT_S
        given = {name: value for name, value in (params or {}).items() if value is not None}
        for left in range(self._retries, -1, -1):
            uploads = Uploads(on_upload)
            asked_s = None
            try:
                response = self._once(method, path, given, files, uploads)
            except httpx.RequestError as error:
                failure = self._unreachable(error)
                again = _never_arrived(error, uploads) or (repeatable and _broke(error))
            else:
                if response.is_success:
                    return response
                failure, is_ours = self._problem(response)
                asked_s = _retry_after_s(response)
                status = response.status_code
                again = status in AGAIN_LATER
                again |= repeatable and status in PROXY_FAILED and not is_ours
            if not (again and left) or (asked_s or 0) > LONGEST_WAIT_S:
                raise failure
            # At random, so that clients that were sent away together do not come back together.
            time.sleep((asked_s or 0) + wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        raise ValueError("retries must be 0 or more")

    def _once(
        self,
        method: str,
        path: str,
        params: Mapping[str, str | int | bool],
        files: Sequence[Content],
        uploads: Uploads,
    ) -> httpx.Response:
        with ExitStack() as opened:
            form = [("file", uploads.open(content, opened)) for content in files] or None
            return self._http.request(method, path, params=params, files=form)

    def _problem(self, response: httpx.Response) -> tuple[ApiError, bool]:
        """What to raise for an answer that is none of success, and whether the server wrote it."""
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            status, phrase = response.status_code, response.reason_phrase
            problem = Problem(
                title=phrase,
                status=status,
                detail=f"{self.url} answered with {status} {phrase}; check the address, and the "
                "proxy before the server if there is one.",
                request_id=response.headers.get("x-request-id", ""),
            )
            return ApiError(problem.detail, problem), False
        return ApiError(problem.detail, problem), True

    def _unreachable(self, error: httpx.RequestError) -> ApiError:
        if _is_untrusted(error):
            return ApiError(
                f"the certificate of {self.url} is not trusted ({error}); give the PEM file of "
                "the authority that it comes from."
            )
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ApiError(
                f"no server answers at {self.url} ({str(error) or 'time-out'}); check the address "
                "and that it runs."
            )
        if isinstance(error, httpx.TimeoutException):
            return ApiError(
                f"{self.url} said nothing for {self._timeout_s:g} seconds; try again later, or "
                "send a long clip as a job."
            )
        if isinstance(error, httpx.LocalProtocolError):
            return ApiError(
                f"the request to {self.url} cannot be sent ({error}); did a file change meanwhile?"
            )
        return ApiError(f"the connection to {self.url} broke ({error}); try again.")


def _never_arrived(error: httpx.RequestError, uploads: Uploads) -> bool:
    """Whether the server cannot have had all of the request."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return not _is_untrusted(error)
    return _broke(error) and uploads.sent < uploads.total


def _broke(error: httpx.RequestError) -> bool:
    return isinstance(error, httpx.ReadError | httpx.WriteError | httpx.RemoteProtocolError)


def _is_untrusted(error: httpx.RequestError) -> bool:
    return "certificate verify failed" in str(error).lower()


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds of the header Retry-After, which may also be a date (RFC 9110, 10.2.3)."""
    text = response.headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _checked(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError(f"{url!r} is no server's address; write one as http://127.0.0.1:8000.")
    return url.rstrip("/")


def _checked_key(key: str) -> str:
    if not key.isascii() or not key.isprintable() or len(key.split()) != 1:
        raise UserError("the API key has characters that no key has; check for a copying mistake.")
    return key


def _trusting(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise UserError(f"{ca_file} holds no certificates in PEM; check the file.") from error
    except OSError as error:
        raise UserError(f"{ca_file} cannot be read ({error.strerror}).") from error
