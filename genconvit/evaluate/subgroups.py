"""The figures of parts of the clips: by source, by method, and by every other column of the CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from genconvit.evaluate.estimate import Estimate
from genconvit.evaluate.evaluated import EvaluatedClip
from genconvit.evaluate.metrics import VERDICTS
from genconvit.evaluate.resampling import measured_scores
from genconvit.evaluate.score_metrics import ScoreMetrics
from genconvit.wording import plural

MOST_VALUES = 50
LEAST_CLIPS = 10


class ClassVerdicts(BaseModel):
    """How the clips of one label were judged."""

    model_config = ConfigDict(frozen=True)

    clips: int
    shares: dict[str, float | None] = Field(description="Share of each verdict.")
    mean_p_fake: float | None = Field(description="Over the clips with a score.")


class Subgroup(BaseModel):
    """The clips with one value of a column."""

    model_config = ConfigDict(frozen=True)

    column: str
    value: str
    against: str = Field(description="Which real clips a method's fakes are measured against.")
    fake: ClassVerdicts
    real: ClassVerdicts
    scores: ScoreMetrics
    error: Estimate = Field(
        description="1 - balanced accuracy at the threshold: the mean share of the two classes "
        "that is on the wrong side."
    )
    too_small: bool = Field(
        description=f"Under {LEAST_CLIPS} fake or real clips with a score: not ranked."
    )


class WorstGroup(BaseModel):
    """The group with the worst figure of those that are large enough, and are not all clips."""

    model_config = ConfigDict(frozen=True)

    column: str
    value: str
    figure: Estimate


class Subgroups(BaseModel):
    """All groups. The first row is of all clips."""

    model_config = ConfigDict(frozen=True)

    rows: list[Subgroup]
    worst_auc: WorstGroup | None
    worst_error: WorstGroup | None
    notes: list[str]


def subgroups(rows: Sequence[EvaluatedClip], threshold: float) -> Subgroups:
    """Figures of each group.

    Args:
        rows: The clips with a label and a verdict, at least one.
        threshold: A score above it is called fake.

    Returns:
        A row for all clips, then for each value of `source`, `method` and the other columns. A
        column has rows where it has at most `MOST_VALUES` values, and another one than these two
        where it divides the clips at all, into fewer parts than there are clips. Of a method,
        fakes are measured against the reals of their sources, or against all where there are none.
    """
    found = [_group("all", "all clips", rows, threshold)]
    notes = []
    for column, read in _columns(rows).items():
        values = list(dict.fromkeys(filter(None, map(read, rows))))
        if len(values) > MOST_VALUES:
            notes.append(f"{column} has {len(values)} values and is left out of the groups.")
            continue
        if column not in ("source", "method") and not 1 < len(values) < len(rows):
            continue
        for value in sorted(values):
            members = [row for row in rows if read(row) == value]
            against = ""
            if column == "method":
                members, against = _with_reals(members, rows)
            found.append(_group(column, value, members, threshold, against))
    parts = [group for group in found if group.scores.n < found[0].scores.n]
    ranked = [group for group in parts if not group.too_small]
    small = len(parts) - len(ranked)
    if small:
        notes.append(
            f"{plural(small, 'group')} with under {LEAST_CLIPS} fake or real clips cannot be "
            "ranked."
        )
    return Subgroups(
        rows=found,
        worst_auc=_worst(ranked, lambda group: group.scores.estimate("auc"), lowest=True),
        worst_error=_worst(ranked, lambda group: group.error, lowest=False),
        notes=notes,
    )


def class_verdicts(rows: Sequence[EvaluatedClip], label: str) -> ClassVerdicts:
    """How the clips of one label were judged."""
    verdicts = [row.verdict for row in rows if row.verdict and row.label == label]
    words: list[str] = [verdict.verdict for verdict in verdicts]
    scores = [v.probability_fake for v in verdicts if v.probability_fake is not None]
    return ClassVerdicts(
        clips=len(verdicts),
        shares={word: words.count(word) / len(words) if words else None for word in VERDICTS},
        mean_p_fake=float(np.mean(scores)) if scores else None,
    )


def clip_figures(rows: Sequence[EvaluatedClip], threshold: float) -> ScoreMetrics:
    """Figures of the clips with a label and a score, with intervals."""
    scored = [
        (row.label == "fake", row.verdict.probability_fake, row.group)
        for row in rows
        if row.label and row.verdict and row.verdict.probability_fake is not None
    ]
    is_fake, p_fake, groups = zip(*scored, strict=True) if scored else ((), (), ())
    return measured_scores(is_fake, p_fake, groups, threshold)


def _group(
    column: str,
    value: str,
    rows: Sequence[EvaluatedClip],
    threshold: float,
    against: str = "",
) -> Subgroup:
    scores = clip_figures(rows, threshold)
    right = scores.estimate("balanced_accuracy")
    return Subgroup(
        column=column,
        value=value,
        against=against,
        fake=class_verdicts(rows, "fake"),
        real=class_verdicts(rows, "real"),
        scores=scores,
        error=Estimate(value=_rest(right.value), low=_rest(right.high), high=_rest(right.low)),
        too_small=min(scores.fake, scores.real) < LEAST_CLIPS,
    )


def _columns(rows: Sequence[EvaluatedClip]) -> dict[str, Callable[[EvaluatedClip], str]]:
    """How to read each column of a clip; empty is no value."""
    others = dict.fromkeys(name for row in rows for name in row.columns)
    readers = {name: _reader(name) for name in others}
    return {"source": lambda row: row.source, "method": lambda row: _method(row), **readers}


def _reader(name: str) -> Callable[[EvaluatedClip], str]:
    return lambda row: row.columns.get(name, "")


def _method(row: EvaluatedClip) -> str:
    """A method is how a fake was made; lists may name one for real clips, such as "original"."""
    return row.method if row.label == "fake" else ""


def _with_reals(
    fakes: list[EvaluatedClip], rows: Sequence[EvaluatedClip]
) -> tuple[list[EvaluatedClip], str]:
    sources = sorted({row.source for row in fakes if row.source})
    reals = [row for row in rows if row.label == "real"]
    near = [row for row in reals if row.source in sources]
    if near:
        return fakes + near, f"real clips of {', '.join(sources)}"
    return fakes + reals, "all real clips"


def _worst(
    groups: Sequence[Subgroup], figure: Callable[[Subgroup], Estimate], *, lowest: bool
) -> WorstGroup | None:
    known = [(value, group) for group in groups if (value := figure(group).value) is not None]
    if not known:
        return None
    chosen = (min if lowest else max)(known, key=lambda pair: pair[0])[1]
    return WorstGroup(column=chosen.column, value=chosen.value, figure=figure(chosen))


def _rest(share: float | None) -> float | None:
    return None if share is None else 1 - share
