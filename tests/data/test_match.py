from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genconvit.config import Settings
from genconvit.data.match import (
    draw_factors,
    face_detail,
    match_detail,
    match_face_sizes,
)
from genconvit.train.step import Preparation
from tests.conftest import small_settings

CPU = torch.device("cpu")
DRAWS = 4000
details = st.lists(st.floats(1 / 64, 1.0, width=32), min_size=1, max_size=20)


def drawn(fake: list[float], real: list[float], seed: int) -> tuple[np.ndarray, ...]:
    """Detail, labels and factors of as many crops of each class, in the proportions given."""
    of_class = [np.array(one, np.float32) for one in (fake, real)]
    detail = np.concatenate([np.resize(one, DRAWS) for one in of_class])
    label = np.repeat([0, 1], DRAWS)
    return detail, label, draw_factors(detail, label, of_class, np.random.default_rng(seed))


@settings(max_examples=50, deadline=None)
@given(details, details, st.integers(0, 99))
def test_both_classes_come_out_with_the_same_face_sizes(
    fake: list[float], real: list[float], seed: int
) -> None:
    _, label, factors = drawn(fake, real, seed)
    first, second = (np.sort(factors[label == one, 1]) for one in (0, 1))
    at = np.unique(factors[:, 1])
    shares = [np.searchsorted(one, at, side="right") / DRAWS for one in (first, second)]
    # The distance of Kolmogorov and Smirnov; one sample in a million is further off.
    assert np.abs(shares[0] - shares[1]).max() < 2.7 * np.sqrt(2 / DRAWS)


@given(details, details, st.integers(0, 99))
def test_no_crop_is_given_more_detail_than_it_has(
    fake: list[float], real: list[float], seed: int
) -> None:
    detail, label, factors = drawn(fake, real, seed)
    others = np.array([min(real), min(fake)], np.float32)[label]
    assert ((factors[:, 0] == 1) | (factors[:, 0] < detail)).all()
    common = np.minimum(detail, factors[:, 0])
    assert (common >= np.minimum(detail, others)).all()
    assert (factors[:, 1] == common).all()


def test_where_a_class_has_no_crops_nothing_is_matched() -> None:
    detail = np.array([0.2, 0.9], np.float32)
    generator = np.random.default_rng(0)
    factors = draw_factors(detail, np.array([1, 1]), [detail[:0], detail], generator)
    assert (factors == 1).all()


def test_detail_is_the_share_of_the_crop_that_its_frame_filled() -> None:
    job = small_settings("preprocess.margin=0.25", "preprocess.size=48")  # a face has 32 pixels
    boxes = [[0, 0, 8, 6], [10, 10, 30, 42], [0, 0, 10, 500], [9, 9, 9, 9], [700, 0, 640, 0]]
    np.testing.assert_allclose(face_detail(boxes, job), [0.25, 1, 1, 1, 1])
    whole = small_settings("preprocess.detector=none", "preprocess.size=48")
    np.testing.assert_allclose(face_detail([[0, 0, 24, 12]], whole), [0.5])


def test_only_crops_with_a_factor_lose_detail() -> None:
    before = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    kept = before.clone()
    factors = torch.tensor([[1, 1], [0.5, 0.5], [1, 0.5], [0.25, 0.25]])
    after = match_detail(before, factors)
    assert torch.equal(before, kept)
    assert torch.equal(after[0], before[0])
    rough = [float((one[..., 1:] - one[..., :-1]).abs().mean()) for one in after]
    assert rough[0] > rough[2] > rough[3] and rough[2] > rough[1]
    assert after.min() >= 0 and after.max() <= 1


def faces_of(number: int, small: bool, label: int, side: int = 64) -> Tensor:
    """Noise of every size as extraction stores it; from a frame of a third of the pixels."""
    generator = torch.Generator().manual_seed(2 * number + label)
    images = 0.3 * torch.rand(number, 3, side, side, generator=generator)
    for cells in (4, 8, 16, 32):
        coarse = torch.rand(number, 3, cells, cells, generator=generator)
        images += 0.175 * F.interpolate(coarse, size=(side, side), mode="bilinear")
    if small:
        images = F.interpolate(images, scale_factor=1 / 3, mode="area")
        images = F.interpolate(images, size=(side, side), mode="bilinear")
    return images


