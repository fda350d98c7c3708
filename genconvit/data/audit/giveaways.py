"""Whether something that is no sign of forgery tells fake from real."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from genconvit.data.audit.features import METADATA, SPECTRUM
from genconvit.data.audit.scan import ScannedClip

FOLDS = 5
"""Also the groups that each class must have."""
HIGH = 0.8
"""An AUC above this is worth a warning."""


class FeatureAuc(BaseModel):
    """How well one feature alone tells fake from real."""

    name: str
    auc: float
    """0.5 to 1."""
    higher: str
    """The label whose values are higher."""


class Probe(BaseModel):
    """How well features together tell fake from real, in groups that were not learned from."""

    name: str
    auc: float
    features: list[FeatureAuc]
    """The most telling first."""

    @property
    def high(self) -> bool:
        """Whether that is worth a warning."""
        return self.auc > HIGH


def probes(clips: Sequence[ScannedClip]) -> list[Probe]:
    """Probes of metadata and of the spectrum.

    A logistic regression on the mean features of each clip, cross-validated by group, so that no
    clip is scored by a model that saw its group.

    Args:
        clips: Of all splits.

    Returns:
        None at all where a class has fewer than `FOLDS` groups.
    """
    clips = [clip for clip in clips if np.isfinite(clip.features).all() and clip.label in (0, 1)]
    fake = np.array([clip.label == 0 for clip in clips], int)
    groups = np.array([clip.group for clip in clips])
    if any(len(set(groups[fake == label])) < FOLDS for label in (0, 1)):
        return []
    values = np.array([clip.features for clip in clips])
    cut = len(METADATA)
    return [
        _probe("metadata", METADATA, values[:, :cut], fake, groups),
        _probe("spectrum", SPECTRUM, values[:, cut:], fake, groups),
    ]


def _probe(
    name: str,
    names: Sequence[str],
    values: NDArray[np.float64],
    fake: NDArray[np.int64],
    groups: NDArray[np.str_],
) -> Probe:
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000)
    )
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    scores = cross_val_predict(
        model, values, fake, groups=groups, cv=folds, method="decision_function"
    )
    singles = [_single(feature, values[:, at], fake) for at, feature in enumerate(names)]
    singles.sort(key=lambda single: -single.auc)
    return Probe(name=name, auc=float(roc_auc_score(fake, scores)), features=singles)


def _single(name: str, values: NDArray[np.float64], fake: NDArray[np.int64]) -> FeatureAuc:
    auc = float(roc_auc_score(fake, values))
    return FeatureAuc(name=name, auc=max(auc, 1 - auc), higher="fake" if auc >= 0.5 else "real")
