"""What scores follow besides forgery: probes of resolution, compression, framing and source.

A detector that has learned a shortcut scores clips by something that is no sign of forgery
(R. Geirhos et al., "Shortcut learning in deep neural networks", Nature Machine Intelligence, 2020).
Between the classes such a thing cannot be told from forgery where fakes have more of it than real
clips. So it is looked for *within* each class, where every clip has the same label: whatever
predicts the score there is something else than the label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import rankdata
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, PredefinedSplit, cross_val_predict

from genconvit.data.audit.features import SPECTRUM, feature_names
from genconvit.evaluate.estimate import Estimate
from genconvit.evaluate.resampling import (
    DRAWS,
    drawn_counts,
    estimated,
    group_index,
    resampled_spearman,
)
from genconvit.wording import plural

SOURCE = "source"
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "resolution": ("face size",),
    "compression": ("JPEG bytes", *SPECTRUM),
    "framing": ("face height / width", "face centre x", "face centre y", "face score"),
}
"""The features of a family; `SOURCE` is a family too, with a feature for each source."""
REMEDIES = {
    "resolution": "Clips of another size may be judged wrong: train with more augment.downscale",
    "compression": "Clips of another quality may be judged wrong: train with more augment.jpeg, "
    "augment.blur and augment.noise",
    "framing": "Faces that are framed otherwise may be judged wrong: train with more "
    "augment.affine",
    SOURCE: "Clips of other sources may be judged wrong: look at the AUC of each source, and train "
    "on more of them",
}
LIMIT = 0.3
"""A correlation that is surely above this is worth a warning. It is a medium effect, 9 % of the
variance of ranks (J. Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988). A little
is to be expected of any honest detector: forgeries are harder to see in small or compressed clips.
"""
ABOUT = (
    "Spearman correlation, within each class, of the score with what ridge regression predicts of "
    "it in groups that it did not learn from; about 0 or below is nothing. Most of all: the single "
    "feature that goes most with the score."
)
FOLDS = 5
LEAST_GROUPS = 2 * FOLDS
"""With fewer, a fold is a single group, and what is predicted is the chance of which one."""
PENALTY = 10.0
"""Of the ridge regression, in clips: as if so many had shown no relation. Features of one family
are alike, and without it few clips would be fitted by differences between them."""

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


class FamilyProbe(BaseModel):
    """How well one kind of features predicts scores within the classes."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="resolution, compression, framing or source.")
    clips: int = Field(description="Clips with a score of which the features are known.")
    correlation: Estimate = Field(
        Estimate(),
        description="Spearman correlation of the score's rank within its class with what the "
        "features predict of it, in groups not learned from; about 0 or below is nothing.",
    )
    strongest: str | None = Field(
        None, description="The single feature with the strongest correlation, either way."
    )
    strongest_correlation: float | None = Field(
        None, description="Its Spearman correlation with the score within the classes, with sign."
    )
    reason: str = Field("", description="Why there is no correlation; empty where there is one.")

    @property
    def high(self) -> bool:
        """Whether that is worth a warning."""
        return self.correlation.low is not None and self.correlation.low > LIMIT

    @property
    def strongest_text(self) -> str:
        """Such as "sharpness -0.48"; empty where there is none."""
        if self.strongest_correlation is None:
            return ""
        return f"{self.strongest} {self.strongest_correlation:+.2f}"

    @property
    def warning(self) -> str:
        """What is wrong, how strongly, and what to do."""
        return (
            f"Within a class, scores follow {self.name}: what it predicts of them has a "
            f"correlation of {self.correlation.text()} (most of all {self.strongest_text}). "
            f'{REMEDIES[self.name]} (docs/evaluation.md, "What scores follow").'
        )


class ScoreProbes(BaseModel):
    """What the scores of clips follow besides forgery."""

    model_config = ConfigDict(frozen=True)

    families: list[FamilyProbe]
    warnings: list[str] = Field(
        description=f"Of families whose interval lies wholly above {LIMIT}."
    )

    @property
    def reasons(self) -> list[str]:
        """Why families have no correlation, a sentence each reason."""
        names: dict[str, list[str]] = {}
        for family in self.families:
            if family.reason:
                names.setdefault(family.reason, []).append(family.name)
        return [f"Not measured: {', '.join(own)}; {reason}." for reason, own in names.items()]


def score_probes(
    is_fake: ArrayLike,
    p_fake: ArrayLike,
    groups: Sequence[str],
    sources: Sequence[str],
    features: Sequence[Sequence[float] | None],
    draws: int = DRAWS,
    networks: Sequence[str] | None = None,
) -> ScoreProbes:
    """Probes the scores of clips.

    Scores and features are replaced by their ranks within the class, so that neither the label, nor
    the scale of a score, nor an outlier counts. Where several networks have judged, each a part of
    the clips, ranks are within the class and the network: how high one scores all clips says
    nothing of the clips. A ridge regression over both classes learns to
    predict the score, cross-validated by group: no clip is predicted by a model that saw its group.
    Draws of whole groups give the interval (`genconvit.evaluate.resampling`); the regression is not
    learned anew in each.

    Args:
        is_fake: Labels (N): true is fake.
        p_fake: Scores (N) on any scale; NaN is none.
        groups: Groups (N); empty is a group of its own.
        sources: Sources (N).
        features: What was measured of each clip's crops (N), each in the order of
            `genconvit.data.audit.features.feature_names`; None where that is not known.
        draws: Sets of groups to draw.
        networks: Which network judged each clip (N), as in a cross-validation; None is one for all.

    Returns:
        All families, with a reason where one could not be measured.
    """
    score_N = np.asarray(p_fake, dtype=float)
    scored = np.flatnonzero(np.isfinite(score_N))
    judged_by = zip(np.asarray(is_fake, dtype=bool), networks or [""] * len(score_N), strict=True)
    strata_N = group_index([f"{fake} {network}" for fake, network in judged_by])
    clips = _Clips(strata_N, score_N, group_index(groups)).only(scored)
    names = feature_names()
    known = [features[place] for place in scored.tolist()]
    rows = [(np.nan,) * len(names) if row is None else row for row in known]
    values_NK = np.array(rows, dtype=float).reshape(len(scored), len(names))
    columns: dict[str, tuple[Sequence[str], _Floats]] = {
        family: (own, values_NK[:, [names.index(name) for name in own]])
        for family, own in FAMILIES.items()
    }
    columns[SOURCE] = _source_columns([sources[place] for place in scored.tolist()], clips.groups)
    families = [_family(name, own, own_NK, clips, draws) for name, (own, own_NK) in columns.items()]
    return ScoreProbes(
        families=families, warnings=[family.warning for family in families if family.high]
    )