def test_a_network_no_longer_sees_which_class_had_small_faces() -> None:
    """Of the finest half of the spectrum, which tells them at first beyond doubt."""
    count = 200
    images = torch.cat([faces_of(count, True, 0), faces_of(count, False, 1)])
    detail = np.repeat(np.array([21 / 64, 1], np.float32), count)
    label = np.repeat([0, 1], count)
    of_class = [detail[:count], detail[count:]]
    factors = draw_factors(detail, label, of_class, np.random.default_rng(0))
    after = match_detail(images, torch.from_numpy(factors))

    def overlap(batch: Tensor) -> float:
        """AUC of the power of fine detail."""
        power = torch.fft.rfft2(batch.mean(1)).abs()[:, 16:48, 4:].square().mean((1, 2)).log()
        fake, real = power[:count], power[count:]
        return float((real[:, None] > fake[None, :]).float().mean())

    assert overlap(images) > 0.99
    assert 0.3 < overlap(after) < 0.7


def some_batches(count: int = 5) -> Any:
    """Batches of an epoch, the same ones in every epoch."""
    generator = np.random.default_rng(0)
    held = []
    for _ in range(count):
        side = generator.integers(5, 60, 16)
        box = np.stack([side * 0, side * 0, side, side], axis=1)
        image = generator.integers(0, 255, (16, 64, 64, 3), dtype=np.uint8)
        held.append({"image": image, "label": np.arange(16) % 2, "box": box})

    def train(epoch: int, skip: int) -> Iterator[dict[str, Any]]:
        return iter(held[skip:])

    boxes, labels = (np.concatenate([batch[name] for batch in held]) for name in ("box", "label"))
    return train, lambda: (boxes, labels)


def factors(job: Settings, epoch: int = 1, skip: int = 0, rank: int = 0) -> list[np.ndarray]:
    train, faces = some_batches()
    found = match_face_sizes(train, faces, job, rank)(epoch, skip)
    return [batch["match_scale"] for batch in found]


def test_draws_follow_from_seed_epoch_worker_and_batch() -> None:
    job = small_settings("augment.match_face_size=true")
    first = factors(job)
    np.testing.assert_array_equal(first, factors(job))
    np.testing.assert_array_equal(first[3:], factors(job, skip=3))  # a run that goes on
    other = small_settings("augment.match_face_size=true", "seed=1")
    for another in (factors(job, epoch=2), factors(job, rank=1), factors(other)):
        assert not np.array_equal(first, another)


def test_without_the_setting_batches_are_those_of_the_stream() -> None:
    train, _ = some_batches()

    def never() -> Any:
        raise AssertionError("boxes were read")

    assert match_face_sizes(train, never, small_settings()) is train


@pytest.mark.parametrize("mixed", [(), ("augment.mixup=0.4", "augment.self_blend=0.5")])
def test_a_batch_is_matched_before_all_other_augmentation(mixed: tuple[str, ...]) -> None:
    job = small_settings("augment.match_face_size=true", *mixed)
    train, faces = some_batches()
    batch = next(iter(match_face_sizes(train, faces, job)(1, 0)))
    crops, labels = torch.from_numpy(batch["image"]), torch.from_numpy(batch["label"])
    scale = torch.from_numpy(batch["match_scale"])
    prepared = Preparation(job, CPU)

    def seeded(crops_BHWC: Tensor, *factors: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        return prepared(crops_BHWC, labels, *factors)

    images, targets = seeded(crops, scale)
    plain, same_targets = seeded(crops)
    assert torch.equal(targets, same_targets)
    assert not torch.equal(images, plain)
    before = match_detail(crops.permute(0, 3, 1, 2).float() / 255, scale)
    rounded = (before * 255).round().byte().permute(0, 2, 3, 1)
    by_hand, _ = seeded(rounded)
    # But for the rounding, and what JPEG's own rounding makes of it.
    assert (images - by_hand).abs().mean() < 0.02
