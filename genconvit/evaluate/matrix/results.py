"""Models x datasets x methods: how good each model is at each kind of fake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from genconvit.evaluate.bootstrap import compare_variants
from genconvit.evaluate.estimate import Estimate
from genconvit.evaluate.evaluation import ClipFailure
from genconvit.verdict import Verdict

UNNAMED = "no method named"


@dataclass(frozen=True)
class MatrixClip:
    """A labelled clip that every model judged."""

    label: str
    method: str
    group: str
    verdicts: Mapping[str, Verdict]
    """By the model's name."""


@dataclass(frozen=True)
class JudgedDataset:
    """A dataset and what the models say of its clips."""

    name: str
    """Short, and no other dataset's."""
    location: str
    split: str | None
    """None: all of its clips."""
    digest: str | None
    """Of shards."""
    clips: Sequence[MatrixClip]
    flatters: Mapping[str, str]
    """Why its figures flatter a model, such as "trained on", by the model's name."""
    failures: Sequence[ClipFailure] = ()


class Cell(BaseModel):
    """A model on the fakes of one method, or on all, against all real clips of the dataset."""

    model_config = ConfigDict(frozen=True)

    model: str
    dataset: str
    method: str | None = Field(description="None: the fakes of all methods.")
    fake: int
    real: int
    auc: Estimate
    eer: Estimate
    accuracy: Estimate = Field(description="An UNDECIDED clip counts as wrong.")
    coverage: Estimate
    flatters: str | None = Field(description="Why the figures are too good, where they are.")


class MatrixDataset(BaseModel):
    """A dataset in matrix.json."""

    model_config = ConfigDict(frozen=True)

    name: str
    location: str
    split: str | None
    digest: str | None
    fake: int
    real: int
    failures: list[ClipFailure]

    @property
    def title(self) -> str:
        """With its split, such as "celeb, test"."""
        return f"{self.name}, {self.split}" if self.split else self.name


class MatrixReport(BaseModel):
    """The content of matrix.json."""

    model_config = ConfigDict(frozen=True)

    command: str
    draws: int = Field(description="Sets of clips behind the 95 % intervals.")
    models: dict[str, dict[str, Any]] = Field(description="What each detector is, by its name.")
    datasets: list[MatrixDataset]
    cells: list[Cell] = Field(description="By dataset, then method, then model.")
    notes: list[str]

    def rows(self) -> list[tuple[MatrixDataset, list[list[Cell]]]]:
        """For each dataset its rows, all methods together first; a row has a cell a model."""
        width = len(self.models)
        found = []
        for dataset in self.datasets:
            cells = [cell for cell in self.cells if cell.dataset == dataset.name]
            found.append((dataset, [cells[i : i + width] for i in range(0, len(cells), width)]))
        return found


def cells_of(dataset: JudgedDataset, models: Sequence[str]) -> list[Cell]:
    """All cells of a dataset: all methods together, then each, with a cell a model.

    Models are compared on the same draws of the clips. Where no fake has a method, there is one
    row.
    """
    methods = Counter(clip.method for clip in dataset.clips if clip.label == "fake")
    named = sorted(methods, key=lambda method: (method == "", method)) if any(methods) else []
    cells = []
    for method in (None, *named):
        clips = [
            clip
            for clip in dataset.clips
            if method is None or clip.label == "real" or clip.method == method
        ]
        labels = [clip.label for clip in clips]
        compared = compare_variants(
            labels,
            [[[clip.verdicts[model] for clip in clips]] for model in models],
            [clip.group for clip in clips],
        )
        cells += [
            Cell(
                model=model,
                dataset=dataset.name,
                method=UNNAMED if method == "" else method,
                fake=labels.count("fake"),
                real=labels.count("real"),
                **{name: found.metrics[name] for name in ("auc", "eer", "accuracy", "coverage")},
                flatters=dataset.flatters.get(model),
            )
            for model, found in zip(models, compared, strict=True)
        ]
    return cells


def summary(report: MatrixReport) -> list[str]:
    """In sentences: the best model of each dataset, and where each is weakest."""
    lines = [_best(dataset, rows[0]) for dataset, rows in report.rows()]
    for model in report.models:
        known = [
            (cell.auc.value, cell)
            for cell in report.cells
            if cell.model == model and cell.method and cell.auc.value is not None
        ]
        if len(known) > 1:
            _, cell = min(known, key=lambda pair: pair[0])
            lines.append(f"{model} is weakest on {cell.method} of {cell.dataset}: {_auc(cell)}.")
    flattered = list(
        dict.fromkeys(
            f"{cell.model} was {cell.flatters} {cell.dataset}"
            for cell in report.cells
            if cell.flatters
        )
    )
    if flattered:
        lines.append(f"Figures with * flatter their model: {'; '.join(flattered)}.")
    return lines


def _best(dataset: MatrixDataset, cells: Sequence[Cell]) -> str:
    known = [(cell.auc.value, cell) for cell in cells if cell.auc.value is not None]
    if not known:
        return f"{dataset.title}: the AUC is undefined; it needs fake and real clips with a face."
    top = max(value for value, _ in known)
    best = [cell for value, cell in known if value == top]
    star = "*" if best[0].flatters else ""
    if len(known) == 1:
        return f"{dataset.title}: {best[0].model} has {_auc(best[0])}."
    if len(best) > 1:
        names = ", ".join(cell.model for cell in best)
        return f"{dataset.title}: {len(best)} models share the highest AUC, {top:.3f}: {names}."
    return f"{dataset.title}: {best[0].model} has the highest AUC, {best[0].auc.text()}{star}."


def _auc(cell: Cell) -> str:
    return f"AUC {cell.auc.text()}" + ("*" if cell.flatters else "")
