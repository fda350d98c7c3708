"""Faster forward passes for the networks: fused kernels, and graphs compiled part by part."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, TypeVar, cast

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, Mlp, PatchEmbed
from timm.models.convnext import ConvNeXt, ConvNeXtBlock, ConvNeXtStage
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock, WindowAttention
from torch import Tensor, nn

from genconvit.kernels import functional as fused
from genconvit.kernels.autoencoder import decode, encode, stack_views
from genconvit.kernels.check import distrust_wrong_kernels
from genconvit.kernels.functional import Affine, Norm
from genconvit.kernels.window_attention import Windows
from genconvit.models.autoencoder import Autoencoder
from genconvit.models.backbones import backbone_map, swin_map
from genconvit.models.v2 import V2
from genconvit.models.vae import VariationalAutoencoder

_GRAPHS = 64
"""Graphs that one function may have: stages x (train, eval) x batch sizes; PyTorch allows 8."""

_COMPILES = "compiles"
"""Attribute of a replaced part: whether its function is compiled."""

Function = TypeVar("Function", bound=Callable[..., Any])


def accelerate(network: nn.Module, *, compile: bool = True) -> nn.Module:
    """Gives timm's blocks in `network`, and its own parts, faster forward passes, in place.

    Parameters, their names and the function stay the same, up to rounding; under autocast the
    residual streams take autocast's dtype. Parts of unexpected make keep their own forward pass;
    where the kernels do not fit (`genconvit.kernels`) or are wrong on this GPU, plain PyTorch runs.

    Args:
        network: Any network of `genconvit.models`, or one with timm's ConvNeXt or Swin in it.
        compile: Compile each part. Equal blocks share a graph. A batch of another size compiles
            anew: run a last, smaller batch under `torch.compiler.set_stance("force_eager")`.

    Returns:
        `network` itself.
    """
    if compile:
        config: Any = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, _GRAPHS)
        # Inside DDP it would cut the parts' graphs at its buckets; DDP sees parameters, not parts.
        config.optimize_ddp = False
    modules: list[Any] = list(network.modules())
    _check_kernels(modules)
    for module in modules:
        for plain, faster, fits in _PARTS:
            if type(module) is plain and fits(module):
                module.__class__ = faster
                setattr(module, _COMPILES, compile)
        if isinstance(module, ConvNeXt) and _is_patch_stem(module.stem):
            module.stem.__class__ = _Stem
            setattr(module.stem, _COMPILES, compile)
        if isinstance(module, ConvNeXtStage) and _is_downsample(module.downsample):
            module.downsample.__class__ = _Downsample
            setattr(module.downsample, _COMPILES, compile)
    return network


def _check_kernels(modules: list[Any]) -> None:
    """Tries the kernels in the shapes of a network's blocks; takes seconds on a GPU."""
    convnext = [m for m in modules if isinstance(m, ConvNeXtBlock) and _is_plain_block(m)]
    swin = [m for m in modules if isinstance(m, SwinTransformerBlock) and _is_plain_swin(m)]
    if not convnext and not swin:
        return
    attentions = {
        (*block.input_resolution, block.dim, _windows(block))
        for block in swin
        if not any(s % w for s, w in zip(block.input_resolution, block.window_size, strict=True))
    }
    widths = {(b.mlp.fc1.in_features, b.mlp.fc1.out_features) for b in swin}
    widths |= {b.mlp.fc1.weight.shape[1::-1] for b in convnext}
    channels = {block.conv_dw.in_channels for block in convnext}
    device = next((convnext or swin)[0].parameters()).device
    distrust_wrong_kernels(sorted(attentions), sorted(channels), sorted(widths), device)


class _ConvNeXtBlock(ConvNeXtBlock):
    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BHWC = _run(
            fused.convnext_block,
            self,
            x_BCHW.permute(0, 2, 3, 1),
            _drawn(self.drop_path, x_BCHW),
            _affine(self.conv_dw),
            _norm(self.norm),
            _flat(self.mlp.fc1),
            _flat(self.mlp.fc2),
            self.gamma,
        )
        return y_BHWC.permute(0, 3, 1, 2)


class _SwinBlock(SwinTransformerBlock):
    def forward(self, x_BHWC: Tensor) -> Tensor:
        if any(
            side % window for side, window in zip(x_BHWC.shape[1:3], self.window_size, strict=True)
        ):
            return super().forward(x_BHWC)
        keep1, keep2 = _drawn(self.drop_path1, x_BHWC), _drawn(self.drop_path2, x_BHWC)
        return _run(
            fused.swin_block,
            self,
            x_BHWC,
            None if keep1 is None or keep2 is None else (keep1, keep2),
            _norm(self.norm1),
            _affine(self.attn.qkv),
            self.attn.relative_position_bias_table,
            _affine(self.attn.proj),
            _norm(self.norm2),
            _affine(self.mlp.fc1),
            _affine(self.mlp.fc2),
            _windows(self),
        )


