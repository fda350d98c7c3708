from __future__ import annotations

from pathlib import Path

import cv2

from genconvit.recipe.plots import draw_recipes
from genconvit.recipe.report import RecipesReport
from tests.recipe.made_up import report


def test_a_report_tells_of_every_recipe_and_of_its_failures() -> None:
    found = report("ours", "other", "broken")
    ours, other, broken = found.recipes
    assert (ours.runs, other.runs, broken.runs) == (9, 9, 0)
    assert (ours.settings, other.settings) == ({}, {"train.epochs": 3})
    assert broken.minutes is None and len(broken.failures) == 9
    assert broken.failures["seed 2, val"] == "out of memory"
    assert found.cv is not None and found.val is not None
    assert (found.cv.sets[0].clips, found.val.sets[0].clips) == (96, 48)
    assert set(found.val.sets[0].results) == {"ours", "other"}
    assert found.notes == ["Val split: The intervals rest on 12 groups and are too narrow."]
    assert RecipesReport.model_validate_json(found.model_dump_json()) == found


def test_figures_are_drawn_also_where_recipes_failed(tmp_path: Path) -> None:
    paths = draw_recipes(tmp_path, report("ours", "a $name with$ signs", "broken"))
    assert [path.name for path in paths] == ["recipes.png", "recipe_epochs.png"]
    for path in paths:
        assert cv2.imread(str(path)).std() > 10
    assert draw_recipes(tmp_path, report("broken")) == []
