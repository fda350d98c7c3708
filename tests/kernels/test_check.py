"""Kernels that compute something else are found out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genconvit.kernels import check
from genconvit.kernels.check import agree
from genconvit.kernels.depthwise import depthwise
from genconvit.models.accelerate import accelerate
from genconvit.models.registry import build_network


class Wrong(torch.autograd.Function):
    """Doubles; in half precision with a gradient that is off by a third."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * (2.0 if grad.dtype == torch.float32 else 1.5)


@pytest.mark.parametrize(
    ("function", "right"),
    [
        (lambda x, w: x * w.to(x.dtype), True),
        (lambda x, w: x * w.to(x.dtype) * (1 if x.dtype == torch.float32 else 1.05), False),
        (lambda x, w: Wrong.apply(x) + w.to(x.dtype), False),
        (lambda x, w: x * w.to(x.dtype) + 1e-3 * torch.rand_like(x), False),  # other bits each time
        (lambda x, w: x * w.to(x.dtype) + (0 if x.dtype == torch.float32 else float("nan")), False),
    ],
    ids=["right", "result", "gradient", "race", "nan"],
)
def test_what_differs_from_float32_is_seen(function: object, right: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(2, 4, 4, 8, generator=generator) for _ in range(2))
    assert agree(function, x, [w]) == right  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_the_kernels_are_right_on_this_gpu() -> None:
    from genconvit.kernels import DISTRUSTED

    accelerate(build_network("v2").cuda(), compile=False)
    assert not DISTRUSTED


def test_a_bias_whose_gradient_is_a_plain_sum_is_no_reason_for_distrust(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check, "has_bf16", lambda: True)  # the coarser of both formats
    generator = torch.Generator().manual_seed(0)
    shapes = ((32, 14, 14, 96), (96, 1, 7, 7), (96,))
    x, w, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    assert agree(depthwise, x, [w / 7, bias])
