"""Start weights of the backbones: local files, and timm's hub."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
from timm.models import convnext, load_state_dict, swin_transformer, swin_transformer_v2
from torch import Tensor, nn

from genconvit.errors import UserError

logger = logging.getLogger(__name__)

# timm's own: the original authors' key names to timm's, Swin's position tables to other windows.
_CONVERTERS = {
    convnext.ConvNeXt: convnext.checkpoint_filter_fn,
    swin_transformer.SwinTransformer: swin_transformer.checkpoint_filter_fn,
    swin_transformer_v2.SwinTransformerV2: swin_transformer_v2.checkpoint_filter_fn,
}
# Every file of the family holds one of these, in timm's names or in the original authors'.
_FIRST_KEYS = {
    "backbone": ("stem.0.weight", "downsample_layers.0.0.weight"),
    "embedder": ("patch_embed.proj.weight",),
}
_FOREIGN_HEADS = ("classifier.", "fc.", "head.")
"""Where timm's networks keep the classifier."""
_COUNT = "num_batches_tracked"
"""Of batch norm: no part of what it computes, and left out of files by some libraries."""
_HUB_TIMEOUT_S = 5.0


def load_weights(backbones: Mapping[str, nn.Module], path: Path) -> None:
    """Loads each weight file of `path` into the backbone that it fits.

    Args:
        backbones: "backbone" and "embedder", or one of them, to their timm models.
        path: A .safetensors or .pth file, or a folder of them. Keys are timm's or the original
            authors', bare or behind `backbone.` or `embedder.`. A classifier that the model does
            not have is left out, and so is a file for a backbone that is not asked for. Of a
            backbone that is no ConvNeXt, another library's names will do where the order fits.

    Raises:
        UserError: There is no such file, or one that fits neither backbone.
    """
    candidates = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [f for f in candidates if f.is_file() and f.suffix in (".safetensors", ".pth")]
    if not files:
        raise UserError(
            f"model.weights={path} is neither a .safetensors or .pth file nor a folder of them; "
            "correct the path."
        )
    source: dict[str, Path] = {}
    for file in files:
        state = _renamed(_read(file), backbones.get("backbone"))
        parts = {role: _part_of(role, state) for role in _FIRST_KEYS}
        roles = [
            role
            for role, part in parts.items()
            if not part.keys().isdisjoint(_first_keys(role, backbones.get(role)))
        ]
        for role in roles:
            if role not in backbones:
                continue
            if role in source:
                raise UserError(
                    f"{source[role]} and {file} both fit model.{role}; keep one of them."
                )
            _load(role, backbones[role], parts[role], file)
            source[role] = file
        if not roles:
            raise UserError(
                f"{file} fits neither model.backbone "
                f"({_first_keys('backbone', backbones.get('backbone'))[0]} is missing) nor "
                "model.embedder (patch_embed.proj.weight is missing); give weights of these timm "
                "models."
            )
    for role in backbones.keys() - source.keys():
        logger.warning("%s has no weights for model.%s, which starts untrained", path, role)


def hub_arguments(role: str, name: str) -> dict[str, Any]:
    """Arguments of `timm.create_model` that load its ImageNet weights.

    timm retries an unreachable hub for most of a minute, so that is found out here first.

    Raises:
        UserError: timm has no weights for the name, or its hub does not answer and none are cached.
    """
    settings = timm.get_pretrained_cfg(name)
    if settings is None or not settings.has_weights:
        raise UserError(
            f"timm has no ImageNet weights for model.{role}={name!r}; "
            "leave model.pretrained out or give model.weights=PATH."
        )
    try:
        session = huggingface_hub.get_session()
        session.head(huggingface_hub.constants.ENDPOINT, timeout=_HUB_TIMEOUT_S)
    except Exception as error:  # the HTTP library, and with it the error, differs between versions
        cached = huggingface_hub.try_to_load_from_cache(settings.hf_hub_id, "model.safetensors")
        if isinstance(cached, str):
            return {"pretrained": True, "pretrained_cfg_overlay": {"file": cached}}
        raise UserError(
            f"the ImageNet weights of model.{role}={name!r} cannot be fetched from timm's hub "
            f"({huggingface_hub.constants.ENDPOINT} does not answer); "
            "give local ones as model.weights=PATH."
        ) from error
    return {"pretrained": True}


def _read(file: Path) -> dict[str, Tensor]:
    try:
        state = load_state_dict(str(file), device="cpu", weights_only=True)
    except Exception as error:  # each format fails in its own ways
        raise UserError(f"{file} cannot be read as weights; give a state dict.") from error
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _renamed(state: dict[str, Tensor], backbone: nn.Module | None) -> dict[str, Tensor]:
    """A file of another library for a network of another family, with timm's names.

    Where no name fits, the order tells: libraries name layers differently, but build the same
    network from its first layer to its last. Every tensor must have the shape of its counterpart;
    how many batches a norm has seen may be missing.
    """
    if backbone is None or type(backbone) in _CONVERTERS:
        return state
    wanted = _without_counts(backbone.state_dict())
    found = _without_counts(state)
    shapes = [value.shape for value in found.values()][: len(wanted)]
    if wanted.keys() & found.keys() or shapes != [value.shape for value in wanted.values()]:
        return state
    return dict(zip(wanted, found.values(), strict=False))


def _without_counts(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.endswith(_COUNT)}


def _part_of(role: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What stands behind the role's name; the whole file where nothing does."""
    prefix = f"{role}."
    part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return part or state


def _first_keys(role: str, backbone: nn.Module | None) -> tuple[str, ...]:
    """Keys of which a file for a backbone holds one; of a foreign one its very first."""
    if backbone is None or type(backbone) in _CONVERTERS:
        return _FIRST_KEYS[role]
    return (next(iter(backbone.state_dict())),)


def _load(role: str, backbone: nn.Module, part: dict[str, Tensor], file: Path) -> None:
    # The converter looks keys up in the model; those that are not there are reported below.
    with contextlib.suppress(KeyError, AttributeError):
        part = _CONVERTERS[type(backbone)](part, backbone)
    wanted = backbone.state_dict()
    part = {**{k: v for k, v in wanted.items() if k.endswith(_COUNT)}, **part}
    heads = ("head.",) if type(backbone) in _CONVERTERS else _FOREIGN_HEADS
    part = {k: v for k, v in part.items() if k in wanted or not k.startswith(heads)}
    problems = [f"{k} is missing" for k in wanted if k not in part]
    problems += [f"{k} is not in the model" for k in part if k not in wanted]
    problems += [
        f"{k} is {tuple(part[k].shape)} and should be {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in part and part[k].shape != v.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{file} does not fit model.{role}: {'; '.join(problems[:3])}{more}; "
            f"set model.{role} and model.{role}_kwargs to what it was trained with."
        )
    backbone.load_state_dict(part)
    logger.info("model.%s starts from %s", role, file)
