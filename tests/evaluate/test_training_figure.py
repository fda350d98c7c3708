from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from genconvit.evaluate.training_figure import training_curves


def has_colour(path: Path, red: int, green: int, blue: int) -> bool:
    image = cv2.imread(str(path)).astype(int)
    return bool((np.abs(image - (blue, green, red)).sum(axis=2) < 12).any())


def epoch(number: int, best: bool = False, **val: float | None) -> dict[str, Any]:
    train = {"loss": 1.0 / number, "classification": 0.9 / number, "kl": None}
    return {"epoch": number, "lr": 1e-4, "train": train, "val": val, "best": best}


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
