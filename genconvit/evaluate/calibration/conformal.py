"""A band of UNDECIDED with a stated error rate, and whether it was kept.

Conformal prediction for each class alone: a fake clip is judged REAL where its score is lower than
that of nearly all fake clips of the calibration set, and a real one FAKE where it is higher than
that of nearly all real ones. How likely this is depends on ranks alone, not on any model of the
scores (Vovk, https://arxiv.org/abs/1209.2673). Clips of a group are no independent witnesses: each
group counts once, and its clips share that (Lee, Barber and Willett,
https://arxiv.org/abs/2306.06342).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import betabinom, binomtest

from genconvit.errors import UserError
from genconvit.verdict import Verdict

Scores = NDArray[np.float64]
Names = NDArray[np.str_]

EDGE = 1e-9
"""A threshold is not nearer to 0 or 1."""
ROUNDING = 1e-9
"""Sums of fractions are not exact."""
CHANCE = 0.025
"""A rate is not kept where chance alone does as badly less often than this."""


def lowest_rate(groups: int) -> float:
    """The smallest error rate that so many groups of a class allow."""
    return 1 / (groups + 1)


def low_score(p_fake_N: Scores, group_N: Names, rate: float) -> float:
    """The highest of the scores that a new clip's is lower than with probability `rate` at most.

    Without groups of several clips it is the floor(rate * (N + 1))-th lowest.

    Args:
        p_fake_N: Scores of clips of one class.
        group_N: The group of each. The new clip is from another one.
        rate: From `lowest_rate` to below 1.
    """
    _, place_N, clips_G = np.unique(group_N, return_inverse=True, return_counts=True)
    order = np.argsort(p_fake_N, kind="stable")
    sorted_N = p_fake_N[order]
    weight_N = 1 / (clips_G[place_N] * (len(clips_G) + 1))
    up_to_N = np.append(0.0, weight_N[order].cumsum())
    lower_N = up_to_N[np.searchsorted(sorted_N, sorted_N, side="left")]
    allowed_N = lower_N + lowest_rate(len(clips_G)) <= rate + ROUNDING
    return float(sorted_N[allowed_N][-1])


def high_score(p_fake_N: Scores, group_N: Names, rate: float) -> float:
    """As `low_score`: the lowest of the scores that a new clip's is seldom higher than."""
    return -low_score(-p_fake_N, group_N, rate)


def refuse_too_few(groups: Mapping[str, int], rate: float, option: str) -> None:
    """Refuses a rate that is lower than the clips can tell of.

    Args:
        groups: How many groups of each class that the rate is for.
        rate: The rate.
        option: How it was given.

    Raises:
        UserError: It is too low.
    """
    lowest = lowest_rate(min(groups.values()))
    if rate < lowest - ROUNDING:
        needed = math.ceil(1 / rate - 1 - ROUNDING)
        have = " and ".join(f"{count} with {label} ones" for label, count in groups.items())
        raise UserError(
            f"{option} {rate:g} needs {needed} groups of clips a class, and there are {have}: "
            f"give {math.ceil(lowest * 1000) / 1000:g} or more, or more clips."
        )


def undecided_band(
    is_fake_N: NDArray[np.bool_],
    p_fake_N: Scores,
    group_N: Names,
    error_rate: float,
    threshold: float | None = None,
) -> tuple[float, tuple[float, float]]:
    """The threshold and the band around it that keep a stated error rate.

    Judged as `genconvit.evaluate.aggregate.judge` does, a new fake clip is REAL with probability
    `error_rate` at most, and a new real clip FAKE likewise, over the draw of these clips and it.

    Args:
        is_fake_N: Labels.
        p_fake_N: P(fake), calibrated.
        group_N: The group of each clip.
        error_rate: For each class alone.
        threshold: The band is widened to hold it. None: 0.5, or between the classes where no band
            is needed to tell them apart.

    Returns:
        The threshold and the band.

    Raises:
        UserError: There are too few clips for this rate.
    """
    groups = {
        label: len(np.unique(group_N[chosen]))
        for label, chosen in (("fake", is_fake_N), ("real", ~is_fake_N))
    }
    refuse_too_few(groups, error_rate, "--error-rate")
    low = low_score(p_fake_N[is_fake_N], group_N[is_fake_N], error_rate)
    high = high_score(p_fake_N[~is_fake_N], group_N[~is_fake_N], error_rate)
    if threshold is None:
        threshold = 0.5
        if high < low and not high <= threshold <= low:
            threshold = (high + low) / 2
    inside = min(max(threshold, EDGE), 1 - EDGE)
    return inside, (min(low, threshold, inside), max(high, threshold, inside))


