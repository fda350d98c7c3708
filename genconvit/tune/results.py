"""What `sweep.json` holds: everything that the report of a sweep is made of."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

State = Literal["finished", "stopped", "failed", "unfinished"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Objective(_Part):
    """What trials are judged by."""

    name: str = Field(description="Such as clip_auc or ms_per_clip.")
    direction: Literal["maximize", "minimize"]


class TrialResult(_Part):
    """One trial."""

    number: int = Field(description="In the study, counted from 0.")
    state: State = Field(
        description="finished: to its epochs or its patience; stopped: by ASHA; failed; "
        "unfinished: the sweep ended before."
    )
    config: dict[str, Any] = Field(description="The searched settings, by dotted name.")
    scores: list[FiniteFloat] | None = Field(
        description="One an objective, of the detector that the trial keeps; null without one."
    )
    best_epoch: int | None
    epochs: int = Field(description="Epochs that were trained.")
    history: list[FiniteFloat | None] = Field(
        description="The validation clip AUC of the best detector so far, an epoch."
    )
    seconds: float = Field(description="Of training and validation, over all epochs.")
    gpus: float = Field(description="GPUs that it held; 0 on a CPU.")
    failure: str | None = Field(description="Why it failed.")
    detector: str | None = Field(description="Folder of the detector.")

    @property
    def device_hours(self) -> float:
        """Hours of a GPU, or of a run where there is none."""
        return self.seconds * (self.gpus or 1.0) / 3600


class Confirmation(_Part):
    """The winner and the start settings trained again, with seeds that neither was chosen by."""

    seeds: list[int]
    winner: list[FiniteFloat] = Field(description="Validation clip AUC, a seed.")
    start: list[FiniteFloat] = Field(description="The same of the start settings.")
    difference: float = Field(description="Mean of the winner less that of the start.")
    interval: tuple[float, float] = Field(description="95 % interval of the difference.")

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds no difference."""
        return self.interval[0] <= 0 <= self.interval[1]


class Final(_Part):
    """The winner's settings trained on the train and val splits together: nothing validates it."""

    trial: int = Field(description="Number of the winner.")
    epochs: int
    seeds: list[int]
    detectors: list[str] = Field(description="Folder of the detector, a seed.")


class SweepResults(_Part):
    """One sweep, in whatever state it is."""

    name: str
    objectives: list[Objective]
    space: dict[str, dict[str, Any]] = Field(
        description="By dotted name: {uniform: [low, high]}, {log: [low, high]}, {int: [low, high]}"
        " or {choice: [...]}, and perhaps when: {other setting: value}."
    )
    start: dict[str, Any] = Field(description="The searched settings as they are without a sweep.")
    epochs: int = Field(description="Most epochs of a trial.")
    stopping: str = Field(description="Such as asha, or none.")
    use_gpu: bool
    trials: list[TrialResult]
    best: list[int] = Field(
        description="Number of the winner, or of all trials of the Pareto front; the first is "
        "handed over."
    )
    importance: dict[str, float] | None = Field(
        description="Share of each searched setting in the variance of the first objective "
        "(fANOVA); null with too few trials."
    )
    confirmation: Confirmation | None = None
    final: Final | None = None

    @property
    def device_hours(self) -> float:
        """What the trials took."""
        return sum(trial.device_hours for trial in self.trials)

    @property
    def saved_hours(self) -> float:
        """What the epochs that ASHA cut off would have taken, at each trial's own pace.

        At most: a trial's patience might have ended it, too.
        """
        return sum(
            trial.device_hours / trial.epochs * max(0, self.epochs - trial.epochs)
            for trial in self.trials
            if trial.state == "stopped" and trial.epochs
        )
