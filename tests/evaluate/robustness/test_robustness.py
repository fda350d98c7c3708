from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import judge
from genconvit.evaluate.bootstrap import compare_variants
from genconvit.evaluate.robustness.distortions import BY_NAME, CLEAN, Condition, conditions
from genconvit.evaluate.robustness.report import COLUMNS, write_robustness
from genconvit.evaluate.robustness.results import JudgedClip, JudgedModel, ModelCurves, measure
from genconvit.evaluate.robustness.text import summary
from genconvit.verdict import Verdict

CLIPS = 24
Answer = Callable[[float, Condition, np.random.Generator], float | None]
"""P(fake) as a logit, of that of the clip as it is; None where no face is found."""


def verdict(logit: float | None) -> Verdict:
    p_fake = None if logit is None else 1 / (1 + math.exp(-logit))
    return Verdict(
        clip="",
        verdict="UNDECIDED" if p_fake is None else judge(p_fake, DecisionSettings()),
        probability_fake=p_fake,
        reason="",
        frames_sampled=4,
        frames_with_face=0 if p_fake is None else 3,
        tracks=[],
        timeline=[],
    )


def judged(name: str, answer: Answer, skill: float = 2.0) -> JudgedModel:
    """A model that is good on clean clips, and answers as it is told on distorted ones."""
    rng = np.random.default_rng(0)
    clips = []
    for number in range(CLIPS):
        label = ("real", "fake")[number % 2]
        clean = rng.normal(skill if label == "fake" else -skill)
        verdicts = {CLEAN: verdict(clean)}
        for condition in conditions()[1:]:
            verdicts[condition] = verdict(answer(clean, condition, rng))
        clips.append(JudgedClip(f"{number}.mp4", label, f"g{number // 4}", verdicts))
    return JudgedModel(name, {"id": name}, DecisionSettings(), clips)


def holds(clean: float, condition: Condition, rng: np.random.Generator) -> float:
    return clean


def breaks(clean: float, condition: Condition, rng: np.random.Generator) -> float | None:
    """Noise from 0.08 on blinds it and alarms it, blur of 8 hides every second face."""
    if condition.distortion == "noise" and condition.level >= 0.08:
        return float(rng.normal(1.0))
    if condition.distortion == "blur" and condition.level == 8 and rng.random() < 0.5:
        return None
    return clean


def curves(model: JudgedModel, *names: str) -> ModelCurves:
    return measure(model, [BY_NAME[name] for name in names])


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("robustness") / "out"
    write_robustness(
        path,
        [judged("weak", breaks), judged("firm", holds)],
        command="genconvit evaluate --robustness",
        about="24 clips of somewhere",
        not_measured={"h264": "the program ffmpeg is not on the PATH"},
    )
    return path


def test_intervals_are_those_of_a_paired_bootstrap_over_groups() -> None:
    model = judged("weak", breaks)
    (curve,) = curves(model, "noise").curves
    labels = [clip.label for clip in model.clips]
    levels = [
        [
            [clip.verdicts[Condition("noise", level, seed)] for clip in model.clips]
            for seed in range(5)
        ]
        for level in BY_NAME["noise"].levels
    ]
    clean = [clip.clean for clip in model.clips]
    variants = [[clean], *levels, [levels[3][1]]]
    expected = compare_variants(labels, variants, [clip.group for clip in model.clips])
    assert curve.clean_auc == expected[0].metrics.auc
    for level, other in zip(curve.levels, expected[1:], strict=False):
        for mine, theirs in (
            (level.auc, other.metrics.auc),
            (level.auc_difference, other.differences.auc),
        ):
            assert mine.model_dump() == pytest.approx(theirs.model_dump())
    assert curve.levels[3].seeds[1].auc.model_dump() == pytest.approx(
        expected[-1].metrics.auc.model_dump()
    )


def test_it_breaks_from_the_level_after_which_it_never_recovers() -> None:
    def recovers(clean: float, condition: Condition, rng: np.random.Generator) -> float:
        return clean if condition.level not in (23, 34, 40) else float(rng.normal())

    (curve,) = curves(judged("a", recovers), "h264").curves
    broken = curve.breaks_at()
    assert broken is not None
    assert broken.level == 34
    (curve,) = curves(judged("a", holds), "h264").curves
    assert curve.breaks_at() is None
    (curve,) = curves(judged("a", lambda *_: None), "h264").curves
    broken = curve.breaks_at()
    assert broken is not None
    assert broken.level == 18
    assert broken.auc.value is None


