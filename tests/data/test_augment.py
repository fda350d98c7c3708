from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from genconvit.config import AugmentSettings
from genconvit.data import augment
from genconvit.data.augment import KINDS, build_augmentation, scale_down
from genconvit.data.jpeg import compress_jpeg
from genconvit.errors import UserError
from genconvit.overrides import all_settings, describe, parse_assignment, resolve_settings

NOTHING = dict.fromkeys(KINDS, 0.0)
RANGES = [name for name, value in AugmentSettings() if isinstance(value, tuple)]


def images(count: int = 8, side: int = 64) -> Tensor:
    """Detail of every size, as in a photograph: smooth noise and fine noise."""
    generator = torch.Generator().manual_seed(0)
    fine = torch.rand(count, 3, side, side, generator=generator)
    coarse = F.interpolate(torch.rand(count, 3, 8, 8, generator=generator), size=(side, side))
    return 0.3 * fine + 0.7 * coarse


def augmented(batch: Tensor, seed: int = 0, **settings: object) -> Tensor:
    torch.manual_seed(seed)
    return build_augmentation(AugmentSettings(**{**NOTHING, **settings}))(batch)


def detail(batch: Tensor) -> float:
    return float((batch[..., 1:] - batch[..., :-1]).abs().mean())


def test_without_augmentation_the_crops_stay_as_they_are() -> None:
    assert torch.equal(augmented(images()), images())


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_changes_the_crops_and_keeps_their_range(kind: str) -> None:
    before = images()
    after = augmented(before, **{kind: 1.0})
    assert after.shape == before.shape and after.dtype == before.dtype
    assert after.min() >= 0.0 and after.max() <= 1.0
    assert ((after - before).abs().amax(dim=(1, 2, 3)) > 1e-3).all()
    assert torch.equal(before, images())  # the caller's batch is left alone


@pytest.mark.parametrize("kind", KINDS)
def test_crops_that_a_kind_was_not_drawn_for_stay_bit_for_bit(kind: str) -> None:
    batch = images(200, side=16)
    same = (augmented(batch, **{kind: 0.5}) == batch).flatten(1).all(1)
    assert 60 < same.sum() < 140


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "flip"])
def test_each_crop_draws_its_own_strength(kind: str) -> None:
    after = augmented(images()[:1].expand(6, -1, -1, -1), **{kind: 1.0})
    pairs = [(after[i] - after[j]).abs().max() for i in range(6) for j in range(i)]
    # Two of six JPEG qualities of 71 may well be the same.
    assert sum(bool(difference > 1e-4) for difference in pairs) >= 14


def test_the_same_seed_draws_the_same() -> None:
    half = dict.fromkeys(KINDS, 0.5)
    first, again, other = (augmented(images(), seed, **half) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_flip_is_a_mirror() -> None:
    assert torch.equal(augmented(images(), flip=1.0), images().flip(-1))


def test_affine_turns_shifts_and_zooms() -> None:
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    dot = torch.exp(-((x - 40) ** 2 + (y - 31.5) ** 2) / 8).expand(1, 3, 64, 64)

    def place(batch: Tensor) -> tuple[float, float]:
        weight = batch[0, 0] / batch[0, 0].sum()
        return float((weight * x).sum()), float((weight * y).sum())

    still = {"affine": 1.0, "rotation_degrees": 0.0, "shift": 0.0, "scale": (1.0, 1.0)}
    assert place(augmented(dot, **still)) == pytest.approx((40, 31.5), abs=0.01)
    # Twice the size: twice as far from the middle, which is 31.5.
    doubled = augmented(dot, **{**still, "scale": (2.0, 2.0)})
    assert place(doubled) == pytest.approx((48.5, 31.5), abs=0.3)
    places = [place(augmented(dot, seed, **{**still, "shift": 0.1})) for seed in range(30)]
    moved = [max(abs(left - 40), abs(top - 31.5)) for left, top in places]
    assert 4.0 < max(moved) <= 6.5
    turned = [place(augmented(dot, s, **{**still, "rotation_degrees": 30.0})) for s in range(30)]
    for left, top in turned:
        assert np.hypot(left - 31.5, top - 31.5) == pytest.approx(8.5, abs=0.1)
    angles = [np.degrees(np.arctan2(top - 31.5, left - 31.5)) for left, top in turned]
    assert -30.5 <= min(angles) < -15 and 15 < max(angles) <= 30.5


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("brightness", lambda x: x.mean()),
        ("contrast", lambda x: x.std()),
        ("saturation", lambda x: (x - x.mean(1, keepdim=True)).abs().mean()),
    ],
)
def test_colour_changes_by_no_more_than_is_said(name: str, measure: object) -> None:
    grey = 0.5 + 0.2 * (images() - 0.5)  # nothing is cut off at black or white
    only = {**dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0), name: 0.3}
    ratios = [
        float(measure(after) / measure(before))  # type: ignore[operator]
        for seed in range(8)
        for before, after in zip(
            grey.split(1), augmented(grey, seed, colour=1.0, **only).split(1), strict=True
        )
    ]
    assert 0.69 < min(ratios) < 0.85 and 1.15 < max(ratios) < 1.31


