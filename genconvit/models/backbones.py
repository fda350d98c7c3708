"""The two timm backbones, and the feature maps they give.

They are a ConvNeXt and a Swin; another convolutional network may stand in the ConvNeXt's place.
"""

from __future__ import annotations

import difflib
from inspect import signature
from typing import Any, TypeAlias

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import NormMlpClassifierHead
from timm.models import is_model_in_modules
from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn

from genconvit.config import ModelSettings
from genconvit.errors import UserError
from genconvit.models.backbone_weights import hub_arguments, load_weights

Swin: TypeAlias = SwinTransformer | SwinTransformerV2

IMAGENET_CLASSES = 1000
DEEPEST_STRIDE = 32
"""Of a backbone's last map, and of the tokens."""

# timm's modules by role. Others (swin_transformer_v2_cr) lay their maps out differently.
_MODULES = {"backbone": ["convnext"], "embedder": ["swin_transformer", "swin_transformer_v2"]}
_FAMILIES = {"backbone": "ConvNeXt", "embedder": "Swin"}
# What the networks' constructors take. timm.create_model takes more, such as files and addresses to
# load weights from: a detector's description must not reach those.
_PARAMETERS = {
    role: {name for family in families for name in signature(family).parameters}
    for role, families in {
        "backbone": [ConvNeXt],
        "embedder": [SwinTransformer, SwinTransformerV2],
    }.items()
}


def build_backbones(model: ModelSettings) -> tuple[nn.Module, Swin]:
    """`model.backbone`, as a rule a ConvNeXt, and the Swin `model.embedder`, with their weights.

    Any other network of timm's whose last map has a 32nd of the image's side may be the backbone.
    It sees images as it was pretrained on them, whatever they are normalised by.

    timm has initialised or loaded them: nothing may initialise them again.

    Raises:
        UserError: A name, keyword argument or weight file does not fit, or the hub does not answer.
    """
    headless = {"num_classes": 0}
    swin = {**headless, "img_size": model.image_size}
    if _is_of_another_family(model.backbone):
        backbone = _build_other(model)
    else:
        backbone = _build("backbone", model.backbone, model.backbone_kwargs, headless, model)
    embedder = _build("embedder", model.embedder, model.embedder_kwargs, swin, model)
    head = getattr(backbone, "head", None)
    if isinstance(head, NormMlpClassifierHead):
        head.pre_logits = nn.Identity()  # the larger ConvNeXts have a layer there
    if model.weights is not None:
        load_weights({"backbone": backbone, "embedder": embedder}, model.weights)
    if model.backbone_stride < DEEPEST_STRIDE:
        _cut("backbone", backbone, model.backbone_stride)
        _cut("embedder", embedder, model.backbone_stride)
    return backbone, embedder


def build_classifier(model: ModelSettings) -> ConvNeXt:
    """The ConvNeXt `model.backbone` with ImageNet's head of 1000 classes, and its weights.

    Raises:
        UserError: A name, keyword argument or weight file does not fit, or the hub does not answer.
    """
    head = {"num_classes": IMAGENET_CLASSES}
    backbone = _build("backbone", model.backbone, model.backbone_kwargs, head, model)
    if model.weights is not None:
        load_weights({"backbone": backbone}, model.weights)
    return backbone


def backbone_map(backbone: nn.Module, images_BCHW: Tensor) -> Tensor:
    """Normalised images (B, 3, S, S) to the backbone's map: (B, S/stride, S/stride, C).

    A whole ConvNeXt's is the one after its layer norm.
    """
    scale_C11 = getattr(backbone, "input_scale", None)  # of one that knows another normalisation
    if scale_C11 is not None:
        images_BCHW = images_BCHW * scale_C11 + backbone.input_shift
    map_BCHW: Tensor = backbone.forward_features(images_BCHW)  # type: ignore[operator]
    head = getattr(backbone, "head", None)
    if isinstance(head, NormMlpClassifierHead):
        map_BCHW = head.norm(map_BCHW)  # timm's classifier would pool first
    return map_BCHW.permute(0, 2, 3, 1)


def swin_map(embedder: Swin, images_BCHW: Tensor) -> Tensor:
    """Normalised images (B, 3, S, S) to the Swin's map: (B, S/stride, S/stride, C).

    A whole Swin's is the one after its layer norm.
    """
    map_BHWC: Tensor = embedder.forward_features(images_BCHW)
    return map_BHWC


