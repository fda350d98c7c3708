"""What an evaluation says in plain words."""

from __future__ import annotations

import numpy as np

from genconvit.config import DecisionSettings
from genconvit.data.audit.features import feature_names
from genconvit.evaluate.aggregate import decide
from genconvit.evaluate.evaluated import EvaluatedClip
from genconvit.evaluate.evaluation import evaluation_of
from genconvit.evaluate.evaluation_text import summary
from genconvit.verdict import TimelinePoint


def clip(
    number: int,
    label: str,
    p_fake: float,
    source: str = "",
    features: tuple[float, ...] | None = None,
) -> EvaluatedClip:
    point = TimelinePoint(
        time_s=0, frame_index=0, track=0, box=(0, 0, 1, 1), probability_fake=p_fake
    )
    name = f"{label}/{number}.mp4"
    verdict = decide(name, [point], 1, DecisionSettings())
    about = {"group": name, "source": source, "features": features}
    return EvaluatedClip(name, label, verdict, None, **about)


def told(rows: list[EvaluatedClip], fit: dict | None = None) -> str:
    return " ".join(summary(evaluation_of(rows, {}, DecisionSettings(), "", fit=fit)))


def test_no_mistake_among_few_clips_is_no_promise() -> None:
    text = told(
        [clip(i, label, p) for i in range(8) for label, p in (("fake", 0.9), ("real", 0.1))]
    )
    assert "Of 8 fake clips it called 8 FAKE and 0 REAL" in text
    assert "of those that it decides 0 (0 to 21) of 100 are wrong" in text
    assert "There are only 8 clips of one class" in text


def test_chance_and_the_weakest_source_are_named() -> None:
    rng = np.random.default_rng(0)
    rows = [
        clip(i, ("fake", "real")[i % 2], p, ("good", "bad")[i // 60])
        for i, p in enumerate(rng.uniform(size=120))
    ]
    text = told(rows)
    assert "That may be chance: the interval holds 0.5." in text
    assert "It is weakest on source " in text


def test_a_stated_error_rate_is_held_against_the_verdicts() -> None:
    fit = {"error_rate": 0.1, "groups": {"fake": 100, "real": 100}}
    rows = [clip(i, "fake", 0.1) for i in range(40)] + [clip(i, "real", 0.1) for i in range(40)]
    assert "40 of 40 fake clips were judged REAL" in told(rows, fit)
    assert "were judged REAL" not in told(rows)


def test_scores_that_follow_the_size_of_faces_are_warned_of() -> None:
    rng = np.random.default_rng(0)
    rows, honest = [], []
    for i in range(80):
        features = tuple(rng.normal(size=len(feature_names())).tolist())
        label, p_fake = ("fake", "real")[i % 2], float(rng.uniform())
        size = 100 * p_fake + rng.normal(0, 10)  # of the face, the first of all features
        rows.append(clip(i, label, p_fake, features=(size, *features[1:])))
        honest.append(clip(i, label, p_fake, features=features))
    text = told(rows)
    assert "Within a class, scores follow resolution" in text
    assert "most of all face size +0." in text and "augment.downscale" in text
    assert "scores follow" not in told(honest)
