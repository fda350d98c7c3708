"""Models x datasets x methods: how good each model is at each kind of fake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from genconvit.evaluate.bootstrap import compare_variants
from genconvit.evaluate.clip_failure import ClipFailure
from genconvit.evaluate.estimate import Estimate
from genconvit.verdict import Verdict

UNNAMED = "no method named"
FIGURES = ("auc", "eer", "accuracy", "coverage")


class Problem(BaseModel):
    """Why a dataset was not judged by a model."""

    model_config = ConfigDict(frozen=True)

    kind: str = Field(description="In a word or two, for a cell.")
    reason: str = Field(description="As a sentence.")


@dataclass(frozen=True)
class MatrixClip:
    """A labelled clip that every model judged that judged the dataset at all."""

    label: str
    method: str
    group: str
    verdicts: Mapping[str, Verdict]
    """By the model's name."""


@dataclass(frozen=True)
class JudgedDataset:
    """A dataset and what the models say of its clips, or why they do not."""

    name: str
    """Short, and no other dataset's."""
    location: str
    split: str | None
    """None: all of its clips."""
    digest: str | None
    clips: Sequence[MatrixClip]
    flatters: Mapping[str, str]
    """Why its figures flatter a model, such as "trained on", by the model's name."""
    failures: Sequence[ClipFailure] = ()
    problems: Mapping[str, Problem] = field(default_factory=dict)
    """By the name of the model; without clips each has one."""
    digest_of: str | None = None
    """What the digest is made of."""


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
    problem: str | None = Field(None, description="Why there are no figures, in a word or two.")

    def text(self, figure: str = "auc") -> str:
        """One of its figures with the interval and the mark of one that flatters, or the problem.

        Args:
            figure: auc, eer, accuracy or coverage.
        """
        estimate: Estimate = getattr(self, figure)
        return self.problem or estimate.text() + ("*" if self.flatters else "")


class MatrixDataset(BaseModel):
    """A dataset in matrix.json."""

    model_config = ConfigDict(frozen=True)

    name: str
    location: str
    split: str | None
    digest: str | None
    digest_of: str | None
    fake: int
    real: int
    failures: list[ClipFailure]
    problems: dict[str, Problem] = Field(description="Why models did not judge it, by their names.")

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
    able = [model for model in models if model not in dataset.problems]
    cells = []
    for method in (None, *named):
        clips = [
            clip
            for clip in dataset.clips
            if method is None or clip.label == "real" or clip.method == method
        ]
        labels = [clip.label for clip in clips]
        groups = [clip.group for clip in clips]
        runs = [[[clip.verdicts[model] for clip in clips]] for model in able]
        found = compare_variants(labels, runs, groups) if able else []
        measured = {
            model: {name: each.metrics[name] for name in FIGURES}
            for model, each in zip(able, found, strict=True)
        }
        cells += [
            Cell(
                model=model,
                dataset=dataset.name,
                method=UNNAMED if method == "" else method,
                fake=labels.count("fake"),
                real=labels.count("real"),
                **(measured.get(model) or dict.fromkeys(FIGURES, Estimate())),
                flatters=dataset.flatters.get(model),
                problem=dataset.problems[model].kind if model in dataset.problems else None,
            )
            for model in models
        ]
    return cells


def summary(report: MatrixReport) -> list[str]:
    """In sentences: the best model of each dataset, and where each is weakest."""
    # What was not judged comes last: the first line is the page's lead.
    best = [(_best(dataset, rows[0]), rows[0]) for dataset, rows in report.rows()]
    lost = [line for line, cells in best if all(cell.problem for cell in cells)]
    lines = [line for line, _ in best if line not in lost]
    for model in report.models:
        known = [
            (cell.auc.value, cell)
            for cell in report.cells
            if cell.model == model and cell.method and cell.auc.value is not None
        ]
        if len(known) > 1:
            _, cell = min(known, key=lambda pair: pair[0])
            lines.append(
                f"{model} is weakest on {cell.method} of {cell.dataset}: AUC {cell.text()}."
            )
    flattered = list(
        dict.fromkeys(
            f"{cell.model} was {cell.flatters} {cell.dataset}"
            for cell in report.cells
            if cell.flatters
        )
    )
    if flattered:
        lines.append(f"Figures with * flatter their model: {'; '.join(flattered)}.")
    return lines + lost


def _best(dataset: MatrixDataset, cells: Sequence[Cell]) -> str:
    if all(cell.problem for cell in cells):
        why = next(iter(dataset.problems.values()))
        return f"{dataset.title} was not judged: {why.reason}"
    known = [(cell.auc.value, cell) for cell in cells if cell.auc.value is not None]
    if not known:
        return f"{dataset.title}: the AUC is undefined; it needs fake and real clips with a face."
    top = max(value for value, _ in known)
    best = [cell for value, cell in known if value == top]
    if len(known) == 1:
        return f"{dataset.title}: {best[0].model} has AUC {best[0].text()}."
    if len(best) > 1:
        names = ", ".join(cell.model for cell in best)
        return f"{dataset.title}: {len(best)} models share the highest AUC, {top:.3f}: {names}."
    return f"{dataset.title}: {best[0].model} has the highest AUC, {best[0].text()}."
