"""An evaluation in plain words."""

from __future__ import annotations

from scipy.stats import binomtest

from genconvit.evaluate.estimate import Estimate
from genconvit.evaluate.evaluation import EvaluationReport
from genconvit.evaluate.subgroups import WorstGroup

FEW_CLIPS = 100
"""Fewer of a class leave an accuracy open by 10 percentage points either way."""
CHANCE = 0.5


def summary(report: EvaluationReport) -> list[str]:
    """What a reader should know first, a sentence or two a paragraph."""
    where = [report.localisation.sentence()] if report.localisation else []
    follows = report.score_probes.warnings if report.score_probes else []
    return [*_verdicts(report), *_ranking(report), *_errors(report), *_groups(report), *where,
            *_robustness(report), *follows, *_trust(report)]  # fmt: skip


def _verdicts(report: EvaluationReport) -> list[str]:
    if report.metrics is None:
        words = ", ".join(f"{count} {word}" for word, count in report.verdicts.items())
        return [
            f"The detector gave a verdict on {report.judged} of {report.clips} clips: {words}. The "
            "clips have no labels, so this page cannot say how many of them are right."
        ]
    parts = []
    for label, right, wrong in (("fake", "FAKE", "REAL"), ("real", "REAL", "FAKE")):
        counts = report.metrics.confusion[label]
        total = sum(counts.values())
        if total:
            parts.append(
                f"Of {total} {label} {'clip' if total == 1 else 'clips'} it called "
                f"{counts[right]} {right} and {counts[wrong]} {wrong}, and was undecided about "
                f"{counts['UNDECIDED']}."
            )
    return [" ".join(parts)]


def _ranking(report: EvaluationReport) -> list[str]:
    scores = report.clip_scores
    if scores is None or scores.auc is None:
        return []
    auc = scores.estimate("auc")
    sentence = (
        f"Of a fake and a real clip, the fake one has the higher P(fake) in {100 * scores.auc:.0f} "
        f"of 100 pairs (AUC {auc.text()})."
    )
    if auc.low is not None and auc.high is not None and auc.low <= CHANCE <= auc.high:
        sentence += " That may be chance: the interval holds 0.5."
    found = scores.estimate("tpr_at_fpr_5_percent")
    if found.value is not None:
        sentence += (
            " With at most 5 of 100 real clips called fake, it would find "
            f"{_of_100(found, scores.fake)} fakes."
        )
    return [sentence]


def _errors(report: EvaluationReport) -> list[str]:
    if report.metrics is None or report.coverage.value is None:
        return []
    metrics = report.metrics
    sentence = f"It decides {_of_100(report.coverage, metrics.clips)} clips"
    if report.decided_error.value is not None:
        wrong = _of_100(report.decided_error, metrics.decided.clips)
        sentence += f", and of those that it decides {wrong} are wrong"
    sentences = [sentence + "."]
    if report.stated_error is not None:
        sentences.append(report.stated_error.sentence)
    return sentences


def _groups(report: EvaluationReport) -> list[str]:
    worst = report.subgroups.worst_auc if report.subgroups else None
    return [] if worst is None else [f"It is weakest on {_named(worst)}."]


def _named(worst: WorstGroup) -> str:
    return f"{worst.column} {worst.value} (AUC {worst.figure.text()})"


def _robustness(report: EvaluationReport) -> list[str]:
    if report.robustness is None:
        return []
    found = report.robustness
    return [
        f"Under distortion, of {found.fake} fake and {found.real} real clips: {found.sentences[0]}"
    ]


def _trust(report: EvaluationReport) -> list[str]:
    if report.metrics is None:
        return []
    sentences = []
    fewest = min(report.metrics.fake, report.metrics.real)
    if fewest < FEW_CLIPS:
        sentences.append(
            f"There are only {fewest} clips of one class: other clips would give other figures, "
            "within the intervals at best."
        )
    sentences.append(
        "The figures hold for clips like these. Other manipulations, sources or compression can "
        "give others."
    )
    return [" ".join(sentences)]


def _of_100(share: Estimate, clips: int) -> str:
    """A share of clips and its interval, such as "45 (38 to 52) of 100"."""
    assert share.value is not None
    low, high = share.low, share.high
    if low is not None and low == high:
        # All draws of clips alike are alike; so few of them leave more open than that.
        exact = binomtest(round(share.value * clips), clips).proportion_ci(method="exact")
        low, high = float(exact.low), float(exact.high)
    interval = (
        f" ({100 * low:.0f} to {100 * high:.0f})" if low is not None and high is not None else ""
    )
    return f"{100 * share.value:.0f}{interval} of 100"
