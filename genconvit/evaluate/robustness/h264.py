"""H.264 as a video host would encode a clip, by the `ffmpeg` program where there is one."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

from genconvit.data.video import FORMATS
from genconvit.errors import ClipError

LIMIT_S = 600
"""Seconds after which encoding one clip is given up."""


@functools.cache
def missing_h264() -> str:
    """Why H.264 cannot be encoded on this machine; empty where it can."""
    program = shutil.which("ffmpeg")
    if program is None:
        return "the program ffmpeg is not on the PATH"
    command = [program, "-hide_banner", "-encoders"]
    try:
        listed = subprocess.run(
            command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"the program {program} does not run ({type(error).__name__})"
    return "" if " libx264 " in listed.stdout else f"the program {program} has no encoder libx264"


def encode_h264(clip: Path, out: Path, crf: float, limit_s: float = LIMIT_S) -> None:
    """Encodes a clip anew, without its sound; times of frames stay as they are.

    Args:
        clip: A video file.
        out: An MP4 file to write.
        crf: Constant rate factor: 18 is hardly seen, 40 is poor.
        limit_s: Seconds that it may take.

    Raises:
        ClipError: The clip is no video file, or cannot be encoded in time.
    """
    if clip.is_dir():
        raise ClipError(f"{clip} is a folder of frames, which no host would encode", "not a clip")
    command = [
        *("ffmpeg", "-nostdin", "-v", "error", "-y"),
        # As in `genconvit.data.video`: a playlist that poses as a video opens nothing.
        *("-protocol_whitelist", "file", "-format_whitelist", FORMATS, "-i", f"file:{clip}"),
        # yuv420p halves the colours: sides must be even.
        *("-map", "0:v:0", "-an", "-vf", "crop=trunc(iw/2)*2:trunc(ih/2)*2"),
        *("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-threads", "1"),
        *("-crf", f"{crf:g}", f"file:{out}"),
    ]
    try:
        subprocess.run(
            command, check=True, capture_output=True, timeout=limit_s, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise ClipError(f"{clip} took ffmpeg more than {limit_s:g} s", "too large") from error
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip()
        why = said.splitlines()[-1] if said else type(error).__name__
        raise ClipError(f"ffmpeg cannot encode {clip} ({why})") from error
