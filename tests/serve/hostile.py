"""Files as an attacker would upload them, made from small real ones."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
from hypothesis import strategies as st


def picture(width: int = 96, height: int = 64, seed: int = 0) -> np.ndarray:
    """Smooth random colours, uint8 (H, W, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def image(suffix: str, width: int = 96, height: int = 64) -> bytes:
    """An honest still image."""
    return cv2.imencode(f".{suffix}", picture(width, height))[1].tobytes()


def gif(frames: int = 6) -> bytes:
    """An honest GIF that moves."""
    first, *rest = [PIL.Image.fromarray(picture(seed=i)) for i in range(frames)]
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=rest, duration=100)
    return file.getvalue()


def video(folder: Path, suffix: str, codec: str, frames: int = 12, side: int = 96) -> bytes:
    """An honest video of 25 frames a second."""
    path = folder / f"honest.{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25.0, (side, side))
    for index in range(frames):
        writer.write(picture(side, side, index))
    writer.release()
    return path.read_bytes()


def png(width: int, height: int) -> bytes:
    """A valid black image of one bit a pixel, which compresses a thousandfold."""
    rows = zlib.compressobj(1)
    row = bytes(1 + (width + 7) // 8)
    block = max(1, 1_000_000 // len(row))
    data = [rows.compress(row * min(block, height - y)) for y in range(0, height, block)]
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
        (b"IDAT", b"".join([*data, rows.flush()])),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def jpeg_that_claims(width: int, height: int) -> bytes:
    """A small JPEG whose header says that it is larger."""
    content = bytearray(image("jpg"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def gif_that_claims(width: int, height: int) -> bytes:
    """A small GIF on a canvas of another size."""
    content = bytearray(gif())
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


def forged(mp4: bytes, box: bytes, offset: int, value: int) -> bytes:
    """An MP4 with one 32-bit field changed, `offset` bytes behind each such box's name."""
    content = bytearray(mp4)
    at = content.find(box)
    assert at > 0
    while at > 0:
        content[at + 4 + offset : at + 8 + offset] = struct.pack(">I", value)
        at = content.find(box, at + 4)
    return bytes(content)


def with_tracks(mp4: bytes, count: int) -> bytes:
    """An MP4 that has its one track `count` times."""
    movie, track = mp4.index(b"moov") - 4, mp4.index(b"trak") - 4
    movie_size, track_size = (int.from_bytes(mp4[at : at + 4], "big") for at in (movie, track))
    body = mp4[track : track + track_size]
    size = struct.pack(">I", movie_size + (count - 1) * track_size)
    return b"".join(
        [mp4[:movie], size, mp4[movie + 4 : track], body * count, mp4[track + track_size :]]
    )


def zip_bomb() -> bytes:
    """100 MB of zeros in 100 KB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(100_000_000))
    return file.getvalue()


NO_MEDIA: dict[str, bytes] = {
    "text": b"Dear reader, this is no clip.",
    "html": b"<!DOCTYPE html><html><script>alert(1)</script></html>",
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9e9"/>',
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj",
    "elf": b"\x7fELF\x02\x01\x01" + bytes(57),
    "tiff": b"II*\x00\x08\x00\x00\x00" + bytes(64),
    "avif": b"\x00\x00\x00\x20ftypavif\x00\x00\x00\x00avifmif1",
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "dash": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
}

NUMBERS = [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x01"]

Change = Callable[[bytes, int, bytes], bytes]

CHANGES: dict[str, Change] = {
    "overwrite": lambda content, at, new: content[:at] + new + content[at + len(new) :],
    "insert": lambda content, at, new: content[:at] + new + content[at:],
    "remove": lambda content, at, new: content[:at] + content[at + 37 * len(new) :],
    "repeat": lambda content, at, new: content[:at] + content[at : at + 99] * 9 + content[at:],
    "cut": lambda content, at, new: content[:at],
    "zero": lambda content, at, new: content[:at] + bytes(8 * len(new)) + content[at:],
}


MAGIC = 12
"""Bytes by which a file is recognised. Mostly left alone, or nobody would read the rest."""


@st.composite
def mutations(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A real file with a few changes, half of them near its beginning, where the headers are."""
    content = draw(st.sampled_from(seeds))
    changes = st.sampled_from(["overwrite"] * len(CHANGES) + sorted(CHANGES))
    start = draw(st.sampled_from([MAGIC] * 9 + [0]))
    for _ in range(draw(st.integers(1, 4))):
        change = CHANGES[draw(changes)]
        new = draw(st.one_of(st.sampled_from(NUMBERS), st.binary(min_size=1, max_size=8)))
        end = len(content) if draw(st.booleans()) else min(len(content), 512)
        content = change(content, draw(st.integers(min(start, end), end)), new)
    return content
