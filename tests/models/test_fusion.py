"""Cross-attention over tokens, and the ways of joining maps and branches."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from genconvit.errors import UserError
from genconvit.models.fusion import (
    BackboneFusion,
    BranchAttention,
    BranchFusion,
    CellStatistics,
    CrossAttention,
    PlacePooling,
)


@pytest.fixture
def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 9, 16), torch.randn(2, 9, 16)


def test_attention_is_a_weighted_mean_with_rows_that_differ(
    tokens: tuple[torch.Tensor, torch.Tensor],
) -> None:
    attention = CrossAttention(16, heads=1)
    query, context = tokens
    scores = attention.query(query) @ attention.key(context).transpose(1, 2) / 4
    rows = scores.softmax(dim=-1)
    expected = attention.out(rows @ attention.value(context))
    torch.testing.assert_close(attention(query, context), expected)
    assert rows.std(dim=-1).min() > 1e-3
    assert (rows[:, 0] - rows[:, 1]).abs().max() > 1e-3


def test_attention_looks_at_every_token_of_the_other_branch(
    tokens: tuple[torch.Tensor, torch.Tensor],
) -> None:
    attention = BranchAttention(16, heads=4, residual=True).eval()
    ed, vae = tokens
    before, _ = attention(ed, vae)
    permuted, _ = attention(ed, vae[:, torch.randperm(9)])
    torch.testing.assert_close(permuted, before)
    for index in range(9):
        changed = vae.clone()
        changed[:, index] += torch.randn(16)
        assert not torch.allclose(attention(ed, changed)[0], before, atol=1e-5)
        assert not torch.allclose(attention(changed, ed)[1], attention(vae, ed)[1], atol=1e-5)


def test_residual_adds_the_query_tokens(tokens: tuple[torch.Tensor, torch.Tensor]) -> None:
    with_it, without = (BranchAttention(16, 4, residual=r) for r in (True, False))
    without.load_state_dict(with_it.state_dict())
    for added, plain, query in zip(with_it(*tokens), without(*tokens), tokens, strict=True):
        torch.testing.assert_close(added, plain + query)


def test_key_has_no_bias() -> None:
    assert CrossAttention(16, heads=4).key.bias is None


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(UserError, match=r"attention_heads=3 .*token_dim=16"):
        BranchAttention(16, heads=3, residual=True)


@pytest.mark.parametrize(
    ("mode", "widths", "width", "parameters"),
    [("sum", (8, 8), 8, 0), ("concat", (8, 6), 14, 0), ("sum", (8, 6), 10, 8 * 10 + 6 * 10 + 20)],
)
def test_backbone_fusion(
    mode: Literal["sum", "concat"], widths: tuple[int, int], width: int, parameters: int
) -> None:
    fusion = BackboneFusion(mode, widths, token_dim=10)
    first, second = (torch.randn(2, 3, 3, w) for w in widths)
    fused = fusion(first, second)
    assert fused.shape == (2, 9, width) == (2, 9, fusion.width)
    assert sum(p.numel() for p in fusion.parameters()) == parameters
    if mode == "concat":
        assert torch.equal(fused[1, 5], torch.cat([first[1, 1, 2], second[1, 1, 2]]))


def test_branch_fusion_swiglu_follows_its_formula() -> None:
    fusion = BranchFusion("swiglu", dim=4)
    ed, vae = torch.randn(2, 4), torch.randn(2, 4)
    both = torch.cat([ed, vae], dim=1)
    assert fusion.swiglu is not None
    gate, value = fusion.swiglu.fc1_g(both), fusion.swiglu.fc1_x(both)
    expected = fusion.swiglu.fc2(gate * torch.sigmoid(gate) * value)
    torch.testing.assert_close(fusion(ed, vae), expected)


def test_branch_fusion_sum_and_concat() -> None:
    ed, vae = torch.randn(2, 4), torch.randn(2, 4)
    assert torch.equal(BranchFusion("sum", 4)(ed, vae), ed + vae)
    assert torch.equal(BranchFusion("concat", 4)(ed, vae), torch.cat([ed, vae], dim=1))
    assert BranchFusion("concat", 4).width == 8


def test_statistics_of_a_cell_are_its_mean_and_deviation() -> None:
    torch.manual_seed(0)
    cells = CellStatistics(3, cell=4)
    cells.norm = torch.nn.Identity()
    map_BHWC = torch.randn(2, 8, 12, 3)
    found = cells(map_BHWC)
    assert found.shape == (2, 2, 3, 6)
    cell = map_BHWC[1, 4:8, 8:12].flatten(0, 1)
    expected = torch.cat([cell.mean(dim=0), cell.std(dim=0, correction=0)])
    torch.testing.assert_close(found[1, 1, 2], expected, atol=1e-5, rtol=1e-4)


def test_a_flat_map_has_finite_gradients() -> None:
    map_BHWC = torch.ones(1, 4, 4, 2, requires_grad=True)
    CellStatistics(2, cell=2)(map_BHWC).sum().backward()
    assert map_BHWC.grad is not None
    assert map_BHWC.grad.isfinite().all()


def test_places_begin_as_the_face_its_outline_and_its_surroundings() -> None:
    face, outline, outside = PlacePooling(7, 16).weight_logits.softmax(dim=-1).view(3, 7, 7)
    assert face.argmax() == outside.numel() // 2
    assert outline[3, 3] < 0.2 * outline.max()
    assert outside[0, 0] > 5 * outside[3, 3]
    assert outline[1, 3] > 2 * outline[3, 3]  # the forehead
    for weights in (face, outline, outside):
        torch.testing.assert_close(weights, weights.flip(1))
        torch.testing.assert_close(weights, weights.flip(0))
