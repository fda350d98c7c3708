"""Scores to probabilities, and a threshold and a band for them, fitted on validation clips.

`temperature` divides the logits of crops (Guo et al., https://arxiv.org/abs/1706.04599);
`isotonic` is a rising map of a clip's score (Zadrozny and Elkan, KDD 2002,
https://doi.org/10.1145/775047.775151). Both are fitted to Platt's targets instead of 0 and 1, as if
each class had one clip more on the other side ("Probabilistic outputs for support vector machines",
1999): however well the clips are told apart, no score becomes certainty. Both classes weigh alike,
whatever their shares among the clips; an isotonic map is then moved to the share in use.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, xlogy
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import StratifiedGroupKFold

from genconvit.checkpoint import ByClass, Calibration, CalibrationFit, JudgedFigures, ScoreFigures
from genconvit.config import DecisionSettings
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import calibrated, judge
from genconvit.evaluate.calibration.conformal import (
    high_score,
    lowest_rate,
    refuse_too_few,
    undecided_band,
)
from genconvit.evaluate.calibration.reliability import calibration_error
from genconvit.evaluate.clip_score import clip_score

METHODS = ("temperature", "isotonic", "none")
TEMPERATURES = np.geomspace(0.05, 20, 41)
"""All that are tried: some aggregations jump as the temperature goes, which misleads a search that
goes downhill."""
ISOTONIC_CLIPS, ISOTONIC_ENOUGH = 10, 100
"""Clips a class that an isotonic map needs, and that it should have."""
FOLDS = 5


@dataclass(frozen=True)
class LabelledClip:
    """A clip with a face, and what the network says of its N crops."""

    name: str
    is_fake: bool
    group: str
    logits: NDArray[np.float64]
    """(N, 2) for (fake, real), the mean where two networks judge."""
    frames: NDArray[np.int64]
    """(N) which frame each is of."""


@dataclass(frozen=True)
class Plan:
    """What a calibration is to achieve.

    Attributes:
        method: A name of `METHODS`.
        error_rate: The largest share of a class that is to be judged wrong.
        prevalence: Share of fake clips where the detector is used.
        cost_ratio: A missed fake costs so many false alarms; decides the threshold.
        max_fpr: The largest share of real clips above the threshold; decides it instead.

    Raises:
        UserError: A value is out of range, or two do not go together.
    """

    method: str = "temperature"
    error_rate: float = 0.1
    prevalence: float = 0.5
    cost_ratio: float | None = None
    max_fpr: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"--method {self.method}: the methods are {', '.join(METHODS)}.")
        for name, most in (("error_rate", 0.5), ("prevalence", 1.0), ("max_fpr", 1.0)):
            value = getattr(self, name)
            if value is not None and not 0 < value < most:
                option = "--" + name.replace("_", "-")
                raise UserError(f"{option} {value:g}: give a number between 0 and {most:g}.")
        if self.prevalence != 0.5 and self.method != "isotonic":
            raise UserError(
                f"--prevalence {self.prevalence:g} needs --method isotonic: a temperature makes "
                "scores more or less sure, and cannot make fakes rarer."
            )
        if self.cost_ratio is None:
            return
        if not 0.001 <= self.cost_ratio <= 1000:
            raise UserError(f"--cost-ratio {self.cost_ratio:g}: give a number of 0.001 to 1000.")
        if self.max_fpr is not None:
            raise UserError("give --cost-ratio or --max-fpr; both decide the threshold.")
        if self.method == "none":
            raise UserError(
                "--cost-ratio needs calibrated scores; take --method temperature or isotonic."
            )

    def threshold(self, clips: Clips, p_fake_C: NDArray[np.float64]) -> float | None:
        """Where the stated cost or rate puts the threshold; None where nothing is stated.

        P(fake) already is that at `prevalence`, so the lowest cost is to be had where a miss and a
        false alarm cost the same on average: at P(fake) * cost_ratio = 1 - P(fake).
        """
        if self.cost_ratio is not None:
            return 1 / (1 + self.cost_ratio)
        if self.max_fpr is not None:
            refuse_too_few({"real": clips.groups.real}, self.max_fpr, "--max-fpr")
            real_C = ~clips.is_fake
            return high_score(p_fake_C[real_C], clips.group[real_C], self.max_fpr)
        return None

    @property
    def threshold_rule(self) -> str:
        """What decides the threshold, in words."""
        if self.cost_ratio is not None:
            return f"a missed fake costs {self.cost_ratio:g} times a false alarm"
        if self.max_fpr is not None:
            return f"at most {self.max_fpr:.2%} of real clips above it"
        return "fake is likelier than real"


class Clips:
    """C labelled clips, with the scores that an aggregation gives them at any temperature.

    Args:
        clips: The clips.
        decision: Its aggregation is used.
    """

    def __init__(self, clips: Sequence[LabelledClip], decision: DecisionSettings) -> None:
        self.clips = clips
        self.decision = decision
        self.is_fake = np.array([clip.is_fake for clip in self.clips], dtype=bool)
        self.group = np.array([clip.group or clip.name for clip in self.clips], dtype=str)

    def __len__(self) -> int:
        return len(self.clips)

    def part(self, index: NDArray[np.int64]) -> Clips:
        """Some of the clips."""
        part = Clips([self.clips[i] for i in index], self.decision)
        if "all_scores" in vars(self):
            part.all_scores = self.all_scores[:, index]
        return part

    @cached_property
    def all_scores(self) -> NDArray[np.float64]:
        """Scores (T, C) at each of `TEMPERATURES`."""
        return np.stack([self.scores(float(temperature)) for temperature in TEMPERATURES])

    @property
    def groups(self) -> ByClass:
        """How many groups have clips of a class."""
        fake_C = self.is_fake
        return ByClass(
            fake=len(np.unique(self.group[fake_C])), real=len(np.unique(self.group[~fake_C]))
        )

    @property
    def counts(self) -> ByClass:
        """Clips of each class."""
        return ByClass(fake=int(self.is_fake.sum()), real=int((~self.is_fake).sum()))

    @property
    def targets(self) -> NDArray[np.float64]:
        """What each score (C) should be: Platt's targets."""
        counts = self.counts
        return np.where(self.is_fake, (counts.fake + 1) / (counts.fake + 2), 1 / (counts.real + 2))

    def weights(self, prevalence: float) -> NDArray[np.float64]:
        """Weights (C) that make the classes as frequent as they are in use."""
        counts = self.counts
        return np.where(self.is_fake, prevalence / counts.fake, (1 - prevalence) / counts.real)

    def scores(self, temperature: float) -> NDArray[np.float64]:
        """Scores (C) as `Detector.judge` finds them with this temperature."""
        found = []
        for clip in self.clips:
            fake_N, real_N = clip.logits.T / temperature
            p_fake_N = expit(fake_N - real_N)
            found.append(
                clip_score(p_fake_N, clip.frames, self.decision.aggregation, self.decision.top_k)
            )
        return np.array(found)


