"""Settings of a sweep."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from genconvit.config_data import Section

OBJECTIVES = {"clip_auc": "maximize", "ms_per_clip": "minimize"}
"""What a trial can be judged by, and which way is better."""


class TuneSettings(Section):
    """The search over settings."""

    trials: int = Field(20, ge=1, le=100_000, description="Settings to try.")
    space: dict[str, dict[str, Any]] | None = Field(
        None,
        description="What is searched, by the name of the setting: {uniform: [low, high]}, "
        "{log: [low, high]}, {int: [low, high]} or {choice: [...]}, and perhaps "
        "when: {other setting: value}; none: a default for the network.",
    )
    points: tuple[dict[str, Any], ...] = Field(
        (), description="Settings to try first, after the start settings."
    )
    objectives: tuple[Literal["clip_auc", "ms_per_clip"], ...] = Field(
        ("clip_auc",),
        description="Judged by the validation clip AUC of the detector that a trial keeps, and "
        "milliseconds that it takes for a clip's crops.",
    )
    sampler: Literal["tpe", "random", "nsga2"] | None = Field(
        None,
        description="How settings are chosen; none: TPE for one objective, NSGA-II for several.",
    )
    stopping: Literal["auto", "asha", "none"] = Field(
        "auto",
        description="Whether ASHA stops trials that fall behind; auto: with one objective.",
    )
    grace_period: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Epochs before ASHA may stop a trial; none: a ninth of the epochs.",
    )
    reduction_factor: int = Field(
        3, ge=2, le=100, description="ASHA lets one of so many trials go on at each rung."
    )
    workers_per_trial: int = Field(1, ge=1, le=4096, description="Training processes a trial.")
    gpus_per_worker: float = Field(
        1.0,
        gt=0,
        le=1,
        description="GPUs a worker; with a part of one, several trials share it.",
    )
    storage: str | None = Field(
        None, description="Optuna storage URL of the study; none: SQLite in the sweep's folder."
    )
    study: str | None = Field(
        None, description="Name of the study in the storage; none: that of the sweep's folder."
    )
    warm_start: str | None = Field(
        None, description="Folder of an earlier sweep, whose trials the sampler learns from."
    )
    confirm_seeds: int = Field(
        3,
        ge=0,
        le=100,
        description="Seeds with which the winner and the start settings are trained again.",
    )
    retrain_best: bool = Field(
        False,
        description="At the end, train the winner's settings on the train and val splits together.",
    )
    retrain_seeds: int = Field(3, ge=1, le=100, description="Seeds of that training.")
    retrain_epochs: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Its epochs; none: a quarter more than the winner's detector was kept after.",
    )

    @field_validator("objectives")
    @classmethod
    def _are_different(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "clip_auc" not in value or len(set(value)) < len(value):
            raise ValueError("takes clip_auc, and perhaps ms_per_clip, each once")
        return tuple(name for name in OBJECTIVES if name in value)

    @model_validator(mode="after")
    def _fits_together(self) -> TuneSettings:
        if self.gpus_per_worker < 1 and self.workers_per_trial > 1:
            raise ValueError(
                "tune.gpus_per_worker below 1 needs tune.workers_per_trial=1: the workers of a "
                "trial cannot share a GPU"
            )
        if self.storage is not None and self.study is None:
            raise ValueError("tune.storage needs a name in it: give tune.study, too")
        if self.confirm_seeds == 1:
            raise ValueError("tune.confirm_seeds=1 shows no spread; give 2 or more, or 0 for none")
        if len(self.objectives) > 1 and self.stopping == "asha":
            raise ValueError("tune.stopping=asha needs one objective; leave one of the two out")
        return self

    @property
    def stops(self) -> bool:
        """Whether ASHA is at work."""
        return self.stopping != "none" and len(self.objectives) == 1

    def grace(self, epochs: int) -> int:
        """Epochs before ASHA may stop a trial."""
        return min(self.grace_period or max(1, epochs // 9), epochs)
