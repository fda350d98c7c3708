"""What a network costs: its parameters, operations and memory, for training and for a verdict."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import BaseModel, Field, computed_field
from torch import Tensor, UntypedStorage, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from genconvit.config import LossSettings, ModelSettings
from genconvit.losses import compute_losses
from genconvit.models.registry import build_from_settings


class Part(BaseModel):
    """A child of the network, with its parameters and its FLOPs for one image."""

    name: str
    parameters: int
    trained: int = Field(description="Of them, those that the loss reaches.")
    needed: int = Field(description="Of them, those that the verdict rests on.")
    verdict_flops: int


class Memory(BaseModel):
    """Bytes in float32: an estimate, of tensors alone.

    Kernels, the allocator and the CUDA context take more. The sum for training is a little high:
    when the last gradients come, most activations are gone.
    """

    weights: int = Field(description="Parameters and buffers.")
    gradients: int = 0
    optimizer: int = Field(0, description="AdamW's two moments.")
    activations: int = Field(
        description="Training: what the forward pass keeps for the backward pass. Inference: the "
        "most that is alive at once, images included."
    )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations


class Footprint(BaseModel):
    """What a network costs.

    FLOPs are those of matrix products and convolutions for one image; a multiply-add counts as 2.
    """

    parts: list[Part] = Field(description="In the network's order.")
    parameters: int
    trained: int = Field(description="Parameters that the loss reaches.")
    needed: int = Field(description="Parameters that the verdict rests on.")
    parameter_bytes: int = Field(description="In float32.")
    buffer_bytes: int = Field(description="What the network holds beside them.")
    verdict_flops: int = Field(description="Forward, and only what the verdict needs.")
    training_flops: int = Field(description="Forward and backward.")
    batch_size: int = Field(description="Images that the memory is for.")
    training_memory: Memory
    inference_memory: Memory


def footprint(model: ModelSettings, loss: LossSettings, batch_size: int) -> Footprint:
    """What the network of these settings costs.

    It is built on torch's meta device, which knows shapes and holds no numbers: the largest one
    takes seconds and no memory. Attention is taken as without a fused kernel: scores are kept.

    Args:
        model: The network. No weights are read or fetched.
        loss: What trains it. A term with weight 0 still reaches its part here; `check_trainable`
            refuses the weights that matter.
        batch_size: Images in memory at once.

    Raises:
        UserError: The settings contradict each other, or a backbone does not fit.
    """
    with torch.device("meta"):
        network = build_from_settings(
            model.model_copy(update={"pretrained": False, "weights": None})
        )
        images_BCHW = torch.empty(batch_size, 3, model.image_size, model.image_size)
    training = training_cost(network, images_BCHW, model, loss)
    verdict = verdict_cost(network, images_BCHW)

    def count(module: nn.Module, reached: set[nn.Parameter] | None = None) -> int:
        return sum(p.numel() for p in module.parameters() if reached is None or p in reached)

    parts = [
        Part(
            name=name,
            parameters=count(child),
            trained=count(child, training.reached),
            needed=count(child, verdict.reached),
            verdict_flops=verdict.flops_by_part[name] // batch_size,
        )
        for name, child in _named_parts(network)
    ]
    parameter_bytes, buffer_bytes = _bytes(network.parameters()), _bytes(network.buffers())
    gradients = _bytes(training.reached)
    return Footprint(
        parts=[part for part in parts if part.parameters],
        parameters=count(network),
        trained=count(network, training.reached),
        needed=count(network, verdict.reached),
        parameter_bytes=parameter_bytes,
        buffer_bytes=buffer_bytes,
        verdict_flops=verdict.flops // batch_size,
        training_flops=training.flops // batch_size,
        batch_size=batch_size,
        training_memory=Memory(
            weights=parameter_bytes + buffer_bytes,
            gradients=gradients,
            optimizer=2 * gradients,
            activations=training.activation_bytes,
        ),
        inference_memory=Memory(
            weights=parameter_bytes + buffer_bytes, activations=verdict.activation_bytes
        ),
    )


@dataclass(frozen=True)
class Cost:
    """What one batch took.

    Attributes:
        flops: Of the whole batch.
        reached: The parameters that got a gradient.
        activation_bytes: As in `Memory`.
        flops_by_part: Of each part of the network; of a verdict only.
    """

    flops: int
    reached: set[nn.Parameter]
    activation_bytes: int
    flops_by_part: dict[str, int] = field(default_factory=dict)


def training_cost(
    network: nn.Module, images_BCHW: Tensor, model: ModelSettings, loss: LossSettings
) -> Cost:
    """A training step, forward and backward, on the device of network and images."""
    network.train()
    labels_B = torch.zeros(len(images_BCHW), dtype=torch.int64, device=images_BCHW.device)
    saved: set[UntypedStorage] = set()

    def keep(tensor: Tensor) -> Tensor:
        saved.add(tensor.untyped_storage())
        return tensor

    with sdpa_kernel(SDPBackend.MATH), _flop_counter() as counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            output = network(images_BCHW)
            losses = compute_losses(output, images_BCHW, labels_B, loss, model)
        losses["loss"].backward()
    activations = saved - _storages(network)
    return Cost(
        flops=counter.get_total_flops(),
        reached=_take_gradients(network),
        activation_bytes=sum(storage.nbytes() for storage in activations),
    )


def verdict_cost(network: nn.Module, images_BCHW: Tensor) -> Cost:
    """A forward pass in evaluation, on the device of network and images."""
    network.eval()
    with sdpa_kernel(SDPBackend.MATH):
        with _flop_counter() as counter:
            logits = network(images_BCHW, verdict_only=True).logits
        logits.sum().backward()
        with torch.no_grad(), LiveMemory(_storages(network)) as memory:
            network(images_BCHW.clone(), verdict_only=True)
    return Cost(
        flops=counter.get_total_flops(),
        reached=_take_gradients(network),
        activation_bytes=memory.peak,
        flops_by_part=_flops_by_part(network, counter.get_flop_counts()),
    )


class LiveMemory(TorchDispatchMode):
    """Follows the tensors that are made inside it, until nothing holds them any longer.

    Args:
        known: Storages that do not count, though views of them are made.

    Attributes:
        alive: Bytes that are held now.
        peak: The most that were.
    """

    def __init__(self, known: Iterable[UntypedStorage] = ()) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._seen = weakref.WeakSet(known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and looks at what it gives."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        # A storage's Python object lives as long as the storage does.
        weakref.finalize(storage, self._remove, storage.nbytes())

    def _remove(self, nbytes: int) -> None:
        self.alive -= nbytes


def _flop_counter() -> FlopCounterMode:
    own = {torch.ops.aten.convolution_backward: _convolution_backward_flops}
    return FlopCounterMode(display=False, custom_mapping=own)


def _convolution_backward_flops(
    grad_shape: list[int],
    input_shape: list[int],
    weight_shape: list[int],
    bias_shape: list[int] | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    output_mask: list[bool],
    **_: Any,
) -> int:
    """The gradient of the input and that of the weight cost a forward pass each.

    Torch's own formula takes the weight of a depthwise convolution for a full one.
    """
    forward = conv_flop_count(input_shape, weight_shape, grad_shape, transposed)
    return sum(output_mask[:2]) * forward


def _named_parts(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children; of one that is a network of its own (`original` has two), its children."""
    for name, child in network.named_children():
        if hasattr(child, "backbone"):
            yield from ((f"{name}.{inner}", part) for inner, part in child.named_children())
        else:
            yield name, child


def _flops_by_part(network: nn.Module, counts: dict[str, dict[Any, int]]) -> dict[str, int]:
    """Sums what the counter lists by module, such as `V2.backbone.stages.0`, over the parts.

    Modules inside a listed one are in its number. A part need not be listed itself: of the
    backbones, the networks call the stages.
    """
    by_part: dict[str, int] = {}
    for part, _ in _named_parts(network):
        root = f"{type(network).__name__}.{part}"
        inside = [name for name in counts if name == root or name.startswith(f"{root}.")]
        outermost = [n for n in inside if not any(n.startswith(f"{o}.") for o in inside)]
        by_part[part] = sum(sum(counts[name].values()) for name in outermost)
    return by_part


def _take_gradients(network: nn.Module) -> set[nn.Parameter]:
    """The parameters that have a gradient, which is dropped."""
    reached = {p for p in network.parameters() if p.grad is not None}
    network.zero_grad(set_to_none=True)
    return reached


def _storages(network: nn.Module) -> set[UntypedStorage]:
    return {t.untyped_storage() for t in (*network.parameters(), *network.buffers())}


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