@dataclass(frozen=True)
class _Clips:
    """Clips (N) as arrays: the number of each one's class and network, score, number of group."""

    strata: _Ints
    scores: _Floats
    groups: _Ints

    def __len__(self) -> int:
        return len(self.scores)

    def only(self, rows: _Ints) -> _Clips:
        return _Clips(self.strata[rows], self.scores[rows], self.groups[rows])


def ranks_within(values_N: _Floats, stratum_N: _Ints) -> _Floats:
    """Ranks (N) within each stratum, spread evenly about 0 with a deviation of 1 where none are
    tied; all 0 where the values of a stratum are equal."""
    ranks_N = np.zeros(len(values_N))
    for stratum in np.unique(stratum_N):
        mask_N = stratum_N == stratum
        count = int(mask_N.sum())
        ranks_N[mask_N] = (rankdata(values_N[mask_N]) - (count + 1) / 2) * np.sqrt(12) / count
    return ranks_N


def fold_of(index_N: _Ints) -> _Ints:
    """The fold of each clip (N), from 0; a group is whole in one.

    Args:
        index_N: The number of its group; at least `FOLDS` different ones.
    """
    fold_N = np.empty(len(index_N), np.int64)
    for fold, (_, held) in enumerate(GroupKFold(FOLDS).split(index_N, groups=index_N)):
        fold_N[held] = fold
    return fold_N


def _source_columns(sources: Sequence[str], index_N: _Ints) -> tuple[Sequence[str], _Floats]:
    """A column of 0 and 1 for each source that several groups have: of another one nothing can be
    learned in other groups."""
    source_N = np.array(sources, dtype=str)
    several = [
        source
        for source in sorted(set(sources))
        if len(set(index_N[source_N == source].tolist())) > 1
    ]
    columns = np.array([source_N == source for source in several], dtype=float)
    return (
        [f"source {source}" if source else "no source" for source in several],
        columns.reshape(len(several), len(source_N)).T,
    )


def _family(
    name: str, names: Sequence[str], values_NK: _Floats, clips: _Clips, draws: int
) -> FamilyProbe:
    known = np.flatnonzero(np.isfinite(values_NK).all(axis=1))
    own = clips.only(known)
    probe = FamilyProbe(name=name, clips=len(own))
    target_N = ranks_within(own.scores, own.strata)
    ranks = [ranks_within(column_N, own.strata) for column_N in values_NK[known].T]
    varied = {word: rank_N for word, rank_N in zip(names, ranks, strict=True) if rank_N.any()}
    reason = _hindrance(clips, own, target_N)
    if not names:
        reason = reason or "no source has clips of several groups"
    elif not varied:
        reason = reason or "all clips of a class are alike in it"
    if reason:
        return probe.model_copy(update={"reason": reason})
    # No intercept: ranks are about 0, and the mean of what was learned from would be that of the
    # clips held out, turned round.
    predicted_N = cross_val_predict(
        Ridge(PENALTY, fit_intercept=False),
        np.column_stack([*varied.values()]),
        target_N,
        cv=PredefinedSplit(fold_of(own.groups)),
    )
    value = _spearman(predicted_N, target_N)
    if np.isnan(value):
        return probe.model_copy(update={"reason": "what it predicts is the same of all clips"})
    groups = [str(number) for number in own.groups]
    drawn = [
        resampled_spearman(predicted_N, target_N, c_DN) for c_DN in drawn_counts(groups, draws)
    ]
    alone = {feature: _spearman(rank_N, target_N) for feature, rank_N in varied.items()}
    strongest = max(alone, key=lambda feature: abs(alone[feature]))
    found = {
        "correlation": estimated(value, np.concatenate(drawn)),
        "strongest": strongest,
        "strongest_correlation": alone[strongest],
    }
    return probe.model_copy(update=found)


def _hindrance(clips: _Clips, known: _Clips, target_N: _Floats) -> str:
    """Why nothing can be learned of those clips whose features are known; empty where something
    can."""
    if not len(clips):
        return "no clip has a score"
    if not len(known):
        return "the crops of these clips are not at hand"
    groups = len(set(known.groups.tolist()))
    if groups < LEAST_GROUPS:
        return f"{plural(groups, 'group')} of clips cannot tell, it takes {LEAST_GROUPS}"
    return "" if target_N.any() else "all clips of a class have the same score"


def _spearman(x_N: _Floats, y_N: _Floats) -> float:
    """NaN where all of one are equal."""
    return float(resampled_spearman(x_N, y_N, np.ones((1, len(x_N)), np.int64))[0])