def test_clips_that_have_no_h264_do_not_break_it() -> None:
    model = judged("a", holds)
    for clip in model.clips:
        clip.failures[Condition("h264", 18)] = "it is an image"
        del clip.verdicts[Condition("h264", 18)]
    (curve,) = curves(model, "h264").curves
    assert curve.clips == 0
    assert curve.breaks_at() is None


def test_drift_is_told_for_fake_and_real_apart() -> None:
    def redder(clean: float, condition: Condition, rng: np.random.Generator) -> float:
        return max(clean, 0.0) if condition.level == 10 else clean

    model = judged("a", redder)
    (curve,) = curves(model, "jpeg").curves
    last = curve.levels[-1]
    reals = [clip for clip in model.clips if clip.label == "real"]
    before = [clip.clean.probability_fake or 0.0 for clip in reals]
    after = [max(p_fake, 0.5) for p_fake in before]
    assert last.drift_real == pytest.approx(np.mean(after) - np.mean(before))
    assert last.drift_fake == pytest.approx(0.0, abs=0.05)
    words = [judge(p, DecisionSettings()) for p in (*before, *after)]
    changed = sum(a != b for a, b in zip(words[: len(reals)], words[len(reals) :], strict=True))
    assert last.changed == pytest.approx(changed / CLIPS, abs=1 / CLIPS)
    assert curve.levels[0].drift_real == 0.0
    assert curve.levels[0].changed == 0.0


def test_clips_without_a_face_are_counted_and_in_no_drift() -> None:
    (curve,) = curves(judged("weak", breaks), "blur").curves
    last = curve.levels[-1]
    assert 0.2 < last.clips_without_face < 0.8
    assert last.frames_without_face == pytest.approx(1 - 0.75 * (1 - last.clips_without_face))
    assert last.drift_fake == last.drift_real == 0.0
    assert curve.levels[0].clips_without_face == 0.0


def test_a_clip_that_fails_at_a_level_is_in_no_point_of_that_curve(tmp_path: Path) -> None:
    model = judged("a", holds)
    del model.clips[0].verdicts[Condition("h264", 40)]
    model.clips[0].failures[Condition("h264", 40)] = "it is an image"
    others = {each: "left out" for each in BY_NAME if each not in ("h264", "jpeg")}
    report = write_robustness(
        tmp_path, [model], command="", about="", not_measured=others, notes=["first"]
    )
    assert [curve.clips for curve in report.models[0].curves] == [CLIPS, CLIPS - 1]
    assert report.notes[0] == "first"
    assert "rest on 6 groups" in report.notes[1]
    assert f"1 of {CLIPS} clips have no H.264" in report.notes[2]
    assert "it is an image" in report.notes[2]


def test_the_first_sentences_say_where_it_breaks(out: Path) -> None:
    page = (out / "robustness.html").read_text()
    lead = page[page.index('class="lead"') :].split("</p>")[0]
    assert "It falls below 0.9 of that from noise of 0.08 of white on." in lead
    assert "It does not under JPEG, downscaling, blur," in lead
    assert "firm: AUC" in page
    assert "It stays above 0.9 of that under every distortion measured." in page
    assert "without a face, so without a score, from blur of 8 px at 720p" in page
    assert "Real clips drift furthest towards fake at noise of 0." in page
    assert "H.264 was not measured: the program ffmpeg is not on the PATH." in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_chance_on_clean_clips_is_not_called_robust() -> None:
    from genconvit.evaluate.robustness.results import RobustnessReport

    model = curves(judged("a", holds, skill=0.0), "jpeg")
    report = RobustnessReport(
        command="", about="", clips=CLIPS, fake=12, real=12, draws=2000, models=[model],
        not_measured={}, failures=[], notes=[],
    )  # fmt: skip
    (line,) = summary(report)  # and nothing of drift, where there is none
    assert "may be chance, so these clips cannot show where it breaks" in line


def test_files_hold_every_model_distortion_level_and_seed(out: Path) -> None:
    assert {path.name for path in out.iterdir()} == {
        "robustness.json", "robustness.csv", "robustness.html",
        "robustness_auc.png", "robustness_drift.png", "robustness_faces.png",
    }  # fmt: skip
    with (out / "robustness.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    levels = 8 * 5  # H.264 was not measured
    assert len(rows) == 2 * (1 + levels + 3 * 5 * 5)
    seeds = [row["seed"] for row in rows if row["distortion"] == "noise" and row["level"] == "0.08"]
    assert seeds == ["", "0", "1", "2", "3", "4"] * 2
    content = json.loads((out / "robustness.json").read_text())
    assert list(content["not_measured"]) == ["h264"]
    for path in out.glob("*.png"):
        assert min(Image.open(path).size) > 1000
