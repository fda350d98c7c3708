"""Any setting of the switches builds, learns as a whole, trains under DDP and comes back alike."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from genconvit.checkpoint import DetectorInfo, load_network, save_detector
from genconvit.config import LossSettings, ModelSettings, Settings
from genconvit.losses import compute_losses
from genconvit.models.output import NetworkOutput
from genconvit.models.registry import BUILDERS, build_from_settings
from genconvit.trainable import check_trainable
from tests.models.liveness import images

BATCH = 12  # so many that dropout and drop-path never silence a part in all of them
CONVNEXT: dict[str, Any] = {"depths": [1, 1, 1, 1], "ls_init_value": 0.1}
SWIN: dict[str, Any] = {"embed_dim": 4, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
SIZES = st.sampled_from((64, 96))
DROP_PATH = st.floats(0.0, 0.2)


@st.composite
def v2_models(draw: st.DrawFn) -> ModelSettings:
    heads = draw(st.sampled_from((1, 2, 4)))
    net = draw(st.sampled_from(("v2", "genconvit", "ed", "vae")))
    return ModelSettings(
        preset="nano",
        net=net,
        seam_branch=net != "genconvit" and draw(st.booleans()),
        attention=draw(st.booleans()),
        residual=draw(st.booleans()),
        fusion=draw(st.sampled_from(("swiglu", "sum", "concat"))),
        backbone_fusion=draw(st.sampled_from(("sum", "concat"))),
        backbone_input=draw(st.sampled_from(("both", "reconstruction", "difference"))),
        backbone_stride=draw(st.sampled_from((4, 8, 16, 32))),
        pooling=draw(st.sampled_from(("mean", "place"))),
        aux_heads=draw(st.booleans()),
        image_size=draw(SIZES),
        ae_latent=draw(st.integers(2, 6)),
        vae_latent=draw(st.integers(2, 6)),
        dropout_rate=draw(st.floats(0.0, 0.6)),
        drop_path_rate=draw(DROP_PATH),
        autoencoder_channels=(2, 3, 4, 4, 4),
        token_dim=heads * draw(st.sampled_from((8, 16))),
        attention_heads=heads,
        # Swin's last map has 32 channels: as many as ConvNeXt's, or not.
        backbone_kwargs={**CONVNEXT, "dims": [4, 4, 8, draw(st.sampled_from((16, 32)))]},
        embedder_kwargs=SWIN,
    )


@st.composite
def original_models(draw: st.DrawFn) -> ModelSettings:
    return ModelSettings(
        arch="original",
        preset="nano",
        net=draw(st.sampled_from(("genconvit", "ed", "vae"))),
        image_size=draw(SIZES),
        drop_path_rate=draw(DROP_PATH),
        backbone_kwargs={**CONVNEXT, "dims": [4, 4, 8, 8]},
    )


MODELS = {"v2": v2_models(), "original": original_models()}


@pytest.fixture(scope="module", autouse=True)
def process_group() -> Iterator[None]:
    """A DDP group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_every_arch_is_drawn() -> None:
    assert MODELS.keys() == BUILDERS.keys()


@examples(max_examples=25)
@given(st.sampled_from(sorted(MODELS)).flatmap(MODELS.__getitem__), st.integers(0, 2**31 - 1))
def test_any_switches_make_a_network_that_trains_and_is_kept(
    model: ModelSettings, seed: int
) -> None:
    torch.manual_seed(seed)
    loss = loss_for(model)
    check_trainable(model, loss)
    network = build_from_settings(model)
    if model.seam_branch:
        network.seams.weight.fill_(0.1)
    distributed = DistributedDataParallel(network)
    training_loss(distributed, model, loss).backward()
    assert dead(network) == []
    training_loss(distributed, model, loss).backward()  # refused if the first left a part unused

    x_BCHW = images(2, model.image_size)
    with torch.no_grad():
        output = network.eval()(x_BCHW)
        check_output(output, model, 2)
        assert torch.equal(network(x_BCHW, verdict_only=True).logits, output.logits)
        assert torch.equal(stored(network, model)(x_BCHW).logits, output.logits)


def test_ddp_refuses_a_parameter_that_is_not_used() -> None:
    model, loss = ModelSettings(preset="nano", net="ed"), LossSettings()
    network = build_from_settings(model)
    network.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    distributed = DistributedDataParallel(network)
    training_loss(distributed, model, loss).backward()
    assert dead(network) == ["unused"]
    with pytest.raises(RuntimeError, match="finished reduction"):
        training_loss(distributed, model, loss)


def loss_for(model: ModelSettings) -> LossSettings:
    """The default weights of the architecture; branch heads that are not there have none."""
    loss = Settings.model_validate({"model": {"arch": model.arch}}).loss
    return loss if model.aux_heads else loss.model_copy(update={"aux_weight": 0.0})


def training_loss(network: nn.Module, model: ModelSettings, loss: LossSettings) -> Tensor:
    x_BCHW, labels_B = images(BATCH, model.image_size), torch.arange(BATCH) % 2
    return compute_losses(network(x_BCHW), x_BCHW, labels_B, loss, model)["loss"]


def dead(network: nn.Module) -> list[str]:
    """Names of the parameters without a finite gradient that is not zero."""
    return [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or p.grad.abs().max() <= 1e-12
    ]


def check_output(output: NetworkOutput, model: ModelSettings, batch: int) -> None:
    """What the network has is there in the documented shape, and nothing else is."""
    size, original = model.image_size, model.arch == "original"
    has_ed, has_vae = model.net != "vae", model.net != "ed"
    both = model.net == "genconvit" or (model.net == "v2" and model.aux_heads)
    image = (batch, 3, size, size)
    half = (batch, 3, size // 2, size // 2)
    latent = model.autoencoder_channels[-1] * (size // 32) ** 2 if original else model.vae_latent
    assert {name: None if t is None else tuple(t.shape) for name, t in vars(output).items()} == {
        "logits": (batch, 2),
        "ed_logits": (batch, 2) if both else None,
        "vae_logits": (batch, 2) if both else None,
        "seam_logits": (batch, 2) if model.seam_branch else None,
        "ed_reconstruction": image if has_ed and not original else None,
        "vae_reconstruction": (half if original else image) if has_vae else None,
        "mu": (batch, latent) if has_vae else None,
        "logvar": (batch, latent) if has_vae and not original else None,
    }


def stored(network: nn.Module, model: ModelSettings) -> nn.Module:
    """The network as it comes back from a detector's folder."""
    of = Settings()
    info = DetectorInfo(
        model=model, preprocess=of.preprocess, sampling=of.sampling, decision=of.decision
    )
    with tempfile.TemporaryDirectory() as folder:
        save_detector(Path(folder) / "best", network.state_dict(), info)
        return load_network(Path(folder) / "best")[0]
