"""The settings that a sweep searches (docs/training.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genconvit.config import Settings
from genconvit.errors import UserError
from genconvit.overrides import Assignment, find_field, resolve_settings
from genconvit.tune.dimension import Dimension, read_dimension, show, validated, value_in

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

__all__ = ["Dimension", "Space", "default_space", "trial_settings"]


@dataclass(frozen=True)
class Space:
    """What a sweep searches.

    Attributes:
        dimensions: A setting that others depend on comes before them.
    """

    dimensions: tuple[Dimension, ...]

    @classmethod
    def parse(cls, tree: Mapping[str, Any], origin: str) -> Space:
        """A space from YAML.

        Args:
            tree: By dotted name {uniform: [low, high]}, {log: [low, high]}, {int: [low, high]} or
                {choice: [...]}, and perhaps when: {other setting: value, or a list of them}.
            origin: Where it is written, such as `tune.space in job.yaml`, for error messages.

        Raises:
            UserError: It does not exist, cannot be searched, or takes other values.
        """
        if not tree:
            raise UserError(f"{origin} is empty; name a setting, such as train.lr: {{log: [...]}}.")
        dimensions = [read_dimension(str(name), spec, origin) for name, spec in tree.items()]
        by_name = {dimension.name: dimension for dimension in dimensions}
        for dimension in dimensions:
            _check_condition(dimension, by_name, origin)
        return cls(tuple(_in_order(by_name, origin)))

    def suggest(self, trial: BaseTrial, base: Settings) -> dict[str, Any]:
        """The settings of a trial, without those whose condition does not hold.

        A condition is compared with the settings that the trial gets: what was suggested, and
        otherwise the base settings.

        Args:
            trial: Whom to ask.
            base: What all trials have in common.
        """
        chosen: dict[str, Any] = {}
        for dimension in self.dimensions:
            if dimension.applies(chosen, base):
                chosen[dimension.name] = dimension.suggest(trial)
        return chosen

    def tree(self) -> dict[str, dict[str, Any]]:
        """As in YAML, in the order of the dimensions."""
        return {dimension.name: dimension.tree() for dimension in self.dimensions}

    def start(self, base: Settings) -> dict[str, Any]:
        """The base settings as a point to try first, as far as they lie in the space."""
        values = [(d, value_in(base, d.name)) for d in self.dimensions if d.applies({}, base)]
        return {d.name: d.exact(value) for d, value in values if d.holds(value)}

    def check_point(self, point: Mapping[str, Any], origin: str) -> dict[str, Any]:
        """A point that a user wants tried first; what it leaves out is for Optuna to choose.

        Args:
            point: Settings by dotted name.
            origin: Where it is written, for error messages.

        Returns:
            The values as their settings keep them, in the order of the dimensions.

        Raises:
            UserError: A setting is not searched, not with another value of the point, or its value
                lies outside.
        """
        names = [dimension.name for dimension in self.dimensions]
        for name in point:
            find_field(name, origin)
            if name not in names:
                raise UserError(
                    f"{origin}: {name} is not searched; leave it out, or choose from "
                    f"{', '.join(names)}."
                )
        values: dict[str, Any] = {}
        for dimension in (d for d in self.dimensions if d.name in point):
            value = validated(dimension.name, point[dimension.name], origin)
            if not dimension.holds(value):
                raise UserError(
                    f"{origin}: {dimension.name}={show(value)} lies outside the space; give "
                    f"{dimension.text}."
                )
            for other, allowed in dimension.when.items():
                if other in values and values[other] not in allowed:
                    raise UserError(
                        f"{origin}: {dimension.name} is not searched with {other}="
                        f"{show(values[other])}; leave one of them out."
                    )
            values[dimension.name] = dimension.exact(value)
        return values

    def check_base(self, base: Settings) -> None:
        """Whether trials over these base settings are valid, before one is started.

        Raises:
            UserError: A searched value contradicts them, such as a warm-up that takes all epochs.
        """
        searched = {dimension.name for dimension in self.dimensions}
        for dimension in self.dimensions:
            if any(
                other not in searched and value_in(base, other) not in allowed
                for other, allowed in dimension.when.items()
            ):
                continue  # no trial gets it
            for value in dimension.ends:
                trial_settings(base, {dimension.name: value})


def trial_settings(settings: Settings, config: Mapping[str, Any]) -> Settings:
    """The settings of a trial.

    Args:
        settings: What all trials have in common.
        config: The searched settings by name.

    Raises:
        UserError: They contradict each other.
    """
    assignments = [
        Assignment(name, show(value), f"{name}={show(value)}") for name, value in config.items()
    ]
    return resolve_settings(assignments=assignments, base=settings)


def default_space(settings: Settings) -> Space:
    """What is searched where the user names nothing: the usual settings that the network has."""
    model, train = settings.model, settings.train
    v2 = model.arch == "v2"
    tree: dict[str, Any] = {}
    if v2:
        tree["model.dropout_rate"] = {"uniform": [0.1, 0.7]}
    if v2 and model.net == "v2" and train.init is None:  # a detector brings its own network
        tree["model.attention"] = {"choice": [True, False]}
        tree["model.residual"] = {"choice": [True, False], "when": {"model.attention": True}}
        tree["model.fusion"] = {"choice": ["swiglu", "sum", "concat"]}
    if v2 or model.net != "ed":  # alone in the loss, a weight only scales it
        tree["loss.classification_weight"] = {"uniform": [0.5, 2.0]}
    if v2 and model.net != "vae":
        tree["loss.ae_weight"] = {"log": [0.01, 1.0]}
    if model.net != "ed":
        tree["loss.vae_weight"] = {"log": [0.01, 1.0]}
        if v2:
            tree["loss.vae_beta"] = {"log": [0.01, 10.0]}
    tree["train.lr"] = {"log": [3e-5, 3e-3]}
    tree["train.weight_decay"] = {"log": [1e-5, 0.1]}
    if train.batch_size != "auto":
        tree["train.batch_size"] = {"choice": [16, 32, 64]}
    patience = {"train.early_stopping_patience": (3, 15)}
    if train.sched == "plateau":
        patience["train.lr_patience"] = (2, 8)
    for name, (low, high) in patience.items():
        high = min(high, train.epochs - 1)  # a longer one never ends within the run
        if low < high:
            tree[name] = {"int": [low, high]}
    # How often, as Optuna cannot search ranges such as augment.jpeg_quality: what a messenger does
    # to a clip matters more than geometry.
    tree["augment.jpeg"] = {"uniform": [0.0, 0.8]}
    tree["augment.downscale"] = {"uniform": [0.0, 0.6]}
    return Space.parse(tree, "the usual space")


def _check_condition(dimension: Dimension, by_name: Mapping[str, Dimension], origin: str) -> None:
    for other, allowed in dimension.when.items():
        if other not in by_name:
            continue
        if by_name[other].kind in ("uniform", "log"):
            raise UserError(
                f"{origin}: when of {dimension.name} compares {other} with single values, which "
                f"{by_name[other].kind} hardly ever gives; search {other} as choice or int."
            )
        for value in allowed:
            if not by_name[other].holds(value):
                raise UserError(
                    f"{origin}: when of {dimension.name} waits for {other}={show(value)}, which "
                    f"is never tried; {other} takes {by_name[other].text}."
                )


def _in_order(by_name: Mapping[str, Dimension], origin: str) -> Iterable[Dimension]:
    """The dimensions as they are given, but each after those that its condition needs."""
    placed: dict[str, Dimension] = {}

    def place(name: str, waiting: tuple[str, ...]) -> None:
        if name in waiting:
            circle = ", ".join(waiting[waiting.index(name) :])
            raise UserError(
                f"{origin}: the conditions of {circle} go in a circle; leave out one when."
            )
        for other in by_name[name].when:
            if other in by_name and other not in placed:
                place(other, (*waiting, name))
        placed.setdefault(name, by_name[name])

    for name in by_name:
        place(name, ())
    return placed.values()
