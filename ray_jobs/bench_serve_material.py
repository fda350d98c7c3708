"""What `genconvit bench serve` sends: images, clips or crops, made from the demo's film."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path
from typing import Literal

import cv2

from genconvit.config import PreprocessSettings, SamplingSettings
from genconvit.data.crops import extract_crops
from genconvit.data.demo import write_film
from genconvit.data.video import evenly_spaced

Kind = Literal["images", "clips", "crops"]

IMAGES, IMAGE_SIDE, IMAGE_QUALITY = 16, 300, 85
"""How many, pixels, and of JPEG: about 15 KB each."""
CLIP_SECONDS = 10
FILM_SECONDS = 4
CROP_FRAMES = 16


def make_requests(
    kind: Kind, folder: Path, preprocess: PreprocessSettings, crops_a_request: int
) -> list[list[Path]]:
    """Writes files.

    Args:
        kind: `images` of 300 px with one face, `clips` of 1280 x 720 and 10 s, or face `crops`.
        folder: Exists.
        preprocess: How crops are made.
        crops_a_request: How many go together.

    Returns:
        The files of each request, to be sent in turn.

    Raises:
        UserError: The package with the film is not installed.
    """
    if kind == "clips":
        return [[write_film(folder / "clip.mp4", CLIP_SECONDS)]]
    film = write_film(folder / "film.mp4", FILM_SECONDS)
    if kind == "images":
        return [[image] for image in _write_images(film, folder)]
    found = extract_crops(film, preprocess, SamplingSettings(frames=CROP_FRAMES))
    files = []
    for number, crop in enumerate(found.crops):
        files.append(folder / f"crop{number}.jpg")
        files[-1].write_bytes(crop.jpeg)
    return [list(islice(cycle(files), crops_a_request))]


def _write_images(film: Path, folder: Path) -> list[Path]:
    capture = cv2.VideoCapture(str(film))
    frames = []
    while (grabbed := capture.read())[0]:
        frames.append(grabbed[1])
    capture.release()
    paths = []
    for place in evenly_spaced(len(frames), IMAGES):
        height, width = frames[place].shape[:2]
        left = (width - height) // 2
        square_HWC = frames[place][:, left : left + height]
        image_HWC = cv2.resize(square_HWC, (IMAGE_SIDE,) * 2, interpolation=cv2.INTER_AREA)
        paths.append(folder / f"image{place}.jpg")
        cv2.imwrite(str(paths[-1]), image_HWC, [cv2.IMWRITE_JPEG_QUALITY, IMAGE_QUALITY])
    return paths