def test_hue_leaves_brightness_and_greys() -> None:
    only = {**dict.fromkeys(("brightness", "contrast", "saturation"), 0.0), "hue": 0.5}
    before = 0.5 + 0.2 * (images() - 0.5)
    after = augmented(before, colour=1.0, **only)
    luma = torch.tensor(augment.TO_YIQ[0]).view(1, 3, 1, 1)
    assert torch.allclose((after * luma).sum(1), (before * luma).sum(1), atol=1e-3)
    grey = before.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert torch.allclose(augmented(grey, colour=1.0, **only), grey, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "strength", "weak", "strong"),
    [
        ("blur", "blur_sigma", (0.5, 0.5), (2.0, 2.0)),
        ("downscale", "downscale_factor", (0.8, 0.8), (0.3, 0.3)),
        ("jpeg", "jpeg_quality", (90, 90), (10, 10)),
    ],
)
def test_what_takes_detail_away_takes_more_when_stronger(
    kind: str, strength: str, weak: object, strong: object
) -> None:
    little = augmented(images(), **{kind: 1.0, strength: weak})
    much = augmented(images(), **{kind: 1.0, strength: strong})
    assert detail(images()) > detail(little) > 1.1 * detail(much)


def test_downscale_is_a_resize_and_back() -> None:
    batch = images(2, side=60)
    small = F.interpolate(batch, size=(30, 30), mode="bilinear", antialias=True)
    back = F.interpolate(small, size=(60, 60), mode="bilinear", align_corners=False)
    ours = augmented(batch, downscale=1.0, downscale_factor=(0.5, 0.5))
    assert torch.allclose(ours, back, atol=1e-4)


def test_a_sharp_downscale_is_cubic() -> None:
    batch = images(2, side=60)
    small = F.interpolate(batch, size=(24, 24), mode="bicubic", antialias=True)
    back = F.interpolate(small, size=(60, 60), mode="bilinear", align_corners=False).clamp(0, 1)
    ours = scale_down(batch, torch.tensor([0.4, 1.0]), sharp=True)
    assert torch.allclose(ours[0], back[0], atol=1e-4)
    assert torch.allclose(ours[1], batch[1], atol=1e-6)


def test_noise_has_the_deviation_that_is_said() -> None:
    grey = torch.full((16, 3, 64, 64), 0.5)
    noise = augmented(grey, noise=1.0, noise_std=(0.02, 0.06)) - grey
    deviations = noise.flatten(1).std(1)
    assert 0.019 < deviations.min() < 0.035 and 0.045 < deviations.max() < 0.061
    assert abs(float(noise.mean())) < 1e-3


@given(st.floats(0.01, 1.0), st.integers(0, 99))
def test_cutout_covers_one_rectangle_of_the_area_that_is_said(area: float, seed: int) -> None:
    batch = torch.full((4, 3, 40, 48), -1.0)  # no drawn colour is negative
    torch.manual_seed(seed)
    covered = augment.cut_out(batch, (area, area))[:, 0] >= 0
    for image in covered:
        rows, columns = image.any(1), image.any(0)
        assert image.sum() == rows.sum() * columns.sum()
        # Sides are whole pixels.
        assert float(image.float().mean()) == pytest.approx(area, abs=0.03)


@pytest.mark.parametrize("quality", [10, 30, 60, 90, 100])
def test_jpeg_is_what_a_jpeg_file_gives(quality: int) -> None:
    # Neither side is a multiple of 16, so blocks reach beyond the image.
    before = F.interpolate(images(4, side=16), size=(72, 88), mode="bilinear")
    ours = compress_jpeg(before, torch.full((4,), quality))
    crops = (before * 255).round().byte().permute(0, 2, 3, 1).numpy()
    files = []
    for crop in crops:
        params = [cv2.IMWRITE_JPEG_QUALITY, quality]
        _, file = cv2.imencode(".jpg", np.ascontiguousarray(crop[..., ::-1]), params)
        files.append(cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1] / 255.0)
    theirs = torch.from_numpy(np.stack(files)).permute(0, 3, 1, 2).float()

    def decibels(one: Tensor, other: Tensor) -> float:
        return float(-10 * torch.log10(((one - other) ** 2).mean()))

    assert decibels(ours, theirs) > 45
    assert decibels(ours, before) == pytest.approx(decibels(theirs, before), abs=0.5)


def test_jpeg_takes_high_frequencies_and_draws_the_whole_range() -> None:
    batch = images(64, side=16)
    after = augmented(batch, jpeg=1.0, jpeg_quality=(1, 2))
    spectrum, kept = (torch.fft.rfft2(x).abs().mean((0, 1)) for x in (batch, after))
    assert kept[6:10, 6:].mean() < 0.5 * spectrum[6:10, 6:].mean()
    either = [compress_jpeg(batch, torch.full((64,), quality)) for quality in (1, 2)]
    drawn = [(after == x).flatten(1).all(1) for x in either]
    assert (drawn[0] | drawn[1]).all() and drawn[0].any() and drawn[1].any()


@pytest.mark.parametrize("name", RANGES)
def test_a_range_is_read_from_text_and_described(name: str) -> None:
    low, high = getattr(AugmentSettings(), name)
    settings = resolve_settings(assignments=[parse_assignment(f"augment.{name}=[{low}, {high}]")])
    assert getattr(settings.augment, name) == (low, high)
    assert "a list of 2 numbers" in describe(dict(all_settings())[f"augment.{name}"])
    with pytest.raises(UserError, match=rf"{name} is a range from low to high; write \["):
        resolve_settings(assignments=[parse_assignment(f"augment.{name}=[{high}, {low}]")])


@given(st.sampled_from(RANGES), st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)))
def test_only_ascending_ranges_are_taken(name: str, pair: tuple[float, float]) -> None:
    value = tuple(round(100 * x) for x in pair) if name == "jpeg_quality" else pair
    if value[0] <= value[1]:
        assert getattr(AugmentSettings(**{name: value}), name) == value
    else:
        with pytest.raises(ValidationError, match="from low to high"):
            AugmentSettings(**{name: value})
