from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregations import compare_aggregations
from genconvit.evaluate.evaluated import CropScore, EvaluatedClip, decide_crops

RNG = np.random.default_rng(3)


def clip(name: str, label: str, sigmoids: bool = True) -> EvaluatedClip:
    """Frames 0 to 4 with two faces; of a fake one face is forged."""
    crops = []
    for frame in range(5):
        for track in (0, 1):
            logits = RNG.normal([[1.5 if label == "fake" and track else 0, 0.3]], 1, (2, 2))
            crop = CropScore.of(frame, frame / 5, track, (0, 0, 9, 9), logits, 1.3)
            if not sigmoids:
                crop = CropScore(frame, frame / 5, track, (0, 0, 9, 9), crop.p_fake, None)
            crops.append(crop)
    verdict = decide_crops(name, crops, 5, DecisionSettings())
    return EvaluatedClip(name, label, verdict, None, crops=crops)


ROWS = [clip(f"{label}/{i}.mp4", label) for label in ("fake", "real") for i in range(20)]
IS_FAKE = [row.label == "fake" for row in ROWS]


def test_every_aggregation_is_measured_on_the_clips_it_would_judge() -> None:
    results = compare_aggregations(ROWS, DecisionSettings(top_k=3))
    assert [r.name for r in results] == ["mean", "median", "top_k", "max", "confident", "original"]
    for result in results:
        settings = DecisionSettings.model_validate({"aggregation": result.name, "top_k": 3})
        verdicts = [decide_crops(row.name, row.crops, 5, settings) for row in ROWS]
        p_fake = np.array([verdict.probability_fake for verdict in verdicts])
        assert result.auc.value == pytest.approx(sk.roc_auc_score(IS_FAKE, p_fake))
        ap = sk.average_precision_score(IS_FAKE, p_fake)
        assert result.average_precision.value == pytest.approx(ap)
        assert result.accuracy.value == pytest.approx(sk.accuracy_score(IS_FAKE, p_fake > 0.5))
        assert result.log_loss.value == pytest.approx(sk.log_loss(IS_FAKE, p_fake))
        assert result.auc.low is not None and result.auc.low < result.auc.value


def test_what_was_fitted_belongs_to_the_aggregation_in_use_alone() -> None:
    decision = DecisionSettings(aggregation="max", threshold=0.8, isotonic=((0.2, 0.0), (0.9, 1.0)))
    results = {result.name: result for result in compare_aggregations(ROWS, decision)}
    assert [name for name, result in results.items() if result.in_use] == ["max"]
    assert (results["max"].threshold, results["mean"].threshold) == (0.8, 0.5)
    p_fake = np.array(
        [decide_crops(row.name, row.crops, 5, decision).probability_fake for row in ROWS]
    )
    right = sk.accuracy_score(IS_FAKE, p_fake > 0.8)
    assert results["max"].accuracy.value == pytest.approx(right)


def test_the_published_aggregation_needs_sigmoids() -> None:
    rows = [clip("a", "fake", sigmoids=False), clip("b", "real", sigmoids=False)]
    assert "original" not in [r.name for r in compare_aggregations(rows, DecisionSettings())]
    assert compare_aggregations([], DecisionSettings()) == []
