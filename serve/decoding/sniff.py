"""What an uploaded file is, by its content alone, never by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Literal

import PIL.Image

HEAD_BYTES = 512
"""As much of a file's beginning tells what it is."""

PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

READ_HERE = (
    "MP4, MOV, MKV, WebM, AVI, MPEG, TS, FLV, WMV, OGV, MXF, IVF, GIF, JPEG, PNG, WebP or BMP"
)
"""What `sniff` knows, for a sentence."""


@dataclass(frozen=True)
class Content:
    """What a file is."""

    medium: Literal["image", "video"]
    """A GIF is a video: it may move."""
    kind: str
    """Its format, such as `jpeg` or `matroska`."""


def sniff(head: bytes) -> Content | None:
    """Tells a clip or image by how it begins.

    What follows the beginning does not matter: a JPEG with a ZIP archive behind it is a JPEG, and
    is read as nothing else.

    Args:
        head: The first `HEAD_BYTES` of the file, or all of a shorter one.

    Returns:
        None for all that is not decoded here: text, playlists, SVG, archives, other image formats.
    """
    for content, fits in _SIGNS:
        if fits(head):
            return content
    return None


def image_size(file: BinaryIO) -> tuple[int, int] | None:
    """Width and height of an image as its header claims them; no pixel is decoded.

    It parses untrusted bytes, so it belongs into the process that decodes.

    Returns:
        None where the header cannot be read. A decoder may still make sense of the file.
    """
    try:
        with PIL.Image.open(file, formats=PILLOW_FORMATS) as image:
            return image.size
    except MemoryError:
        raise
    except Exception:  # Pillow's parsers raise nearly anything for a malformed header
        return None


def _starts(*signs: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(signs)


def _riff(form: bytes) -> Callable[[bytes], bool]:
    return lambda head: head[:4] == b"RIFF" and head[8:12] == form


def _is_bmp(head: bytes) -> bool:
    # Two letters are a weak sign; the size of the second header is one of a few numbers.
    sizes = (12, 40, 52, 56, 64, 108, 124)
    return head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in sizes


def _is_mp4(head: bytes) -> bool:
    """ISO base media and QuickTime, without the still images (AVIF, HEIC) that look alike."""
    if head[4:8] == b"ftyp":
        return head[8:12] not in _STILL_BRANDS
    return head[4:8] in {b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}


_STILL_BRANDS = {b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"}


def _is_transport_stream(head: bytes) -> bool:
    """A sync byte each 188 bytes, or each 192 where a time stamp precedes every packet (M2TS)."""
    return any(
        len(head) > first + 2 * step and all(head[first + i * step] == 0x47 for i in range(3))
        for first, step in ((0, 188), (4, 192))
    )


_SIGNS: tuple[tuple[Content, Callable[[bytes], bool]], ...] = (
    (Content("image", "jpeg"), _starts(b"\xff\xd8\xff")),
    (Content("image", "png"), _starts(b"\x89PNG\r\n\x1a\n")),
    (Content("image", "webp"), _riff(b"WEBP")),
    (Content("image", "bmp"), _is_bmp),
    (Content("video", "gif"), _starts(b"GIF87a", b"GIF89a")),
    (Content("video", "mp4"), _is_mp4),
    (Content("video", "matroska"), _starts(b"\x1a\x45\xdf\xa3")),
    (Content("video", "avi"), _riff(b"AVI ")),
    (Content("video", "mpeg"), _starts(b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")),
    (Content("video", "mpeg-ts"), _is_transport_stream),
    (Content("video", "flv"), _starts(b"FLV\x01")),
    (Content("video", "asf"), _starts(bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"))),
    (Content("video", "ogg"), _starts(b"OggS")),
    (Content("video", "mxf"), _starts(bytes.fromhex("060e2b34020501010d010201"))),
    (Content("video", "ivf"), _starts(b"DKIF")),
)
