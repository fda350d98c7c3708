from __future__ import annotations

import pytest
import torch

from genconvit.config import AugmentSettings
from genconvit.data.augment import build_augmentation

NOTHING = dict.fromkeys(AugmentSettings.model_fields, 0.0)


def images(count: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_without_augmentation_the_crops_stay_as_they_are() -> None:
    assert torch.equal(build_augmentation(AugmentSettings(**NOTHING))(images()), images())


@pytest.mark.parametrize("name", AugmentSettings.model_fields)
def test_each_kind_changes_the_crops_and_keeps_their_range(name: str) -> None:
    torch.manual_seed(0)
    augmented = build_augmentation(AugmentSettings(**{**NOTHING, name: 1.0}))(images())
    assert augmented.shape == images().shape
    assert augmented.min() >= 0.0 and augmented.max() <= 1.0
    changed = (augmented - images()).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert changed.all()


def test_half_the_crops_are_flipped_at_one_half() -> None:
    torch.manual_seed(0)
    batch = images(200)
    flipped = build_augmentation(AugmentSettings(**{**NOTHING, "flip": 0.5}))(batch)
    mirrored = (flipped == batch.flip(-1)).flatten(1).all(1)
    same = (flipped == batch).flatten(1).all(1)
    assert (mirrored | same).all()
    assert 60 < mirrored.sum() < 140


def test_the_same_seed_draws_the_same() -> None:
    augmentation = build_augmentation(AugmentSettings(**dict.fromkeys(NOTHING, 0.5)))
    torch.manual_seed(3)
    first = augmentation(images())
    torch.manual_seed(3)
    assert torch.equal(first, augmentation(images()))


@pytest.mark.parametrize("name", ["jpeg", "blur", "downscale"])
def test_what_takes_detail_away_makes_crops_smoother(name: str) -> None:
    torch.manual_seed(0)
    augmented = build_augmentation(AugmentSettings(**{**NOTHING, name: 1.0}))(images())
    detail = (images()[..., 1:] - images()[..., :-1]).abs().mean()
    assert (augmented[..., 1:] - augmented[..., :-1]).abs().mean() < detail
