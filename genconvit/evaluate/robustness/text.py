"""Where detectors break, in sentences."""

from __future__ import annotations

from genconvit.evaluate.robustness.distortions import BY_NAME
from genconvit.evaluate.robustness.results import BROKEN, ModelCurves, RobustnessReport
from genconvit.wording import listed

MANY = 0.1
"""Share of the clips: where so many more have no face, the summary says so."""
DRIFTED = 0.05
"""Change of P(fake) from which on the summary tells of it."""


def summary(report: RobustnessReport) -> list[str]:
    """Where the models break, in sentences; the first ones of the page."""
    found = [_sentences(model, len(report.models) > 1) for model in report.models]
    lines = [first for first, *_ in found] + [line for _, *rest in found for line in rest]
    for name, reason in report.not_measured.items():
        lines.append(f"{BY_NAME[name].noun} was not measured: {reason}.")
    return lines


def _sentences(model: ModelCurves, named: bool) -> list[str]:
    who = f"{model.name}: " if named else ""
    auc = model.auc
    if auc.value is None:
        return [f"{who}The AUC is undefined: it needs fake and real clips with a face."]
    start = f"{who}AUC {auc.text()} on the clips as they are."
    about = [*_faces(model, who), *_drift(model, who)]
    if may_be_chance(model):
        return [f"{start} That may be chance, so these clips cannot show where it breaks.", *about]
    broken = [(curve, level) for curve in model.curves if (level := curve.breaks_at())]
    if not broken:
        lines = [f"{start} It stays above {BROKEN} of that under every distortion measured."]
    else:
        where = [BY_NAME[curve.distortion].at(level.level) for curve, level in broken]
        lines = [f"{start} It falls below {BROKEN} of that from {listed(where)} on."]
        kept = [
            BY_NAME[curve.distortion].noun
            for curve in model.curves
            if curve.clean_auc.value is not None and curve.breaks_at() is None
        ]
        if kept:
            lines[0] += f" It does not under {listed(kept)}."
        unsure = [
            BY_NAME[curve.distortion].noun
            for curve, level in broken
            if not level.auc_difference.excludes_zero
        ]
        if unsure:
            lines[0] += f" For {listed(unsure)} that may be chance: the change's interval holds 0."
    return [*lines, *about]


def may_be_chance(model: ModelCurves) -> bool:
    """Whether the AUC on the clips as they are is too unsure to see where the model breaks."""
    low = model.auc.low
    return model.auc.value is None or (low is not None and low <= 0.5)


def _faces(model: ModelCurves, who: str) -> list[str]:
    lost = []
    for curve in model.curves:
        for level in curve.levels:
            if level.clips_without_face >= model.clips_without_face + MANY:
                where = BY_NAME[curve.distortion].at(level.level)
                lost.append(f"{where} ({level.clips_without_face:.0%} of the clips)")
                break
    if not lost:
        return []
    return [f"{who}Many clips are left without a face, so without a score, from {listed(lost)} on."]


def _drift(model: ModelCurves, who: str) -> list[str]:
    lines = []
    for label, way in (("real", 1), ("fake", -1)):
        drifts = [
            (way * drift, BY_NAME[curve.distortion].at(level.level))
            for curve in model.curves
            for level in curve.levels
            if (drift := getattr(level, f"drift_{label}")) is not None
        ]
        worst, where = max(drifts, default=(0.0, ""))
        if worst >= DRIFTED:
            other = "fake" if label == "real" else "real"
            lines.append(
                f"{who}{label.capitalize()} clips drift furthest towards {other} at {where}: "
                f"P(fake) {way * worst:+.2f}."
            )
    return lines
