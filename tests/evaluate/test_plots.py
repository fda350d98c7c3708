from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import decide
from genconvit.evaluate.plots import EVALUATION_FIGURES, evaluation_figures, training_curves
from genconvit.verdict import TimelinePoint, Verdict


def verdict_of(p_fake: float | None) -> Verdict:
    points = [] if p_fake is None else [p_fake]
    timeline = [
        TimelinePoint(time_s=0, frame_index=0, track=0, box=(0, 0, 1, 1), probability_fake=p)
        for p in points
    ]
    return decide("clip.mp4", timeline, 1, DecisionSettings())


def draw(out: Path, clips: list[tuple[str, float | None]]) -> list[str]:
    verdicts = [verdict_of(p_fake) for _, p_fake in clips]
    paths = evaluation_figures(out, [label for label, _ in clips], verdicts, DecisionSettings())
    assert sorted(path.name for path in out.glob("*.png")) == sorted(path.name for path in paths)
    assert all(cv2.imread(str(path)).std() > 5 for path in paths)
    return [path.name for path in paths]


def has_colour(path: Path, red: int, green: int, blue: int) -> bool:
    image = cv2.imread(str(path)).astype(int)
    return bool((np.abs(image - (blue, green, red)).sum(axis=2) < 12).any())


def epoch(number: int, best: bool = False, **val: float | None) -> dict[str, Any]:
    train = {"loss": 1.0 / number, "classification": 0.9 / number, "kl": None}
    return {"epoch": number, "lr": 1e-4, "train": train, "val": val, "best": best}


def test_two_classes_get_every_figure(tmp_path: Path) -> None:
    clips = [("fake", 0.9), ("fake", 0.4), ("real", 0.1), ("real", 0.6), ("real", None)]
    assert draw(tmp_path, clips) == list(EVALUATION_FIGURES)


def test_what_cannot_be_drawn_is_left_out(tmp_path: Path) -> None:
    one_class, no_score, nothing = (tmp_path / name for name in "abc")
    for folder in (one_class, no_score, nothing):
        folder.mkdir()
    assert draw(one_class, [("real", 0.2), ("real", 0.7)]) == list(EVALUATION_FIGURES[:3])
    assert draw(no_score, [("fake", None), ("real", None)]) == list(EVALUATION_FIGURES[:2])
    assert draw(nothing, []) == []


def test_training_curves_mark_the_best_epoch(tmp_path: Path) -> None:
    history = [epoch(1, loss=1.1, clip_auc=0.6), epoch(2, loss=0.7, clip_auc=0.8)]
    paths = training_curves(tmp_path, history)
    assert [path.name for path in paths] == ["loss_curves.png", "metric_curves.png"]
    assert not any(has_colour(path, 0x00, 0x9E, 0x73) for path in paths)
    history[1]["best"] = True
    paths = training_curves(tmp_path, history)
    assert all(has_colour(path, 0x00, 0x9E, 0x73) for path in paths)


def test_a_run_without_validation_has_losses_only(tmp_path: Path) -> None:
    history = [epoch(1, clip_auc=None) | {"lr": None, "val": None}]
    assert [path.name for path in training_curves(tmp_path, history)] == ["loss_curves.png"]
    assert training_curves(tmp_path, []) == []


def test_a_run_that_diverged_is_still_drawn(tmp_path: Path) -> None:
    history = [epoch(1, loss=1.0), epoch(2, loss=float("inf")), epoch(3, loss=float("nan"))]
    paths = training_curves(tmp_path, history)
    assert cv2.imread(str(paths[0])).std() > 5


def test_the_roc_curve_is_that_of_the_fakes(tmp_path: Path) -> None:
    """All fakes above all reals: the curve runs along the left and the upper edge."""
    draw(tmp_path, [("fake", 0.9), ("fake", 0.8), ("real", 0.2), ("real", 0.1)])
    image = cv2.imread(str(tmp_path / "roc_curve.png")).astype(int)
    blue = np.abs(image - (0xB2, 0x72, 0x00)).sum(axis=2) < 12
    rows, columns = np.nonzero(blue)
    assert len(rows) > 100
    assert rows.mean() < image.shape[0] / 2
    assert columns.mean() < image.shape[1] / 2