@dataclass(frozen=True)
class Calibrated:
    """What was found."""

    calibration: Calibration
    decision: DecisionSettings
    notes: list[str]


def calibrate(
    labelled: Sequence[LabelledClip], decision: DecisionSettings, plan: Plan, data_digest: str
) -> Calibrated:
    """Fits probabilities, threshold and band to clips that the network was not trained on.

    Threshold and band are found on the clips that the map was fitted to. With `isotonic` this costs
    nothing of the stated error rate, since a rising map keeps the ranks that the rate rests on;
    with `temperature` it does but through one number, and tests find no difference.

    Args:
        labelled: The clips.
        decision: Which aggregation; what else it says is found anew.
        plan: What it is to achieve.
        data_digest: Digest of the shards, for the record.

    Raises:
        UserError: There are too few clips.
    """
    # What was fitted before is no part of this.
    plain = DecisionSettings(aggregation=decision.aggregation, top_k=decision.top_k)
    clips = Clips(sorted(labelled, key=lambda clip: clip.name), plain)
    counts = clips.counts
    if not (counts.fake and counts.real):
        raise UserError(
            f"calibration needs clips of both classes with a face, and there are {counts.fake} "
            f"fake and {counts.real} real ones."
        )
    fewest = min(counts.fake, counts.real)
    if plan.method == "isotonic" and fewest < ISOTONIC_CLIPS:
        raise UserError(
            f"--method isotonic needs {ISOTONIC_CLIPS} clips a class with a face, and there are "
            f"{counts.fake} fake and {counts.real} real ones; take --method temperature."
        )
    temperature, mapped = _fit_map(clips, plan)
    decided = _fit_band(clips, temperature, mapped, plan)
    after, judged = _cross_validated(clips, plan)
    calibration = Calibration(
        temperature=temperature,
        fit=CalibrationFit(
            method=plan.method,
            aggregation=decision.aggregation,
            data_digest=data_digest,
            clips=counts,
            groups=clips.groups,
            prevalence=plan.prevalence,
            before=_figures(clips, clips.scores(1.0), plan),
            after=after,
            threshold_rule=plan.threshold_rule,
            error_rate=plan.error_rate,
            judged=judged,
        ),
    )
    notes = []
    if temperature in (TEMPERATURES[0], TEMPERATURES[-1]):
        notes.append(
            f"The temperature {temperature:g} is the last that is tried: the scores say little of "
            "how sure to be; look at the network's training."
        )
    if plan.method == "isotonic" and fewest < ISOTONIC_ENOUGH:
        notes.append(
            f"An isotonic map of {counts.fake} fake and {counts.real} real clips is coarse; with "
            f"fewer than {ISOTONIC_ENOUGH} a class, --method temperature is the safer one."
        )
    if after is None or judged is None:
        notes.append("There are too few groups of clips to cross-validate all figures.")
    return Calibrated(calibration, decided, notes)


