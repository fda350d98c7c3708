"""One detector's robustness in short, for the report of its evaluation."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from genconvit.evaluate.estimate import Estimate
from genconvit.evaluate.robustness.distortions import BY_NAME
from genconvit.evaluate.robustness.results import RobustnessReport
from genconvit.evaluate.robustness.text import may_be_chance, summary


class RobustnessRow(BaseModel):
    """A distortion at its strongest."""

    model_config = ConfigDict(frozen=True)

    strongest: str = Field(description="The level in words, such as JPEG quality 10.")
    auc: Estimate
    auc_difference: Estimate = Field(description="To the same clips as they are.")
    changed: float = Field(description="Share of clips with another verdict.")
    clips_without_face: float
    breaks_at: str | None = Field(description="The level from which on it breaks, in words.")


class RobustnessSection(BaseModel):
    """What the report says of robustness; all levels are in robustness.json."""

    model_config = ConfigDict(frozen=True)

    about: str
    fake: int
    real: int
    sentences: list[str]
    rows: list[RobustnessRow]
    shows_breaks: bool = Field(
        description="Whether the AUC on the clips as they are is sure enough to tell breaking."
    )


def section_of(report: RobustnessReport) -> RobustnessSection:
    """The section of a run with one model."""
    (model,) = report.models
    rows = []
    for curve in model.curves:
        kind, last, broken = BY_NAME[curve.distortion], curve.levels[-1], curve.breaks_at()
        rows.append(
            RobustnessRow(
                strongest=kind.at(last.level),
                auc=last.auc,
                auc_difference=last.auc_difference,
                changed=last.changed,
                clips_without_face=last.clips_without_face,
                breaks_at=kind.at(broken.level) if broken else None,
            )
        )
    return RobustnessSection(
        about=report.about,
        fake=report.fake,
        real=report.real,
        sentences=[*summary(report), *report.notes],
        rows=rows,
        shows_breaks=not may_be_chance(model),
    )
