"""What an audit leaves in its folder: audit.json, figures and a page with pictures."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from genconvit.data.audit.report import AuditReport, Crop
from genconvit.data.contact_sheet import contact_sheet, encode_png
from genconvit.data.crops import decode_crop
from genconvit.data.shards import SPLITS, FrameDataset
from genconvit.data.video import evenly_spaced
from genconvit.errors import ClipError
from genconvit.evaluate.figure import COLOURS, legend, new_figure
from genconvit.evaluate.pages import data_uri, render
from genconvit.files import replaced_file
from genconvit.folder import open_parquet

SHEET = 16
"""Pictures of each label and method."""
SHEETS = 12
PAIRS = 16
"""Pairs that look the same, side by side."""
FEATURES = 6
ROWS = 25
"""Rows of a long table; audit.json has all."""
SIDE = 96


def write_audit(
    out: Path, report: AuditReport, crops: Sequence[Crop], dataset: FrameDataset
) -> None:
    """Writes audit.json and report.html.

    Args:
        out: The folder; it is made.
        report: What was found.
        crops: The crops that were sampled.
        dataset: Where their pictures are.

    Raises:
        OSError: The folder cannot be written.
    """
    page = render(
        "audit.html",
        report=report,
        rows=ROWS,
        splits=[split for split in SPLITS if any(split in c.splits for c in report.balance)],
        figures=[(title, _uri(figure)) for title, figure in _figures(report)],
        sheets=_sheets(report, crops, dataset),
        pairs=_pairs(report, dataset),
        shown_features=FEATURES,
    )
    with replaced_file(out / "report.html") as aside:
        aside.write_text(page, encoding="utf-8")
    with replaced_file(out / "audit.json") as aside:
        aside.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _figures(report: AuditReport) -> list[tuple[str, Figure]]:
    figures = [
        ("Clips by split", _bars(report, "split", "Clips by split")),
        ("Clips by method", _bars(report, "method", "Clips by method")),
        ("Crops a clip", _histogram(report)),
    ]
    return figures + ([("Giveaways", _giveaways(report))] if report.probes else [])


def _bars(report: AuditReport, kind: str, title: str) -> Figure:
    counts = [count for count in report.balance if count.kind == kind]
    names = list(dict.fromkeys(count.name for count in counts))[:20]
    figure, axes = new_figure(title, "clips", "")
    start = np.zeros(len(names))
    for label in ("fake", "real"):
        sizes = {count.name: count.clips for count in counts if count.label == label}
        widths = np.array([sizes.get(name, 0) for name in names])
        axes.barh(range(len(names)), widths, left=start, color=COLOURS[label], label=label)
        start += widths
    axes.set_yticks(range(len(names)), [name[:30] for name in names], parse_math=False)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes, "best")
    return figure


def _histogram(report: AuditReport) -> Figure:
    figure, axes = new_figure("Crops a clip", "crops", "clips")
    counts = report.faces.crops_histogram
    most = max(counts, default=1)
    bins = np.linspace(-0.5, most + 0.5, min(40, most + 1) + 1).tolist()
    axes.hist(list(counts), bins=bins, weights=list(counts.values()), color=COLOURS["undecided"])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _giveaways(report: AuditReport) -> Figure:
    axis = "AUC (orange: higher in fake, blue: higher in real)"
    figure, axes = new_figure("How well each feature alone tells fake from real", axis, "")
    singles = [single for probe in report.probes for single in probe.features[:FEATURES]]
    names = [single.name for single in singles]
    colours = [COLOURS[single.higher] for single in singles]
    axes.barh(range(len(names)), [single.auc for single in singles], color=colours)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0.5, 1)
    return figure


def _sheets(
    report: AuditReport, crops: Sequence[Crop], dataset: FrameDataset
) -> list[tuple[str, str]]:
    """A contact sheet for each label and method, with pictures of as many clips as fit."""
    parts: dict[tuple[str, str], dict[str, Crop]] = defaultdict(dict)
    for crop in crops:
        parts[crop.label, crop.method or "method not given"].setdefault(crop.clip, crop)
    sheets = []
    for (label, method), of_clips in sorted(parts.items())[:SHEETS]:
        every = list(of_clips.values())
        chosen = [every[at] for at in evenly_spaced(len(every), SHEET)]
        images = read_crops(dataset, chosen)
        shown = [
            (image, crop) for image, crop in zip(images, chosen, strict=True) if image is not None
        ]
        sheet = contact_sheet([i for i, _ in shown], [_caption(c) for _, c in shown], cell=SIDE)
        sheets.append((f"{label}, {method}", data_uri(encode_png(sheet), "image/png")))
    return sheets


def _pairs(report: AuditReport, dataset: FrameDataset) -> str | None:
    """Crops that look the same, side by side, as one picture."""
    crops = [crop for pair in report.near[:PAIRS] for crop in (pair.first, pair.second)]
    images = read_crops(dataset, crops)
    whole = [image if image is not None else np.zeros((1, 1, 3), np.uint8) for image in images]
    if not whole:
        return None
    captions = [f"{at // 2 + 1}: {crop.label}, {crop.split}" for at, crop in enumerate(crops)]
    return data_uri(encode_png(contact_sheet(whole, captions, cell=SIDE)), "image/png")


def read_crops(dataset: FrameDataset, crops: Sequence[Crop]) -> list[NDArray[np.uint8] | None]:
    """The pictures of some crops, (96, 96, 3) RGB; None where one cannot be read."""
    wanted: dict[str, list[int]] = defaultdict(list)
    for number, crop in enumerate(crops):
        wanted[dataset.folder.at(crop.shard)].append(number)
    images: list[NDArray[np.uint8] | None] = [None] * len(crops)
    for path, numbers in wanted.items():
        with open_parquet(path) as file:
            # Those of the file: what a damaged shard's entry says can be wrong.
            sizes = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            for number in numbers:
                row = crops[number].row
                group = int(np.searchsorted(ends, row, side="right"))
                if group == len(sizes):
                    continue
                start = int(ends[group]) - sizes[group]
                column = file.read_row_group(group, columns=["image"])["image"]
                try:
                    images[number] = decode_crop(column[row - start].as_py(), SIDE)
                except ClipError:
                    continue
    return images


def _caption(crop: Crop) -> str:
    return crop.clip.rsplit("/", 1)[-1]


def _uri(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return data_uri(file.getvalue(), "image/png")
