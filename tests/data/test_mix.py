from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genconvit.config import AugmentSettings
from genconvit.data.mix import MixCrops

KINDS = [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.3, "cutmix": 0.5}]


def crops(labels: list[int], side: int = 32) -> tuple[Tensor, Tensor]:
    """A real crop is white and a fake black, so a mixture's mean is its share of reals."""
    labels_B = torch.tensor(labels)
    return labels_B.float()[:, None, None, None].expand(-1, 3, side, side).clone(), labels_B


def mixed(seed: int, batch: tuple[Tensor, Tensor], **settings: float) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return MixCrops(AugmentSettings(**settings))(*batch)


def test_nothing_is_mixed_unless_asked_for() -> None:
    images, labels = crops([0, 1, 1])
    state = torch.get_rng_state()
    same = MixCrops(AugmentSettings())(images, labels)
    assert same[0] is images and same[1] is labels
    assert torch.equal(torch.get_rng_state(), state)


@given(
    st.sampled_from(KINDS),
    st.lists(st.integers(0, 1), min_size=1, max_size=7),
    st.integers(0, 2**31),
    st.integers(17, 40),
)
def test_a_label_holds_as_much_of_a_class_as_its_image_does(
    kind: dict[str, float], labels: list[int], seed: int, side: int
) -> None:
    images, shares = mixed(seed, crops(labels, side), **kind)
    assert images.shape == (len(labels), 3, side, side) and images.dtype == torch.float32
    assert shares.shape == (len(labels), 2) and shares.dtype == torch.float32
    assert shares.min() >= 0
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(len(labels)))
    torch.testing.assert_close(images.mean(dim=(1, 2, 3)), shares[:, 1], rtol=0, atol=1e-5)
    if len(labels) % 2:
        assert shares[-1].tolist() == [1 - labels[-1], labels[-1]]


def test_mixup_adds_whole_images_and_cutmix_exchanges_patches() -> None:
    batch = crops([0, 0, 1, 1])
    patches = []
    for seed in range(30):
        images, _ = mixed(seed, batch, mixup=1.0)
        assert (images.amax((1, 2, 3)) == images.amin((1, 2, 3))).all()
        images, _ = mixed(seed, batch, cutmix=1.0)
        assert ((images == 0) | (images == 1)).all()
        images, _ = mixed(seed, batch, mixup=1.0, cutmix=1.0)
        patches.append(bool(((images == 0) | (images == 1)).all()))
    assert 5 < sum(patches) < 25  # both kinds occur


@pytest.mark.parametrize("kind", KINDS)
def test_mixtures_follow_from_torchs_seed_alone(kind: dict[str, float]) -> None:
    batch = crops([0, 0, 1, 1, 1])
    np.random.seed(1)
    first = mixed(7, batch, **kind)
    np.random.seed(2)
    again = mixed(7, batch, **kind)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first[1], mixed(8, batch, **kind)[1])
    mix = MixCrops(AugmentSettings(**kind))
    assert not torch.equal(mix(*batch)[1], mix(*batch)[1])  # another mixture each time


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_callers_changes(kind: dict[str, float]) -> None:
    images, labels = crops([0, 1, 0, 1])
    before, before_labels = images.clone(), labels.clone()
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    result, _ = mixed(0, (images, labels), **kind)
    assert np.random.rand() == expected
    assert torch.equal(images, before) and torch.equal(labels, before_labels)
    assert result.data_ptr() != images.data_ptr()
