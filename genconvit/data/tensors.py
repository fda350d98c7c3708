"""From decoded crops to images on the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_images(crops_BHWC: np.ndarray, device: torch.device) -> Tensor:
    """uint8 RGB (B, H, W, 3) to float32 (B, 3, H, W) in [0, 1]; travels to the device as uint8."""
    crops = torch.from_numpy(np.ascontiguousarray(crops_BHWC)).to(device, non_blocking=True)
    return crops.permute(0, 3, 1, 2).float().div_(255.0)
