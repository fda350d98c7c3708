"""Real runs, a second each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from genconvit.config import Settings
from genconvit.data.clip_table import ClipRecord
from genconvit.errors import UserError
from genconvit.recipe.resident import Crops
from genconvit.recipe.run import Part, RunScores, run_recipe
from tests.conftest import small_settings

CPU = torch.device("cpu")
LEARNED = tuple(f"c{number}" for number in range(16))
HELD = tuple(f"c{number}" for number in range(16, 24))


@pytest.fixture(scope="module")
def crops() -> Crops:
    """24 clips of two crops; fakes are darker in the middle."""
    generator = np.random.default_rng(0)
    clips = tuple(
        ClipRecord(f"c{number}", ("fake", "real")[number % 2], f"g{number // 2}")
        for number in range(24)
    )
    images = generator.integers(0, 255, (48, 64, 64, 3), dtype=np.uint8)
    clip_of = np.arange(48) // 2
    images[clip_of % 2 == 0, 16:48, 16:48] //= 4
    return Crops(images, clip_of, clips, np.tile([0, 0, 40, 40], (48, 1)))


def settings(*texts: str) -> Settings:
    fixed = ("train.epochs=3", "train.batch_size=8", "train.lr=1e-3", "train.sched=cosine")
    return small_settings(*fixed, *texts)


def run(crops: Crops, job: Settings, every: int | None = None) -> RunScores:
    return run_recipe(job, Part(crops, LEARNED), Part(crops, HELD), CPU, every)


@pytest.fixture(scope="module")
def scores(crops: Crops) -> RunScores:
    return run(crops, settings())


def test_a_run_learns_and_judges_each_held_out_clip_once(crops: Crops) -> None:
    found = run(crops, settings("train.epochs=6"))
    assert found.clips == tuple(sorted(HELD))
    fake = {clip.name for clip in crops.clips if clip.label == "fake"}
    by_label = {True: [], False: []}
    for name, score in zip(found.clips, found.curve[6], strict=True):
        by_label[name in fake].append(score)
    assert min(by_label[True]) > max(by_label[False])
    assert found.seconds > 0


def test_judging_in_between_changes_nothing_and_gives_a_curve(
    crops: Crops, scores: RunScores
) -> None:
    often = run(crops, settings(), every=2)
    assert list(often.curve) == [2, 3]
    assert often.curve[3] == scores.curve[3]
    assert often.curve[2] != often.curve[3]


def test_nothing_is_learned_from_the_held_out_clips(crops: Crops, scores: RunScores) -> None:
    turned = tuple(
        replace(clip, label={"fake": "real", "real": "fake"}[clip.label])
        if clip.name in HELD
        else clip
        for clip in crops.clips
    )
    again = run(replace(crops, clips=turned), settings("train.sched=plateau"))
    same = run(crops, settings("train.sched=plateau"))
    assert again.curve == same.curve


def test_the_moving_average_is_what_is_judged(crops: Crops, scores: RunScores) -> None:
    slow = run(crops, settings("train.model_ema=true", "train.model_ema_decay=0.9"))
    assert slow.curve[3] != scores.curve[3]


def test_face_sizes_are_matched_where_they_differ(crops: Crops) -> None:
    """All faces are as large as the crop holds; then the fakes are half as large."""
    plain, matching = (
        settings("train.epochs=1", f"augment.match_face_size={on}") for on in ("false", "true")
    )
    small = np.where(crops.labels[:, None] == 0, crops.boxes // 2, crops.boxes)
    differing = replace(crops, boxes=small)
    alike = run(crops, plain).curve
    assert run(crops, matching).curve == run(differing, plain).curve == alike
    matched = run(differing, matching).curve
    assert matched != alike
    assert run(differing, matching).curve == matched


def test_clips_of_another_split_are_judged_alike(crops: Crops, scores: RunScores) -> None:
    rows = crops.rows_of(HELD)
    kept = tuple(clip for clip in crops.clips if clip.name in HELD)
    clip_of = crops.clip_of[rows] - len(LEARNED)
    other = Crops(crops.images[rows], clip_of, kept, crops.boxes[rows])
    found = run_recipe(settings(), Part(crops, LEARNED), Part(other, HELD), CPU)
    assert found.curve == scores.curve


def test_a_loss_that_is_no_number_ends_the_run(crops: Crops) -> None:
    job = settings("train.lr=1", "train.clip_grad=0", "train.epochs=20", "train.sched=plateau",
                   "loss.classification_weight=100", "train.max_skipped_steps=1")  # fmt: skip
    with pytest.raises(UserError, match="no longer finite"):
        run(crops, job)