class ClassCoverage(BaseModel):
    """How often the clips of a class were judged wrong."""

    model_config = ConfigDict(frozen=True)

    clips: int = Field(description="With a face; one without is UNDECIDED, never wrong.")
    wrong: int
    rate: float
    low: float = Field(description="Clopper and Pearson's 95 % interval of the rate, from here")
    high: float = Field(description="to here.")
    chance: float = Field(
        description="How often chance alone does as badly, in the clips tested and in those "
        "calibrated with, where the rate holds."
    )

    @property
    def holds(self) -> bool:
        """Whether the stated rate is not refuted."""
        return self.chance >= CHANCE


class CoverageCheck(BaseModel):
    """Whether a detector's stated error rate holds on other clips."""

    model_config = ConfigDict(frozen=True)

    stated_rate: float
    fake: ClassCoverage | None = Field(description="None without such clips.")
    real: ClassCoverage | None
    holds: bool | None = Field(description="None without clips.")
    sentence: str


def coverage_check(
    labels: Sequence[str],
    verdicts: Sequence[Verdict],
    stated_rate: float,
    calibration_groups: Mapping[str, int],
) -> CoverageCheck:
    """Holds the verdicts of clips against the error rate that a detector states.

    A rate that is kept on average over calibration sets is higher with some and lower with others,
    by a beta distribution (Vovk, https://arxiv.org/abs/1209.2673). Wrong verdicts are counted
    against that too: few calibration clips excuse more of them.

    Args:
        labels: "fake" or "real", one a clip.
        verdicts: One a clip, in the same order.
        stated_rate: The largest share of a class that is judged wrong.
        calibration_groups: Groups that it was calibrated with, by label.
    """
    found: dict[str, ClassCoverage | None] = {}
    parts = []
    for label, wrong_word in (("fake", "REAL"), ("real", "FAKE")):
        words: list[str] = [
            verdict.verdict
            for own, verdict in zip(labels, verdicts, strict=True)
            if own == label and verdict.probability_fake is not None
        ]
        wrong = words.count(wrong_word)
        found[label] = _class_coverage(len(words), wrong, stated_rate, calibration_groups[label])
        each = found[label]
        if each is not None:
            parts.append(
                f"{wrong} of {len(words)} {label} clips were judged {wrong_word} "
                f"({each.rate:.1%}, 95 % interval {each.low:.1%} to {each.high:.1%})"
            )
    known = [each for each in found.values() if each is not None]
    holds = all(each.holds for each in known) if known else None
    return CoverageCheck(
        stated_rate=stated_rate,
        fake=found["fake"],
        real=found["real"],
        holds=holds,
        sentence=_sentence(stated_rate, parts, known),
    )


def _class_coverage(clips: int, wrong: int, rate: float, groups: int) -> ClassCoverage | None:
    if not clips:
        return None
    interval = binomtest(wrong, clips).proportion_ci(confidence_level=0.95, method="exact")
    rank = max(1, math.floor(rate * (groups + 1) + ROUNDING))
    return ClassCoverage(
        clips=clips,
        wrong=wrong,
        rate=wrong / clips,
        low=float(interval.low),
        high=float(interval.high),
        chance=float(betabinom.sf(wrong - 1, clips, rank, groups + 1 - rank)),
    )


def _sentence(stated: float, parts: Sequence[str], known: Sequence[ClassCoverage]) -> str:
    if not known:
        return "No clip with a label and a face, so the stated error rate was not checked."
    if not all(each.holds for each in known):
        end = "it does not hold on these clips, which are not like those it was calibrated with."
    elif all(each.rate <= stated for each in known):
        end = "it holds."
    else:
        end = "it is exceeded, by no more than chance explains."
    return f"Stated error rate {stated:.1%} a class: {' and '.join(parts)}; {end}"