class _Autoencoder(Autoencoder):
    def forward(self, images_BCHW: Tensor) -> Tensor:
        latent_BZ = self.latent(_encode(self, images_BCHW))
        return _decode(self, latent_BZ)


class _VariationalAutoencoder(VariationalAutoencoder):
    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features_BF = _encode(self, images_BCHW)
        mu_BZ, logvar_BZ = self.mu(features_BF), self.logvar(features_BF)
        z_BZ = mu_BZ
        if self.training:
            z_BZ = mu_BZ + torch.randn_like(mu_BZ) * torch.exp(0.5 * logvar_BZ)
        return _decode(self, z_BZ), mu_BZ, logvar_BZ

    def reconstruct(self, images_BCHW: Tensor) -> Tensor:
        return _decode(self, self.mu(_encode(self, images_BCHW)))


class _V2(V2):
    def _branch_tokens(
        self, images_BCHW: Tensor, reconstructions: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        views = list(reconstructions.values())
        constants = _pixel_constants(images_BCHW.device)
        image = images_BCHW if self.sees_image else None
        run = _compiled(stack_views) if self.compiles else stack_views
        stacked = run(views, image, *constants)
        maps = backbone_map(self.backbone, stacked), swin_map(self.embedder, stacked)
        mix = _compiled(V2._mix) if self.compiles else V2._mix
        return mix(self, *maps, list(reconstructions))

    def _fuse(self, ed_BTD: Tensor, vae_BTD: Tensor) -> Tensor:
        fuse = _compiled(V2._fuse) if self.compiles else V2._fuse
        return fuse(self, ed_BTD, vae_BTD)


def _encode(part: Any, images_BCHW: Tensor) -> Tensor:
    layers = list(part.encoder)
    convs, norms = tuple(map(_affine, layers[:-1:3])), tuple(map(_norm, layers[1:-1:3]))
    return _run(encode, part, images_BCHW.permute(0, 2, 3, 1), convs, norms)


def _decode(part: Any, latent_BZ: Tensor) -> Tensor:
    first, _, unflatten, *layers = part.decoder
    convs, norms = tuple(map(_affine, layers[::3])), tuple(map(_norm, layers[1:-1:3]))
    side = unflatten.unflattened_size[-1]
    x_BHWC = _run(decode, part, latent_BZ, _affine(first), side, convs, norms)
    return x_BHWC.permute(0, 3, 1, 2)


@lru_cache(maxsize=64)
def _pixel_constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (3, 1, 1): made once, as a copy to the GPU waits for its work."""
    with torch.inference_mode(False):  # else training could not use what validation made first
        mean, deviation = torch.tensor(IMAGENET_DEFAULT_MEAN), torch.tensor(IMAGENET_DEFAULT_STD)
        return mean.view(3, 1, 1).to(device), deviation.view(3, 1, 1).to(device)


class _PatchMerging(PatchMerging):
    def forward(self, x_BHWC: Tensor) -> Tensor:
        if x_BHWC.shape[1] % 2 or x_BHWC.shape[2] % 2:
            return super().forward(x_BHWC)
        return _run(fused.patch_merging, self, x_BHWC, _norm(self.norm), _affine(self.reduction))


class _PatchEmbed(PatchEmbed):
    def forward(self, x_BCHW: Tensor) -> Tensor:
        norm = None if isinstance(self.norm, nn.Identity) else _norm(self.norm)
        return _run(fused.stem, self, x_BCHW.permute(0, 2, 3, 1), _affine(self.proj), norm)


class _Stem(nn.Sequential):
    def forward(self, x_BCHW: Tensor) -> Tensor:
        conv, norm = self
        y_BHWC = _run(fused.stem, self, x_BCHW.permute(0, 2, 3, 1), _affine(conv), _norm(norm))
        return y_BHWC.permute(0, 3, 1, 2)


class _Downsample(nn.Sequential):
    def forward(self, x_BCHW: Tensor) -> Tensor:
        norm, conv = cast(Any, self)
        side = conv.kernel_size[0]
        if x_BCHW.shape[2] % side or x_BCHW.shape[3] % side:
            return super().forward(x_BCHW)
        y_BHWC = _run(
            fused.downsample, self, x_BCHW.permute(0, 2, 3, 1), _norm(norm), _affine(conv)
        )
        return y_BHWC.permute(0, 3, 1, 2)


def _run(function: Callable[..., Tensor], part: Any, x: Tensor, *arguments: Any) -> Tensor:
    """The function of a map and parameters, in autocast's dtype where that is on."""
    kind = x.device.type
    on = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if on else x.dtype
    # The functions choose every dtype themselves, so autocast has nothing to do inside.
    with torch.autocast(kind, enabled=False):
        run = _compiled(function) if part.compiles else function
        return run(x.to(dtype), *arguments)


@cache
def _compiled(function: Function) -> Function:
    return cast(Function, torch.compile(function, dynamic=False, fullgraph=True))


def _drawn(drop: nn.Module, x: Tensor) -> Tensor | None:
    """Factors (B,) of stochastic depth, drawn as timm's DropPath draws them; None: all are 1.

    Drawn here and not in the graphs, which then need not differ by the rate.
    """
    if not isinstance(drop, DropPath) or not drop.training or drop.drop_prob == 0.0:
        return None
    keep = 1 - drop.drop_prob
    drawn_B = torch.empty(x.shape[0], device=x.device).bernoulli_(keep)
    return drawn_B.div_(keep) if keep > 0.0 and drop.scale_by_keep else drawn_B


def _windows(block: Any) -> Windows:
    (height, width), (down, right) = block.window_size, block.shift_size
    return Windows(height, width, down, right, block.attn.num_heads)


def _affine(layer: Any) -> Affine:
    return Affine(layer.weight, layer.bias)


def _flat(layer: Any) -> Affine:
    return Affine(layer.weight.flatten(1), layer.bias)  # a convolution of side 1 is a linear layer


def _norm(layer: Any) -> Norm:
    return Norm(layer.weight, layer.bias, layer.eps)


def _is_norm(module: Any) -> bool:
    return isinstance(module, nn.LayerNorm) and module.bias is not None


def _is_mlp(module: Any) -> bool:
    return (
        type(module) is Mlp
        and all(
            isinstance(layer, nn.Linear) or getattr(layer, "kernel_size", None) == (1, 1)
            for layer in (module.fc1, module.fc2)
        )
        and type(module.act).__name__ == "GELU"
        and getattr(module.act, "approximate", "none") == "none"
        and isinstance(module.norm, nn.Identity)
        and module.drop1.p == module.drop2.p == 0
    )


def _is_plain_block(block: Any) -> bool:
    conv = block.conv_dw
    return (
        isinstance(block.shortcut, nn.Identity)
        and type(conv) is nn.Conv2d
        and conv.groups == conv.in_channels == conv.out_channels
        and conv.dilation == (1, 1)
        and conv.kernel_size[0] == conv.kernel_size[1]
        and conv.padding == (conv.kernel_size[0] // 2,) * 2
        and conv.kernel_size[0] % 2 == 1
        and _is_norm(block.norm)
        and _is_mlp(block.mlp)
    )


def _is_plain_swin(block: Any) -> bool:
    attention = block.attn
    return (
        type(attention) is WindowAttention
        and not getattr(block, "dynamic_mask", False)
        and attention.attn_drop.p == attention.proj_drop.p == 0
        and _is_norm(block.norm1)
        and _is_norm(block.norm2)
        and _is_mlp(block.mlp)
    )


def _is_patch_convolution(conv: Any) -> bool:
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size[0] == conv.kernel_size[1]
        and conv.stride == conv.kernel_size
        and conv.padding == (0, 0)
        and conv.dilation == (1, 1)
        and conv.groups == 1
    )


def _is_patch_stem(stem: Any) -> bool:
    return (
        type(stem) is nn.Sequential
        and len(stem) == 2
        and _is_patch_convolution(stem[0])
        and _is_norm(stem[1])
    )


def _is_downsample(part: Any) -> bool:
    return (
        type(part) is nn.Sequential
        and len(part) == 2
        and _is_norm(part[0])
        and _is_patch_convolution(part[1])
    )


def _is_patch_embedding(part: Any) -> bool:
    return (
        part.output_fmt == "NHWC"
        and not part.dynamic_img_pad
        and _is_patch_convolution(part.proj)
        and (isinstance(part.norm, nn.Identity) or _is_norm(part.norm))
    )


_PARTS: list[tuple[type[nn.Module], Any, Callable[[Any], bool]]] = [
    (ConvNeXtBlock, _ConvNeXtBlock, _is_plain_block),
    (SwinTransformerBlock, _SwinBlock, _is_plain_swin),
    (PatchMerging, _PatchMerging, lambda part: _is_norm(part.norm)),
    (PatchEmbed, _PatchEmbed, _is_patch_embedding),
    (Autoencoder, _Autoencoder, lambda part: True),
    (VariationalAutoencoder, _VariationalAutoencoder, lambda part: True),
    (V2, _V2, lambda part: True),
]
