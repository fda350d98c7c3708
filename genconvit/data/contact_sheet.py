"""Many small pictures on one, to look at."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib import font_manager
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

INK, PAPER = (34, 39, 46), (255, 255, 255)
GAP = 4
FONT_SIZE, LINE = 10, 13


def contact_sheet(
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[str] = (),
    *,
    columns: int = 8,
    cell: int = 96,
) -> NDArray[np.uint8]:
    """Draws pictures in a grid, row by row, each with its caption below.

    Args:
        images: RGB, (H, W, 3), or grey, (H, W); of any size. Each is scaled to fit its cell.
        captions: One a picture, or none at all. A line that is wider than its cell is cut; a
            caption may have several lines.
        columns: Pictures in a row.
        cell: Side of a cell, pixels.

    Returns:
        (height, width, 3) RGB.

    Raises:
        ValueError: There are captions, but not one a picture.
    """
    if captions and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    lines = [caption.splitlines() for caption in captions] or [[] for _ in images]
    below = max((len(own) for own in lines), default=0) * LINE
    across = max(1, min(columns, len(images)))
    rows = max(1, -(-len(images) // across))
    step_x, step_y = cell + GAP, cell + GAP + below
    sheet = Image.new("RGB", (across * step_x + GAP, rows * step_y + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    places = itertools.product(range(rows), range(across))
    for (row, column), image, own in zip(places, images, lines, strict=False):
        x, y = GAP + column * step_x, GAP + row * step_y
        fitted_HWC = _fit(image, cell)
        height, width = fitted_HWC.shape[:2]
        sheet.paste(Image.fromarray(fitted_HWC), (x + (cell - width) // 2, y + cell - height))
        for number, line in enumerate(own):
            text = _cut(line, cell)
            draw.text((x, y + cell + number * LINE), text, fill=INK, font=_font())
    return np.asarray(sheet)


def encode_png(image_HWC: NDArray[np.uint8]) -> bytes:
    """Compresses an RGB picture as PNG."""
    _, png = cv2.imencode(".png", cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR))
    return png.tobytes()


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    # matplotlib brings this font along, so letters look the same everywhere.
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), FONT_SIZE)


def _cut(text: str, width: int) -> str:
    if _font().getlength(text) <= width:
        return text
    while text and _font().getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _fit(image: NDArray[np.uint8], cell: int) -> NDArray[np.uint8]:
    image_HWC = np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image
    height, width = image_HWC.shape[:2]
    scale = cell / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return image_HWC
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image_HWC, size, interpolation=interpolation)
