"""What the network sees of a dataset: stored crops, their augmentation and self-blended fakes."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genconvit.config import CLASSES, AugmentSettings, Settings
from genconvit.data.augment import KINDS, build_augmentation
from genconvit.data.blend import CPU, SelfBlend, crop_margin, to_crops
from genconvit.data.contact_sheet import contact_sheet, encode_png
from genconvit.data.plan import Chunk, load_chunk, shuffled, whole
from genconvit.data.shards import FrameDataset, open_dataset
from genconvit.data.tensors import to_images
from genconvit.errors import UserError
from genconvit.files import replaced_file
from ray_jobs.output import Output

Image = NDArray[np.uint8]

DRAWS, BLENDS = 3, 2
CELL = 128
ROW_GROUPS = 32
"""How many of them are looked through for crops, at most."""
NOTHING = np.full((1, 1, 3), 255, np.uint8)


@dataclass(frozen=True)
class Stored:
    """A stored crop and what is known of it."""

    image: Image
    label: int
    clip: str
    method: str | None

    @property
    def caption(self) -> str:
        """Label, method and the clip's name, without its folders."""
        label = CLASSES[self.label]
        first = f"{label}, {self.method}" if self.method else label
        return f"{first}\n{Path(self.clip).name}"


def preview(
    data: str | Path, settings: Settings, out: Path, output: Output, *, split: str, count: int
) -> dict[str, Any]:
    """Draws crops of a dataset as training sees them: a row a crop, a column a treatment.

    Args:
        data: Shards: a folder or a URL.
        settings: `augment` and the network's `image_size`; `seed` draws the crops and the rest.
        out: The PNG.
        output: Where to tell of it.
        split: Whose crops.
        count: Crops, at most one a clip.

    Returns:
        What is emitted: `path` and the number of `crops`.

    Raises:
        UserError: There is no such dataset or split, or `out` cannot be written.
    """
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: the sheet is a PNG; give a name that ends in .png.")
    dataset = open_dataset(data)
    rows = choose(dataset, split, count, settings.seed, settings.model.image_size)
    torch.manual_seed(settings.seed)
    columns = [
        *augmented(rows, settings.augment),
        *blended(rows, crop_margin(dataset.preprocess)),
    ]
    cells = list(itertools.chain.from_iterable(zip(*columns, strict=True)))
    images, captions = zip(*cells, strict=True)
    sheet = contact_sheet(images, captions, columns=len(columns), cell=CELL)
    try:
        with replaced_file(out) as aside:
            aside.write_bytes(encode_png(sheet))
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror}).") from error
    output.say(f"{out}: {len(rows)} {split} crops, a row each, as training sees them")
    result = {"event": "preview", "path": str(out.resolve()), "crops": len(rows)}
    output.emit(result)
    return result


def choose(
    dataset: FrameDataset, split: str, count: int, seed: int, image_size: int
) -> list[Stored]:
    """Crops of different clips, half of them real where there are as many."""
    pieces = shuffled(whole(dataset.row_groups(split)), seed)
    found: dict[int, list[Stored]] = {0: [], 1: []}
    clips: set[str] = set()
    for piece in pieces[:ROW_GROUPS]:
        rows = load_chunk(Chunk((piece,)), image_size, ("label", "video_id", "method"))
        for row in random.Random(seed).sample(range(len(piece)), len(piece)):
            clip, label = str(rows["video_id"][row]), int(rows["label"][row])
            if clip not in clips:
                clips.add(clip)
                found[label].append(Stored(rows["image"][row], label, clip, rows["method"][row]))
        if min(len(crops) for crops in found.values()) >= count:
            break
    fakes = min(max(count // 2, count - len(found[1])), len(found[0]))
    return [*found[0][:fakes], *found[1][: count - fakes]]


def augmented(rows: list[Stored], settings: AugmentSettings) -> list[list[tuple[Image, str]]]:
    """Columns: as stored, draws of the whole augmentation, and each of its kinds for certain."""
    stored = np.stack([row.image for row in rows])
    columns = [[(row.image, row.caption) for row in rows]]
    none = dict.fromkeys(KINDS, 0.0)
    for name in [*["augmented"] * DRAWS, *KINDS]:
        update = {**none, name: 1.0} if name in KINDS else {}
        augmentation = build_augmentation(settings.model_copy(update=update))
        images = to_crops(augmentation(to_images(stored, CPU)))
        columns.append([(image_HWC, name) for image_HWC in images])
    return columns


def blended(rows: list[Stored], margin: float) -> list[list[tuple[Image, str]]]:
    """Columns: self-blended fakes of real crops, each beside its mask."""
    reals = [index for index, row in enumerate(rows) if row.label == 1]
    if not reals:
        return []
    stored = np.stack([rows[index].image for index in reals])
    columns = []
    for _ in range(BLENDS):
        fakes_BCHW, masks_B1HW = SelfBlend(margin).with_mask(to_images(stored, CPU))
        for images, name in ((fakes_BCHW, "self-blended"), (masks_B1HW, "its mask")):
            column: list[tuple[Image, str]] = [(NOTHING, "")] * len(rows)
            crops = to_crops(images.expand(-1, 3, -1, -1))
            for index, image_HWC in zip(reals, crops, strict=True):
                column[index] = (image_HWC, name)
            columns.append(column)
    return columns


if __name__ == "__main__":
    import sys

    from ray_jobs.cli import main

    main(["preview", *sys.argv[1:]])