def _fit_map(clips: Clips, plan: Plan) -> tuple[float, DecisionSettings]:
    """The temperature and the isotonic map."""
    target_C, weight_C = clips.targets, clips.weights(0.5)
    if plan.method == "temperature":
        p_TC = clips.all_scores.clip(1e-15, 1 - 1e-15)
        losses_TC = -xlogy(target_C, p_TC) - xlogy(1 - target_C, 1 - p_TC)
        return _lowest(losses_TC @ weight_C), clips.decision
    if plan.method == "none":
        return 1.0, clips.decision
    regression = IsotonicRegression().fit(clips.scores(1.0), target_C, sample_weight=weight_C)
    # Bayes' rule: at another share of fakes the odds are multiplied by the odds of that share.
    p_fake = expit(logit(regression.y_thresholds_) + logit(plan.prevalence))
    pairs = zip(regression.X_thresholds_.tolist(), p_fake.tolist(), strict=True)
    return 1.0, DecisionSettings(**{**clips.decision.model_dump(), "isotonic": tuple(pairs)})


def _lowest(loss_T: NDArray[np.float64]) -> float:
    """The temperature of the lowest loss, on a parabola through the best one and its neighbours."""
    best = int(np.argmin(loss_T))
    if best in (0, len(loss_T) - 1):
        return float(TEMPERATURES[best])
    before, at, after = loss_T[best - 1 : best + 2]
    bend = before - 2 * at + after
    shift = (before - after) / (2 * bend) if bend > 0 else 0.0  # from -0.5 to 0.5
    step = np.log(TEMPERATURES[1] / TEMPERATURES[0])
    return round(float(TEMPERATURES[best] * np.exp(shift * step)), 4)


def _fit_band(
    clips: Clips, temperature: float, mapped: DecisionSettings, plan: Plan
) -> DecisionSettings:
    """The map with a threshold and a band."""
    p_fake_C = _p_fake(clips, temperature, mapped)
    threshold, band = undecided_band(
        clips.is_fake, p_fake_C, clips.group, plan.error_rate, plan.threshold(clips, p_fake_C)
    )
    found = {"threshold": threshold, "undecided_band": band}
    return DecisionSettings.model_validate({**mapped.model_dump(), **found})


def _p_fake(clips: Clips, temperature: float, mapped: DecisionSettings) -> NDArray[np.float64]:
    return np.array([calibrated(float(score), mapped) for score in clips.scores(temperature)])


def _figures(clips: Clips, p_fake_C: NDArray[np.float64], plan: Plan) -> ScoreFigures:
    weight_C, fake_C = clips.weights(plan.prevalence), clips.is_fake
    said_C = np.where(fake_C, p_fake_C, 1 - p_fake_C).clip(1e-15)
    return ScoreFigures(
        log_loss=float(-weight_C @ np.log(said_C)),
        brier=float(weight_C @ (p_fake_C - fake_C) ** 2),
        ece=calibration_error(fake_C, p_fake_C, weight_C),
    )


def _cross_validated(clips: Clips, plan: Plan) -> tuple[ScoreFigures | None, JudgedFigures | None]:
    """Figures by what was fitted on clips of other groups; None where there are too few."""
    p_fake_C = np.full(len(clips), np.nan)
    word_C = np.full(len(clips), "", dtype=object)
    for train, test in _folds(clips):
        rest, out = clips.part(train), clips.part(test)
        groups = rest.groups
        if not min(groups.fake, groups.real):
            return None, None
        temperature, mapped = _fit_map(rest, plan)
        p_fake_C[test] = _p_fake(out, temperature, mapped)
        rate = min(plan.error_rate, plan.max_fpr or 1.0)
        if rate >= lowest_rate(min(groups.fake, groups.real)):
            decided = _fit_band(rest, temperature, mapped, plan)
            word_C[test] = [judge(p_fake, decided) for p_fake in p_fake_C[test]]
    if np.isnan(p_fake_C).any():
        return None, None
    figures = _figures(clips, p_fake_C, plan)
    if (word_C == "").any():
        return figures, None
    fake_C = clips.is_fake
    return figures, JudgedFigures(
        fake_judged_real=float(np.mean(word_C[fake_C] == "REAL")),
        real_judged_fake=float(np.mean(word_C[~fake_C] == "FAKE")),
        undecided=float(np.mean(word_C == "UNDECIDED")),
    )


def _folds(clips: Clips) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    groups = clips.groups
    folds = min(FOLDS, groups.fake, groups.real)
    if folds < 2:
        return
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it wants as many clips of each class as folds
        yield from splitter.split(np.zeros(len(clips)), clips.is_fake, clips.group)
