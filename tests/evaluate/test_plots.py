from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import decide
from genconvit.evaluate.plots import EVALUATION_FIGURES, evaluation_figures
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


def test_the_roc_curve_is_that_of_the_fakes(tmp_path: Path) -> None:
    """All fakes above all reals: the curve runs along the left and the upper edge."""
    draw(tmp_path, [("fake", 0.9), ("fake", 0.8), ("real", 0.2), ("real", 0.1)])
    image = cv2.imread(str(tmp_path / "roc_curve.png")).astype(int)
    blue = np.abs(image - (0xB2, 0x72, 0x00)).sum(axis=2) < 12
    rows, columns = np.nonzero(blue)
    assert len(rows) > 100
    assert rows.mean() < image.shape[0] / 2
    assert columns.mean() < image.shape[1] / 2
