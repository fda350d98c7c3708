"""A line of JSON for each request: who was answered how, and never what was sent.

No file name, no content, no score of a face and no address is ever in a line: `log_request` takes
nothing that could hold one.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import uuid
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

LOGGER = "genconvit.requests"
LOG_FILE = "requests.jsonl"
FILE_BYTES = 20_000_000
OLD_FILES = 5

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id_of(given: str | None) -> str:
    """The id of a request: that of the header X-Request-Id where it may be one, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex


class JsonLines(logging.Formatter):
    """A record as one line of JSON: its time, level, message and `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return json.dumps(line, allow_nan=False)


def set_up_logs(folder: Path | None = None) -> None:
    """Has the lines written to standard error and, where a folder is given, to a file in it.

    A file of 20 MB is put aside, and the last five are kept. A second call replaces the first.

    Args:
        folder: Exists and can be written to.
    """
    logger = logging.getLogger(LOGGER)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if folder is not None:
        path = folder / LOG_FILE
        handlers.append(RotatingFileHandler(path, maxBytes=FILE_BYTES, backupCount=OLD_FILES))
    for handler in handlers:
        handler.setFormatter(JsonLines())
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # Ray's own handlers would write it again


def log_request(
    *,
    request_id: str,
    route: str,
    status: int,
    milliseconds: float,
    bytes: int,
    key: str | None = None,
    model: str | None = None,
    verdict: str | None = None,
    reason: str | None = None,
) -> None:
    """Writes the line of a request; 500 and above is an error, but for 503, which is a full server.

    Args:
        request_id: Of `request_id_of`.
        route: Its path as the server has it, such as `/v1/jobs/{id}`, not as it was sent.
        status: HTTP status.
        milliseconds: How long it took.
        bytes: Of its body.
        key: Name of the API key, not the key.
        model: Id of the detector that answered.
        verdict: FAKE, REAL or UNDECIDED.
        reason: Of its problem, in a word or two.
    """
    fields = {
        "request_id": request_id,
        "route": route,
        "status": status,
        "milliseconds": milliseconds,
        "bytes": bytes,
        "key": key,
        "model": model,
        "verdict": verdict,
        "reason": reason,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    level = logging.ERROR if status >= 500 and status != 503 else logging.INFO
    logging.getLogger(LOGGER).log(level, "request", extra={"fields": given})
