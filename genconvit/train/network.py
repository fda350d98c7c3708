"""The network that a run begins with, and how it is made faster."""

from __future__ import annotations

import os

# cuBLAS reads it once: without, `train.deterministic` is refused on a GPU.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from torch import nn

from genconvit.checkpoint import load_network
from genconvit.config import Settings, TrainSettings
from genconvit.models.accelerate import accelerate
from genconvit.models.registry import build_from_settings
from genconvit.models.seams import find_seams


def start_network(settings: Settings, device: torch.device, *, new: bool) -> nn.Module:
    """The network on its device, and PyTorch's switches as the settings say.

    Args:
        settings: Of the run.
        device: Where it is trained.
        new: With its start weights; without where a state brings its own.
    """
    torch.use_deterministic_algorithms(settings.train.deterministic)
    torch.backends.cudnn.benchmark = not settings.train.deterministic
    torch.manual_seed(settings.seed)
    model = settings.model
    if not new or settings.train.init is not None:
        model = model.model_copy(update={"pretrained": False, "weights": None})
    network = build_from_settings(model)
    if new and settings.train.init is not None:
        network.load_state_dict(load_network(settings.train.init)[0].state_dict())
        seams = find_seams(network)
        if seams is not None:
            seams.forget()
    if settings.train.grad_checkpointing:
        for part in network.modules():
            if hasattr(part, "set_grad_checkpointing"):
                part.set_grad_checkpointing(True)  # type: ignore[operator]
    network = network.to(device)
    return network.to(memory_format=torch.channels_last) if device.type == "cuda" else network


def compiles(train: TrainSettings, device: torch.device) -> bool:
    """Whether a run compiles."""
    automatic = device.type == "cuda" and not train.deterministic
    return train.compile == "on" or (train.compile == "auto" and automatic)


def speed_up(network: nn.Module, settings: TrainSettings, device: torch.device) -> nn.Module:
    """A network as a run computes it: with fused kernels on a GPU, and compiled where asked."""
    compiled = compiles(settings, device)
    return accelerate(network, compile=compiled) if compiled or device.type == "cuda" else network
