from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from genconvit.data.audit.features import feature_names
from genconvit.recipe.figures import judged_clips
from genconvit.recipe.plots import draw_recipes
from genconvit.recipe.report import RecipesReport
from tests.recipe.made_up import records, report


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
    unknown = (
        "what scores follow: Not measured: resolution, compression, framing; the crops of these "
        "clips are not at hand."
    )
    assert found.notes == [
        f"Cross-validation, {unknown}",
        "Val split: The intervals rest on 12 groups and are too narrow.",
        f"Val split, {unknown}",
    ]
    assert RecipesReport.model_validate_json(found.model_dump_json()) == found


def test_a_recipe_whose_scores_follow_the_files_is_warned_of() -> None:
    generator = np.random.default_rng(1)
    names = feature_names()
    plain = {f"c{number:03d}": generator.normal(0, 1, len(names)) for number in range(96)}
    # Blurred clips are what the first recipe calls fake, in its folds.
    judged = judged_clips(
        {"ours": records("ours", 3, 2, 96, generator=np.random.default_rng(0), lift=0.5)}, 2
    )
    assert judged is not None
    for name, p_fake in zip(judged.clips, judged.scores["ours"].mean(axis=0), strict=True):
        plain[name][names.index("sharpness")] = -p_fake
    found = report("ours", "other", "broken", features={"train": plain})
    assert found.cv is not None and found.val is not None
    ours, other = (found.cv.score_probes[name] for name in ("ours", "other"))
    families = {family.name: family for family in ours.families}
    assert families["compression"].high and families["compression"].strongest == "sharpness"
    assert not families["framing"].high and not other.warnings
    [note] = [note for note in found.notes if "Cross-validation" in note]
    assert note.startswith("Cross-validation, ours: Within a class, scores follow compression")
    # Of the val split nothing is known but the source.
    of_val = [family.name for family in found.val.score_probes["ours"].families if family.reason]
    assert of_val == ["resolution", "compression", "framing"]
    assert RecipesReport.model_validate_json(found.model_dump_json()) == found


def test_figures_are_drawn_also_where_recipes_failed(tmp_path: Path) -> None:
    paths = draw_recipes(tmp_path, report("ours", "a $name with$ signs", "broken"))
    assert [path.name for path in paths] == ["recipes.png", "recipe_epochs.png"]
    for path in paths:
        assert cv2.imread(str(path)).std() > 10
    assert draw_recipes(tmp_path, report("broken")) == []
