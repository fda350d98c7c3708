"""The process that decodes untrusted files for a `serve.decoding.sandbox.Sandbox`.

Standard input is a socket to the parent (`serve.decoding.wire` has what goes over it). A file that
hangs, crashes or takes over this process reaches nothing but its own request. Neither torch nor Ray
is imported, which keeps it small and quick to start.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import PIL.Image

from genconvit.config import SamplingSettings
from genconvit.data.crops import encode_crop
from genconvit.data.detectors import build_face_detector
from genconvit.errors import ClipError, UserError
from serve.decoding.clips import TooLargeError, send_clip, send_crops
from serve.decoding.wire import (
    CLIP_FD,
    CLIP_PATH,
    REQUEST,
    Answer,
    ClipRequest,
    CropsRequest,
    Limits,
    Ready,
    Refusal,
    Request,
    Start,
)

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
CPU_GRACE_S = 10
"""CPU time beyond a request's time budget, after which the kernel ends a process that the parent
does not."""


def main() -> None:
    """Gets ready, then answers one request after the other until the parent is gone."""
    _tie_to_parent()
    parent = socket.socket(fileno=0)
    start = _receive(parent)
    assert isinstance(start, Start)
    PIL.Image.MAX_IMAGE_PIXELS = None  # serve.decoding.clips has its own limit and says what it is
    try:
        _warm_up(start)
    except UserError as error:
        _send(parent, Refusal(cause="fault", kind="detector", detail=str(error)[:2000]))
        return
    _limit_itself(start.memory_mb)
    _send(parent, Ready())
    while (request := _receive(parent)) is not None:
        if not _answer(parent, request):
            return


def _answer(parent: socket.socket, request: Request) -> bool:
    """Answers a request; false when this process had better not take another one."""

    def send(header: Answer, contents: Iterable[bytes]) -> None:
        _send(parent, header, contents)

    try:
        if isinstance(request, ClipRequest):
            _limit_cpu(request.limits)
            send_clip(request, send)
        elif isinstance(request, CropsRequest):
            _limit_cpu(request.limits)
            send_crops(request, send)
    except TooLargeError as error:
        _send(parent, Refusal(cause="too large", kind="too large", detail=str(error)))
    except ClipError as error:
        large = error.kind == "too large"
        cause: Literal["too large", "unreadable"] = "too large" if large else "unreadable"
        _send(parent, Refusal(cause=cause, kind=error.kind, detail=str(error)))
    except ConnectionError:  # the parent is gone
        return False
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "code", 0) == cv2.Error.StsNoMem:
            _send(parent, Refusal(cause="memory", kind="memory", detail=""))
            return False
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}"
        _send(parent, Refusal(cause="fault", kind="fault", detail=where))
    finally:
        _forget_clip()
    return True


def _receive(parent: socket.socket) -> Request | None:
    """The next request, with its file at `CLIP_FD`; none when the parent is gone."""
    message, files, _, _ = socket.recv_fds(parent, 1, 2)
    if not message:
        return None
    request_fd, clip_fd = files
    os.dup2(clip_fd, CLIP_FD)
    os.close(clip_fd)
    with os.fdopen(request_fd, "rb") as file:
        file.seek(0)
        return REQUEST.validate_json(file.read())


def _send(parent: socket.socket, header: Answer, contents: Iterable[bytes] = ()) -> None:
    text = header.model_dump_json().encode()
    parent.sendall(b"".join([len(text).to_bytes(4, "big"), text, *contents]))


def _forget_clip() -> None:
    """Gives the clip's memory back; the number stays taken."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, CLIP_FD)
    os.close(nothing)


def _warm_up(start: Start) -> None:
    """Builds the face detector and crops a grey image, so that the first request is not slower."""
    build_face_detector(start.preprocess)
    grey = np.full((64, 64, 3), 128, np.uint8)
    file = os.memfd_create("grey")
    os.write(file, encode_crop(grey, 95))
    os.dup2(file, CLIP_FD)
    os.close(file)
    cv2.VideoCapture(CLIP_PATH, cv2.CAP_FFMPEG).release()
    request = ClipRequest(
        medium="image",
        kind="jpeg",
        preprocess=start.preprocess,
        sampling=SamplingSettings(),
        image_size=64,
        limits=Limits(max_pixels=4096, max_duration_s=1, max_frames=1, max_crops=100, time_s=60),
    )
    send_clip(request, lambda header, contents: None)
    _forget_clip()


def _tie_to_parent() -> None:
    """When the parent dies, so does this process; and it never gets more rights than it has."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Where memory runs out, the kernel shall end this process and not one that serves.
    Path("/proc/self/oom_score_adj").write_text("1000")


def _limit_itself(memory_mb: int) -> None:
    """No core dump, no file written, few files open, and no more memory than allowed."""
    for name, limit in (("CORE", 0), ("FSIZE", 0), ("NOFILE", CLIP_FD + 1)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    # What libraries reserve without using it (a quarter of a GB) does not count.
    reserved, used = (
        int(pages) * resource.getpagesize()
        for pages in Path("/proc/self/statm").read_text().split()[:2]
    )
    limit = reserved - used + memory_mb * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # What decoders print of a file is nobody's business, and could be a lot.
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.close(quiet)


def _limit_cpu(limits: Limits) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + limits.time_s) + CPU_GRACE_S
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
