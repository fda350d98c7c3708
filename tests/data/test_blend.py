from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from genconvit.config import PreprocessSettings, Settings
from genconvit.data.augment import KINDS
from genconvit.data.blend import (
    CPU,
    BlendReals,
    SelfBlend,
    crop_margin,
    self_blend_crop,
    to_crops,
)
from genconvit.data.crops import encode_crop
from genconvit.data.jpeg import compress_jpeg
from genconvit.data.tensors import to_images
from genconvit.models.autoencoder import unnormalize
from genconvit.train.step import Preparation


def images(count: int = 8, side: int = 64, seed: int = 0) -> Tensor:
    """Smooth shapes with a little grain."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 10, 10, generator=generator)
    smooth = F.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)
    return 0.1 + 0.7 * smooth + 0.1 * torch.rand(count, 3, side, side, generator=generator)


def blended(batch: Tensor, seed: int = 0, margin: float = 0.3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return SelfBlend(margin).with_mask(batch)


def jpeg() -> bytes:
    return encode_crop(to_crops(images(1))[0], 95)


def test_a_fake_differs_inside_and_is_its_original_outside() -> None:
    batch = images(64)
    fakes, masks = blended(batch)
    assert fakes.shape == batch.shape and fakes.min() >= 0 and fakes.max() <= 1
    inside, outside = (masks > 0.2).expand_as(batch), (masks < 1e-5).expand_as(batch)
    change = (fakes - batch).abs()
    assert ((change * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)) > 2e-3).all()
    # Surroundings that differ from those of real crops would give the fakes away.
    assert float((change * outside).max()) < 1e-4
    assert float(outside.float().mean()) > 0.3


def test_the_same_face_is_never_moved_far() -> None:
    """The source is misaligned by a few hundredths of the side: a seam, and not another face."""
    batch = images(32, side=96)
    fakes, masks = blended(batch)
    face = masks.expand_as(batch) > 0.2
    pairs = zip(fakes, batch, face, strict=True)
    likeness = [np.corrcoef(fake[at], real[at])[0, 1] for fake, real, at in pairs]
    assert np.mean(likeness) > 0.85


@given(st.floats(0, 1), st.integers(0, 999), st.sampled_from([32, 48, 64]))
def test_a_mask_is_soft_and_lies_about_the_middle(margin: float, seed: int, side: int) -> None:
    _, masks = blended(images(4, side), seed, margin)
    assert masks.shape == (4, 1, side, side)
    assert masks.min() >= 0 and masks.max() <= 1 + 1e-5
    assert (masks.amax((1, 2, 3)) > 0.05).all()
    x = (torch.arange(side) + 0.5) / side
    centres = (masks * x).sum((1, 2, 3)) / masks.sum((1, 2, 3))
    assert ((centres > 0.3) & (centres < 0.7)).all()


def test_the_face_is_sought_where_the_margin_leaves_it() -> None:
    areas = [float((blended(images(32), 0, m)[1] > 0.05).float().mean()) for m in (0.0, 0.3, 1.0)]
    assert areas[0] > 1.8 * areas[1] > 1.8 * 1.8 * areas[2]


def test_each_image_draws_its_own_and_the_seed_draws_them() -> None:
    batch = images(1).expand(6, -1, -1, -1)
    fakes, masks = blended(batch)
    for i in range(6):
        for j in range(i):
            assert not torch.allclose(masks[i], masks[j], atol=1e-2)
    assert torch.equal(fakes, blended(batch)[0])
    assert not torch.equal(fakes, blended(batch, seed=1)[0])


def test_all_blend_ratios_are_drawn() -> None:
    peaks = blended(images(200, side=32), margin=0.0)[1].amax((1, 2, 3))
    shares = [
        float(((peaks - ratio).abs() < 0.02).float().mean()) for ratio in (0.25, 0.5, 0.75, 1)
    ]
    assert min(shares[:3]) > 0.08
    assert 0.35 < shares[3] < 0.65


def test_a_share_of_the_reals_becomes_fake_and_fakes_stay() -> None:
    batch, labels = images(200, side=32), torch.arange(200) % 2
    torch.manual_seed(0)
    blend = BlendReals(0.5, PreprocessSettings())
    after, new = blend(batch, labels)
    same = (after == batch).flatten(1).all(1)
    assert torch.equal(same, new == labels)
    assert (new[labels == 0] == 0).all()
    assert 30 < new.sum() < 70
    assert labels.sum() == 100 and torch.equal(batch, images(200, side=32))


def test_a_fake_is_made_of_a_real_crop_that_stays_in_the_batch() -> None:
    """Flat images, each of its own grey, whose surroundings say which one a fake is made of."""
    greys = torch.linspace(0.2, 0.8, 40)
    batch = greys[:, None, None, None].expand(-1, 3, 32, 32).contiguous()
    labels = torch.arange(40) % 2
    torch.manual_seed(0)
    after, new = BlendReals(0.5, PreprocessSettings())(batch, labels)
    made = torch.arange(40)[(labels == 1) & (new == 0)]
    staying = greys[new == 1]
    assert len(made) > 5
    for row in made:
        assert (staying - after[row, 0, 0, 0]).abs().min() < 1e-5


def test_a_batch_whose_reals_are_all_chosen_is_made_of_them() -> None:
    batch, labels = images(3, side=32), torch.tensor([1, 0, 0])
    torch.manual_seed(1)
    for _ in range(20):
        after, new = BlendReals(0.9, PreprocessSettings())(batch, labels)
        corner = (..., slice(0, 2), slice(0, 2))
        torch.testing.assert_close(after[corner], batch[corner])
        assert new[1] == new[2] == 0


def test_a_smoothed_seam_has_less_detail_and_the_face_within_keeps_its_own() -> None:
    batch = images(64, side=96)
    torch.manual_seed(0)
    fakes, bands = SelfBlend(0.3, seams=1.0).with_mask(batch)
    grain = [(x - F.avg_pool2d(x, 3, stride=1, padding=1)).abs() for x in (batch, fakes)]
    on, off = (bands > 0.5).expand_as(batch), (bands < 1e-3).expand_as(batch)
    before, after = (float(each[on].mean()) for each in grain)
    assert after < 0.75 * before
    assert float((fakes - batch).abs()[off].max()) < 1e-3
    middle = bands[..., 44:52, 44:52].mean((1, 2, 3))
    assert (middle < 0.3).float().mean() > 0.8


def test_fakes_of_training_have_been_compressed_like_stored_crops() -> None:
    """A seam without the noise of JPEG is a trait that no stored fake has."""
    crops_BHWC = torch.from_numpy(to_crops(images(32, side=96)))
    labels_B, quality_B = torch.ones(32, dtype=torch.int64), torch.full((32,), 95)
    off = dict.fromkeys(KINDS, 0.0)
    augment = {**off, "self_blend": 0.5, "self_blend_seams": 1}
    torch.manual_seed(0)
    x_BCHW, targets_B = Preparation(Settings.model_validate({"augment": augment}), CPU)(
        crops_BHWC, labels_B
    )
    prepared, fresh = unnormalize(x_BCHW), blended(to_images(crops_BHWC, CPU))[0]
    again, once = ((compress_jpeg(x, quality_B) - x).abs().mean() for x in (prepared, fresh))
    assert 8 < targets_B.sum() < 24
    assert again < 0.5 * once


def test_seams_alone_are_a_share_of_the_fakes() -> None:
    batch = images(200, side=32)
    torch.manual_seed(0)
    fakes, _ = SelfBlend(0.3, seams=0.5).with_mask(batch)
    recoloured = (fakes - batch).mean((2, 3)).abs().amax(1) > 2e-3
    torch.manual_seed(0)
    all_seams = SelfBlend(0.3, seams=1.0)(batch)
    assert ((all_seams - batch).mean((2, 3)).abs().amax(1) > 2e-3).float().mean() < 0.1
    assert 0.2 < recoloured.float().mean() < 0.7


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_a_batch_without_reals_or_without_a_share_stays(share: float) -> None:
    labels = torch.zeros(8, dtype=torch.long) if share else torch.ones(8, dtype=torch.long)
    after, new = BlendReals(share, PreprocessSettings())(images(), labels)
    assert torch.equal(after, images()) and torch.equal(new, labels)


def test_a_whole_frame_is_all_face() -> None:
    assert crop_margin(PreprocessSettings(detector="none", margin=0.5)) == 0
    assert crop_margin(PreprocessSettings(margin=0.5)) == 0.5


def test_a_fake_of_extraction_depends_on_its_crop_alone() -> None:
    crop, other = to_crops(images(2))
    torch.manual_seed(1)
    first = self_blend_crop(crop, 0.3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    np.testing.assert_array_equal(self_blend_crop(crop, 0.3), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.dtype == np.uint8 and first.shape == crop.shape
    assert (first != crop).any()
    assert (self_blend_crop(other, 0.3) != first).any()


def test_simple_features_tell_fakes_from_reals() -> None:
    """Detail in the middle against detail around it: what a seam and another sharpness change."""

    def features(batch: Tensor) -> np.ndarray:
        grey = batch.mean(1, keepdim=True)
        fine = (grey - F.avg_pool2d(grey, 3, stride=1, padding=1)).abs()
        cells = F.adaptive_avg_pool2d(fine, 6).flatten(1).clamp(min=1e-4).log()
        return (cells - cells.mean(1, keepdim=True)).abs().numpy()

    torch.manual_seed(0)
    columns, labels = [], []
    for seed in range(2):
        reals, bases = images(400, 48, seed), images(400, 48, seed + 10)
        columns.append(features(torch.cat([SelfBlend(0.3)(bases), reals])))
        labels.append(np.repeat([0, 1], 400))
    probe = LogisticRegression(max_iter=500).fit(columns[0], labels[0])
    assert probe.score(columns[1], labels[1]) > 0.65