def _cut(role: str, network: Any, stride: int) -> None:
    """Leaves out the stages after the last one of this stride, and the norm and head behind them.

    `num_features` becomes the width of the map that is left.

    Raises:
        UserError: No stage has it, or timm cannot leave out the others.
    """
    try:
        strides = [stage["reduction"] for stage in network.feature_info]
        last = len(strides) - 1 - strides[::-1].index(stride)
        width = network.feature_info[last]["num_chs"]
        network.prune_intermediate_layers([last], prune_norm=True, prune_head=True)
        if role == "backbone" and _map_shape(network) != (1, width, 64 // stride, 64 // stride):
            raise ValueError("its stages do not lie one behind the other")
    except Exception as error:  # few networks of timm's cannot be cut, each in its own way
        raise UserError(
            f"timm cannot cut model.{role} to model.backbone_stride={stride}; take another "
            f"network or backbone_stride={DEEPEST_STRIDE}."
        ) from error
    network.num_features = width  # older versions of timm leave it, and a ConvNeXt's last norm
    if isinstance(getattr(network, "head", None), NormMlpClassifierHead):
        network.head.norm = nn.Identity()


def _is_of_another_family(name: str) -> bool:
    name = name.split(".")[0]
    return timm.is_model(name) and not is_model_in_modules(name, _MODULES["backbone"])


def _build_other(model: ModelSettings) -> nn.Module:
    """A backbone of another family, which takes no keyword arguments.

    Raises:
        UserError: Its last map is another one, or its weights cannot be had.
    """
    name = model.backbone
    if model.backbone_kwargs:
        raise UserError(
            f"model.backbone_kwargs are those of a ConvNeXt, and {name} is none; leave them out."
        )
    source = hub_arguments("backbone", name) if model.pretrained else {}
    dropped = {"drop_path_rate": model.drop_path_rate} if model.drop_path_rate else {}
    try:
        backbone = timm.create_model(name, in_chans=3, num_classes=0, **dropped, **source)
        found = _map_shape(backbone)
    except Exception as error:  # transformers want images of one size, others no drop_path_rate
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"model.backbone={name!r} does not fit ({reason}); take a convolutional network, and "
            "perhaps model.drop_path_rate=0."
        ) from error
    if found != (1, backbone.num_features, 2, 2):
        raise UserError(
            f"model.backbone={name!r} must give maps of a 32nd of the image's side, channels "
            "first; take a convolutional network that does."
        )
    own, usual = backbone.pretrained_cfg, (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    if (tuple(own["mean"]), tuple(own["std"])) != usual:
        mean, std = torch.tensor(own["mean"]), torch.tensor(own["std"])
        usual_mean, usual_std = map(torch.tensor, usual)
        for what, values in (("scale", usual_std / std), ("shift", (usual_mean - mean) / std)):
            backbone.register_buffer(f"input_{what}", values[:, None, None], persistent=False)
    return backbone


def _map_shape(network: Any) -> tuple[int, ...]:
    """Of the map that an image of 64 px gives."""
    was_training = network.training
    try:
        with torch.no_grad():
            return tuple(network.eval().forward_features(torch.zeros(1, 3, 64, 64)).shape)
    finally:
        network.train(was_training)


def _build(
    role: str, name: str, kwargs: dict[str, Any], fixed: dict[str, Any], model: ModelSettings
) -> nn.Module:
    known = [n for module in _MODULES[role] for n in timm.list_models(module=module)]
    if name.split(".")[0] not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.0))
        raise UserError(
            f"model.{role}={name!r} is no {_FAMILIES[role]} of timm's; the nearest names are "
            f"{near}."
        )
    foreign = sorted(kwargs.keys() - _PARAMETERS[role])
    if foreign:
        raise UserError(
            f"model.{role}_kwargs sets {foreign[0]}, which is no part of a {_FAMILIES[role]}; "
            "leave it out."
        )
    fixed = {**fixed, "in_chans": 3, "drop_path_rate": model.drop_path_rate}
    for key in sorted(fixed.keys() & kwargs.keys()):
        if kwargs[key] != fixed[key]:
            raise UserError(
                f"model.{role}_kwargs sets {key} to {kwargs[key]}, but it is {fixed[key]} here; "
                "leave it out."
            )
    source = hub_arguments(role, name) if model.pretrained else {}
    try:
        backbone: nn.Module = timm.create_model(name, **{**kwargs, **fixed, **source})
    except Exception as error:  # timm checks little: what does not fit fails somewhere inside
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"timm cannot build model.{role}={name!r} with {kwargs} ({reason}); "
            f"correct model.{role}_kwargs."
        ) from error
    _check(role, backbone)
    return backbone


def _check(role: str, backbone: nn.Module) -> None:
    """Refuses keyword arguments that give other maps, or parts that could never learn."""
    stages = getattr(backbone, "feature_info", [])
    if not stages or stages[-1]["reduction"] != 32:
        raise UserError(
            f"model.{role}_kwargs must leave maps of a 32nd of the image's side; correct "
            "patch_size, output_stride or the number of depths."
        )
    if any(getattr(block, "window_area", 2) == 1 for block in backbone.modules()):
        raise UserError(
            f"model.{role}_kwargs gives attention over windows of one token, whose position table "
            "gets no gradient; take a larger window_size."
        )
