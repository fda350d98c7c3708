"""From decoded crops to images on the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the CPU on the device, without waiting for what the device does."""
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_images(crops_BHWC: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """uint8 RGB (B, H, W, 3) to float32 (B, 3, H, W) in [0, 1]; travels to the device as uint8.

    The images are channels last in memory, as the crops are.
    """
    if not isinstance(crops_BHWC, Tensor):
        crops_BHWC = torch.from_numpy(np.ascontiguousarray(crops_BHWC))
    crops = crops_BHWC.to(device, non_blocking=True)
    return crops.permute(0, 3, 1, 2).float().div_(255.0)
