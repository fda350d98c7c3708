"""Triton kernels of the networks' slow parts, each beside the plain PyTorch it replaces.

They run on CUDA in bfloat16 and float16. Elsewhere, and where Triton is missing, the plain version
runs. All sums are taken in a fixed order: repeated runs give the same bits.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

HAS_TRITON = importlib.util.find_spec("triton") is not None
DTYPES = (torch.bfloat16, torch.float16)

DISTRUSTED: set[str] = set()
"""Kernels that compute something else than PyTorch on this GPU (`genconvit.kernels.check`)."""


def fits(x: Tensor, kernel: str) -> bool:
    """Whether a kernel may take `x` at all: where it lies, its dtype, and whether it is trusted."""
    return HAS_TRITON and x.is_cuda and x.dtype in DTYPES and kernel not in DISTRUSTED
