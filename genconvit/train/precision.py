"""Number formats of a training or validation pass."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch.amp.grad_scaler import GradScaler

from genconvit.config import TrainSettings
from genconvit.kernels.check import has_bf16


@dataclass(frozen=True)
class Precision:
    """What matrix products and convolutions are computed in; losses and sums stay in float32.

    Attributes:
        device_type: "cpu" or "cuda".
        dtype: torch.bfloat16, torch.float16, or torch.float32 for no autocast.
    """

    device_type: str
    dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, settings: TrainSettings, device: torch.device) -> Precision:
        """The one that `train.precision` names on this device; sets TF32 for what is float32."""
        chosen = settings.precision
        if chosen == "auto":
            chosen = "bf16" if device.type == "cuda" and has_bf16() else "fp32"
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high" if settings.tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = settings.tf32
        dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
        return cls(device.type, dtypes[chosen])

    def autocast(self, *, cache_enabled: bool = True) -> AbstractContextManager[object]:
        """The forward pass and the loss go inside."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device_type, self.dtype, cache_enabled=cache_enabled)

    def scaler(self) -> GradScaler:
        """Keeps the gradients of float16 from vanishing; does nothing for the other formats."""
        return GradScaler(self.device_type, enabled=self.dtype == torch.float16)
