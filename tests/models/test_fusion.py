"""Cross-attention over tokens, and the ways of joining maps and branches."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from genconvit.errors import UserError
from genconvit.models.fusion import BackboneFusion, BranchAttention, BranchFusion, CrossAttention


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
