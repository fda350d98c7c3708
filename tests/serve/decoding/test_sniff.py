from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.decoding.sniff import HEAD_BYTES, image_size, sniff
from tests.serve import hostile


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("jpg", "jpeg"), ("png", "png"), ("webp", "webp"), ("bmp", "bmp")],
)
def test_images_are_told_by_their_content(suffix: str, kind: str) -> None:
    content = hostile.image(suffix, 48, 32)
    found = sniff(content[:HEAD_BYTES])
    assert found is not None
    assert (found.medium, found.kind) == ("image", kind)
    assert image_size(io.BytesIO(content)) == (48, 32)


@pytest.mark.parametrize(
    ("suffix", "codec", "kind"),
    [
        ("mp4", "mp4v", "mp4"),
        ("mov", "mp4v", "mp4"),
        ("mkv", "mp4v", "matroska"),
        ("webm", "VP80", "matroska"),
        ("avi", "MJPG", "avi"),
        ("mpg", "PIM1", "mpeg"),
        ("ts", "mpg2", "mpeg-ts"),
        ("m2ts", "mpg2", "mpeg-ts"),
        ("flv", "FLV1", "flv"),
        ("wmv", "WMV2", "asf"),
    ],
)
def test_videos_are_told_by_their_content(
    suffix: str, codec: str, kind: str, tmp_path: Path
) -> None:
    found = sniff(hostile.video(tmp_path, suffix, codec)[:HEAD_BYTES])
    assert found is not None
    assert (found.medium, found.kind) == ("video", kind)


def test_a_gif_is_a_video() -> None:
    found = sniff(hostile.gif())
    assert found is not None
    assert found.medium == "video"


@pytest.mark.parametrize("name", sorted(hostile.NO_MEDIA))
def test_all_else_is_unknown(name: str) -> None:
    assert sniff(hostile.NO_MEDIA[name]) is None


def test_a_polyglot_is_what_it_begins_as() -> None:
    archive = hostile.zip_bomb()
    assert sniff(archive) is None
    found = sniff((hostile.image("jpg") + archive)[:HEAD_BYTES])
    assert found is not None
    assert found.kind == "jpeg"


@given(st.binary(max_size=HEAD_BYTES))
def test_no_content_upsets_it(head: bytes) -> None:
    sniff(head)


@given(hostile.mutations([hostile.image(s) for s in ("jpg", "png", "webp", "bmp")]))
def test_no_header_upsets_it(content: bytes) -> None:
    size = image_size(io.BytesIO(content))
    assert size is None or min(size) >= 0
