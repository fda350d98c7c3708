"""Passes as CUDA graphs: recorded once, then started as one.

A pass forward and backward is more than two thousand kernels, and at usual batch sizes a CPU takes
longer to start them than a GPU to run them. A graph is started at once.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from genconvit.config import TrainSettings
from genconvit.train.optim import set_training
from genconvit.train.precision import Precision

logger = logging.getLogger(__name__)

_WARM_UPS = 3
"""Passes before: they compile, and let cuDNN choose its algorithms."""


class RecordedPasses(nn.Module):
    """A network whose training passes over batches of one size are graphs.

    All else, such as a smaller last batch or evaluation, is what `network` does.

    Args:
        network: In training mode, on a GPU, with its start weights; it may neither be moved later
            nor change which parameters learn. Its random numbers and buffers stay as they are.
        images_BCHW: A batch of the size and layout to come.
        precision: Of the passes.

    Raises:
        RuntimeError: Something in the network cannot be recorded.
    """

    def __init__(self, network: nn.Module, images_BCHW: Tensor, precision: Precision) -> None:
        super().__init__()
        self.network, self._shape = network, images_BCHW.shape
        # Recorded on a stream of its own, as it has to be: PyTorch would warn of that in each run.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
        make_graphed: Any = torch.cuda.make_graphed_callables
        try:
            with (
                torch.random.fork_rng([images_BCHW.device]),
                precision.autocast(cache_enabled=False),
            ):
                graphed = make_graphed(
                    network,
                    (images_BCHW,),
                    num_warmup_iters=_WARM_UPS,
                    allow_unused_input=True,  # such as heads that the loss leaves out
                )
                self._passes = graphed.forward
        finally:
            # It hangs the graphs into the network itself, where its copies would run them too.
            vars(network).pop("forward", None)
            for buffer, before in buffers:
                buffer.copy_(before)

    def forward(self, images_BCHW: Tensor, **options: bool) -> Any:
        """As `network`; what it returns lasts until the next pass."""
        recorded = (
            self.network.training
            and torch.is_grad_enabled()
            and not options
            and images_BCHW.shape == self._shape
        )
        return (self._passes if recorded else self.network)(images_BCHW, **options)


def record_passes(
    network: nn.Module, train: TrainSettings, rows: int, size: int, precision: Precision
) -> nn.Module:
    """`RecordedPasses` where that is possible, else the network itself.

    Recorded gradients always land in the same memory, so they cannot be added up over passes.
    Passes that are computed again or exchange batch statistics cannot be recorded.

    Args:
        network: On its device, accelerated, not wrapped for several workers.
        train: The settings of the run.
        rows: Of a batch.
        size: Side of the images in pixels.
        precision: Of the passes.
    """
    device = next(network.parameters()).device
    if device.type != "cuda" or train.grad_checkpointing or train.sync_bn or train.deterministic:
        return network
    images_BCHW = torch.zeros(rows, 3, size, size, device=device).to(
        memory_format=torch.channels_last
    )
    set_training(network)
    try:
        return RecordedPasses(network, images_BCHW, precision)
    except RuntimeError as error:  # out of memory, too
        logger.warning("training goes on without CUDA graphs: %s", error)
        return network
