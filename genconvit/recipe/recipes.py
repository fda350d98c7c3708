"""Training recipes by name, from a YAML file (docs/recipe.md).

common:                  # settings that all recipes share
  train: {epochs: 12}
recipes:
  ours: {}
  no-attention:
    from: ours           # begins with that recipe's settings
    model.attention: false
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genconvit.config import Settings
from genconvit.errors import UserError
from genconvit.overrides import (
    Assignment,
    find_field,
    merge_settings,
    read_yaml,
    settings_in,
)
from genconvit.train.run_folder import MAY_CHANGE, flat_settings
from genconvit.wording import listed

SECTIONS = ("model", "stream", "augment", "loss", "train")
"""What a recipe may set; all else belongs to the crops, or to other commands."""
FROM = "from"
WITHOUT_EFFECT = MAY_CHANGE - {"train.epochs", "train.early_stopping_min_delta"}
"""What changes nothing of a finished run of a recipe. `plateau` needs the smallest change."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


@dataclass(frozen=True)
class Recipe:
    """A full set of settings under a name.

    Attributes:
        name: Also a part of file names.
        settings: With seed 0.
    """

    name: str
    settings: Settings

    def of_seed(self, seed: int) -> Settings:
        """The settings of a run."""
        return self.settings.model_copy(update={"seed": seed})


def read_recipes(
    path: Path,
    *,
    only: Sequence[str] = (),
    config: Path | None = None,
    assignments: Sequence[Assignment] = (),
) -> list[Recipe]:
    """Reads recipes.

    Args:
        path: The YAML file.
        only: Which of them, in this order; by default all.
        config: A YAML file with settings that all have in common; the recipes' overrules it.
        assignments: Settings from the command line that all have in common.

    Raises:
        UserError: The file is not as described, a recipe starts from one that does not exist or
            from itself, a setting does not exist, has a bad value or does not belong to a recipe,
            or the command line gives one that a recipe sets.
    """
    tree = read_yaml(path, "--recipes")
    if not isinstance(tree, dict) or not isinstance(tree.get("recipes"), dict):
        raise UserError(f"{path} holds no recipes; write 'recipes:' with a name for each below.")
    unknown = sorted(str(name) for name in tree if name not in ("common", "recipes"))
    if unknown:
        raise UserError(f"{path} has {unknown[0]}, and takes common and recipes alone.")
    for item in assignments:
        find_field(item.name, item.origin)  # what is wrong for all is told of none
    _refuse_foreign([item.name for item in assignments], "the command line")
    common = settings_in(read_yaml(config, "--config"), str(config)) if config else {}
    common |= settings_in(tree.get("common"), f"common in {path}")
    _refuse_foreign(common, f"common in {path} or --config")
    written = {name: _written(name, one, path) for name, one in tree["recipes"].items()}
    names = list(only) or list(written)
    for name in names:
        if name not in written:
            raise UserError(
                f"{path} has no recipe {name}{_nearest(name, written)}; there are "
                f"{listed(list(written))}."
            )
        if names.count(name) > 1:
            raise UserError(f"recipe {name} is given twice; leave one out.")
    return [
        Recipe(name, _settings(name, _chain(name, written, path), common, assignments, path))
        for name in names
    ]


def run_settings(settings: Settings) -> dict[str, Any]:
    """What a run of a recipe depends on, by dotted name."""
    return {
        name: value
        for name, value in flat_settings(settings).items()
        if name.split(".")[0] in (*SECTIONS, "seed") and name not in WITHOUT_EFFECT
    }


def differences(settings: Settings, other: Settings) -> dict[str, Any]:
    """The settings of a recipe that another one has not, by dotted name."""
    there = run_settings(other)
    return {
        name: value
        for name, value in run_settings(settings).items()
        if name != "seed" and value != there[name]
    }


def _written(name: object, tree: Any, path: Path) -> dict[str, Any]:
    """What is written of a recipe, by dotted name; `from` is one of them."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"{path}: {name!r} cannot name a recipe, since runs are files of that name; take "
            "letters, digits and the signs . _ + - (and quotes, where it is a word of YAML)."
        )
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(f"recipe {name} in {path} is no mapping; write settings below it.")
    own = settings_in({key: one for key, one in tree.items() if key != FROM}, f"{name} in {path}")
    _refuse_foreign(own, f"recipe {name} in {path}")
    for setting in own:
        find_field(setting, f"recipe {name} in {path}")
    return {**own, **({FROM: tree[FROM]} if tree.get(FROM) is not None else {})}


def _chain(name: str, written: Mapping[str, Mapping[str, Any]], path: Path) -> dict[str, Any]:
    """The settings of a recipe, with those of the recipes that it starts from."""
    line: list[str] = []
    at: Any = name
    while at is not None:
        if at in line:
            circle = [*line[line.index(at) :], at]
            raise UserError(
                f"recipe {at} in {path} starts from itself ({' from '.join(circle)}); take one "
                "'from' out."
            )
        if not isinstance(at, str) or at not in written:
            raise UserError(
                f"recipe {line[-1]} in {path} starts from {at}, which is no recipe there"
                f"{_nearest(str(at), written)}; there are {listed(list(written))}."
            )
        line.append(at)
        at = written[at].get(FROM)
    merged: dict[str, Any] = {}
    for one in reversed(line):
        merged |= {setting: value for setting, value in written[one].items() if setting != FROM}
    return merged


def _settings(
    name: str,
    own: Mapping[str, Any],
    common: Mapping[str, Any],
    assignments: Sequence[Assignment],
    path: Path,
) -> Settings:
    for item in assignments:
        if item.name in own:
            raise UserError(
                f"{item.origin}: recipe {name} in {path} sets {item.name} itself; leave it out of "
                "one of them, or name other recipes with --only."
            )
    values = {**common, **own}
    try:
        settings = merge_settings(values, {one: f"{one}={values[one]}" for one in values},
                                  assignments)  # fmt: skip
        _refuse_unfit(settings)
    except UserError as error:
        raise UserError(f"recipe {name} in {path}: {error}") from error
    return settings


def _refuse_unfit(settings: Settings) -> None:
    """What a run of a recipe cannot do.

    Raises:
        UserError: The settings ask for it.
    """
    if settings.train.batch_size == "auto":
        raise UserError(
            "train.batch_size=auto would give recipes different batches by the memory that is "
            "free; give a number."
        )
    if settings.train.train_on_val:
        raise UserError("train.train_on_val leaves nothing to judge by; leave it out.")


def _refuse_foreign(names: Mapping[str, Any] | Sequence[str], where: str) -> None:
    for name in names:
        section = name.split(".")[0]
        if section == "seed":
            raise UserError(f"{where}: every recipe is trained with the same seeds; give --seeds.")
        if section in Settings.model_fields and section not in SECTIONS:
            raise UserError(
                f"{where}: {name} is no part of a recipe, which has settings of "
                f"{listed(SECTIONS)}; leave it out."
            )


def _nearest(name: str, names: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
