from __future__ import annotations

import pytest

from genconvit.config import DecisionSettings
from genconvit.evaluate.robustness.distortions import BY_NAME, CLEAN, Condition
from genconvit.evaluate.robustness.results import JudgedClip, JudgedModel, RobustnessReport, measure
from genconvit.evaluate.robustness.section import RobustnessSection, section_of
from genconvit.verdict import Verdict


def verdict(p_fake: float) -> Verdict:
    return Verdict(
        clip="",
        verdict="FAKE" if p_fake > 0.5 else "REAL",
        probability_fake=p_fake,
        reason="",
        frames_sampled=1,
        frames_with_face=1,
        tracks=[],
        timeline=[],
    )


def section(skill: float) -> RobustnessSection:
    """Of a model that knows nothing any more from JPEG quality 30 on."""
    clips = []
    for number in range(40):
        is_fake = number % 2 == 0
        clean = verdict(0.5 + (skill if is_fake else -skill) + number / 1000)
        levels = {Condition("jpeg", level): clean for level in (100, 75, 50)}
        levels |= {Condition("jpeg", level): verdict(number // 2 / 100) for level in (30, 10)}
        label = "fake" if is_fake else "real"
        clips.append(JudgedClip(str(number), label, "", {CLEAN: clean, **levels}))
    model = measure(JudgedModel("a", {}, DecisionSettings(), clips), [BY_NAME["jpeg"]])
    report = RobustnessReport(
        command="", about="40 clips", clips=40, fake=20, real=20, draws=2000, models=[model],
        not_measured={}, failures=[], notes=["a note"],
    )  # fmt: skip
    return section_of(report)


def test_a_row_tells_of_the_strongest_level_and_where_it_breaks() -> None:
    found = section(skill=0.3)
    [row] = found.rows
    assert (row.strongest, row.breaks_at) == ("JPEG quality 10", "JPEG quality 30")
    assert row.auc.value == pytest.approx(0.5)
    assert found.shows_breaks
    assert found.sentences[-1] == "a note"


def test_where_clean_clips_are_guessed_at_nothing_is_said_to_break() -> None:
    assert not section(skill=0.0).shows_breaks
