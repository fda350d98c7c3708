"""One searched setting: read from YAML, asked of Optuna, and written back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args, get_origin

from pydantic.fields import FieldInfo

from genconvit.config import Settings
from genconvit.errors import UserError
from genconvit.overrides import Assignment, describe, find_field, resolve_settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

Value: TypeAlias = bool | int | float | str | None
"""What Optuna can choose among, and JSON can hold."""

Kind = Literal["uniform", "log", "int", "choice"]
KINDS = get_args(Kind)

_FROM_SHARDS = (
    "is settled when clips are extracted; extract them again, and sweep over those shards"
)
_ONE_FOR_ALL = "changes how a trial runs and not what it learns; set it once for all trials"
_BEGINNING = (
    "is where every trial begins; set it once for all trials, and search from another one anew"
)
_NOT_SEARCHED: dict[str, str] = {
    "tune": "describes the sweep itself; set it beside the space",
    "serve": "is of the endpoint, which no trial starts; leave it out",
    "extract": _FROM_SHARDS,
    "preprocess": _FROM_SHARDS,
    "sampling": _FROM_SHARDS,
    "split": "decides which clips validate, and trials compare on the same only; leave it out",
    "decision": "comes after training, and trials are judged without it; set it for the winner",
    "seed": "is luck, which the next run does not have; leave it out",
    "stream.cache": _ONE_FOR_ALL,
    "train.device": _ONE_FOR_ALL,
    "train.log_to": _ONE_FOR_ALL,
    "train.max_failures": _ONE_FOR_ALL,
    "train.checkpoint_minutes": _ONE_FOR_ALL,
    "train.num_workers": "is the same for all trials; set tune.workers_per_trial",
    "train.epochs": "is the same for all trials, as ASHA compares them epoch by epoch; set it once,"
    " and search train.early_stopping_patience",
    "train.train_on_val": "takes the clips away that trials are judged by; leave it out, and give "
    "--retrain-best",
    "train.init": _BEGINNING,
    "model.weights": _BEGINNING,
    "model.pretrained": _BEGINNING,
    "model.arch": "decides which settings there are; set it once, and sweep over each by itself",
    "model.preset": "only fills in other settings of the network; search those by their names",
}
"""Why a setting, or all of a section, is the same for all trials, and what to do instead."""


@dataclass(frozen=True)
class Dimension:
    """One searched setting.

    Attributes:
        name: Dotted name, such as `train.lr`.
        kind: `uniform` and `log` are fractional, evenly or in their logarithm; `int` and `choice`.
        low: Smallest value; None for a choice.
        high: Largest value, which is included; None for a choice.
        choices: The values of a choice.
        when: Other settings, and the values of each with which this one is searched.
    """

    name: str
    kind: Kind
    low: float | None = None
    high: float | None = None
    choices: tuple[Value, ...] = ()
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def holds(self, value: Value) -> bool:
        """Whether the value lies in the dimension."""
        if self.low is None or self.high is None:
            return value in self.choices
        if not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        return self.kind != "int" or value == int(value)

    def exact(self, value: Value) -> Value:
        """A value that the dimension holds as it is suggested: an int holds 3.0 as 3."""
        return int(cast(float, value)) if self.kind == "int" else value

    def suggest(self, trial: BaseTrial) -> Value:
        """The value that Optuna suggests."""
        if self.low is None or self.high is None:
            return cast(Value, trial.suggest_categorical(self.name, list(self.choices)))
        if self.kind == "int":
            return int(trial.suggest_int(self.name, int(self.low), int(self.high)))
        log = self.kind == "log"
        return float(trial.suggest_float(self.name, self.low, self.high, log=log))

    @property
    def distribution(self) -> BaseDistribution:
        """As Optuna keeps it."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.low is None or self.high is None:
            return CategoricalDistribution(self.choices)
        if self.kind == "int":
            return IntDistribution(int(self.low), int(self.high))
        return FloatDistribution(self.low, self.high, log=self.kind == "log")

    def applies(self, chosen: Mapping[str, Any], base: Settings) -> bool:
        """Whether the condition holds in the base settings with the chosen ones over them."""
        return all(
            (chosen[other] if other in chosen else value_in(base, other)) in allowed
            for other, allowed in self.when.items()
        )

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values with which every other is valid too."""
        return self.choices or (self.low, self.high)

    @property
    def text(self) -> str:
        """What it takes, in words, for error messages."""
        if self.kind == "choice":
            return "one of " + ", ".join(show(value) for value in self.choices)
        numbers = "whole numbers" if self.kind == "int" else "numbers"
        return f"{numbers} from {self.low:g} to {self.high:g}"

    def tree(self) -> dict[str, Any]:
        """As in YAML."""
        when = {
            other: allowed[0] if len(allowed) == 1 else list(allowed)
            for other, allowed in self.when.items()
        }
        return {self.kind: list(self.ends), **({"when": when} if when else {})}


def read_dimension(name: str, spec: Any, origin: str) -> Dimension:
    """A dimension from YAML; other dimensions that its condition names are not looked at.

    Args:
        name: The setting.
        spec: Its range, and perhaps when.
        origin: Where it is written, for error messages.

    Raises:
        UserError: It does not exist, cannot be searched, or takes other values.
    """
    setting = find_field(name, origin)
    why = _NOT_SEARCHED.get(name) or _NOT_SEARCHED.get(name.split(".")[0])
    if why:
        raise UserError(f"{origin}: {name} cannot be searched: it {why}.")
    spec = spec if isinstance(spec, Mapping) else {}
    given = [key for key in spec if key != "when"]
    if len(given) != 1 or given[0] not in KINDS:
        raise UserError(
            f"{origin}: {name} has {' and '.join(map(str, given)) or 'no range'}; write one of "
            "uniform: [low, high], log: [low, high], int: [low, high] or choice: [...]."
        )
    kind, values = given[0], spec[given[0]]
    when = _condition(name, spec.get("when", {}), origin)
    if kind == "choice":
        return Dimension(name, kind, choices=_choices(name, values, origin), when=when)
    low, high = _bounds(name, kind, values, origin)
    _check_kind(name, kind, setting, origin)
    for end in (low, high):
        validated(name, end, origin)
    return Dimension(name, kind, low, high, when=when)


def _bounds(name: str, kind: Kind, values: Any, origin: str) -> tuple[float, float]:
    form = f"write {kind}: [low, high]"
    if not isinstance(values, (list, tuple)) or len(values) != 2:
        raise UserError(f"{origin}: {kind} of {name} takes two numbers; {form}.")
    for value in values:
        if not math.isfinite(_number(value)):
            raise UserError(f"{origin}: {kind} of {name} has {value!r}, not a number; {form}.")
        if kind == "int" and not _number(value).is_integer():
            raise UserError(f"{origin}: int of {name} has {value!r}, no whole number; round it.")
    low, high = (_number(value) for value in values)
    if low >= high:
        raise UserError(
            f"{origin}: {kind} of {name} goes from {low:g} to {high:g}; {form} with low below high."
        )
    if kind == "log" and low <= 0:
        raise UserError(
            f"{origin}: log of {name} begins at {low:g}, which has no logarithm; begin above 0, or "
            "write uniform."
        )
    return (int(low), int(high)) if kind == "int" else (low, high)


def _number(value: Any) -> float:
    """A number, also as YAML reads `3e-5`: as text. NaN for anything else."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _check_kind(name: str, kind: Kind, setting: FieldInfo, origin: str) -> None:
    takes = {setting.annotation, *get_args(setting.annotation)}
    if {tuple, dict} & {get_origin(one) for one in takes}:
        raise _no_single_value(name, origin)
    steps = any(getattr(item, "multiple_of", None) for item in setting.metadata)
    if not takes & {int, float} or steps:
        instead = "choice: [...]"
    elif float not in takes and kind != "int":
        instead = "int: [low, high] or choice: [...]"
    else:
        return
    raise UserError(
        f"{origin}: {kind} does not suit {name} ({describe(setting)}); write {instead}."
    )


def _choices(name: str, values: Any, origin: str) -> tuple[Value, ...]:
    if not isinstance(values, (list, tuple)) or not values:
        raise UserError(f"{origin}: choice of {name} has no values; write them as a list, [a, b].")
    choices = tuple(validated(name, value, origin) for value in values)
    for value in choices:
        if choices.count(value) > 1:
            raise UserError(
                f"{origin}: choice of {name} has {show(value)} more than once; leave one."
            )
    return choices


def _condition(name: str, when: Any, origin: str) -> dict[str, tuple[Value, ...]]:
    if not isinstance(when, Mapping) or [] in when.values():
        raise UserError(
            f"{origin}: when of {name} takes settings and their values; write when: {{setting: "
            "value}."
        )
    condition = {}
    for other, values in when.items():
        where = f"when of {name} in {origin}"
        find_field(str(other), where)
        values = values if isinstance(values, (list, tuple)) else [values]
        condition[str(other)] = tuple(validated(str(other), value, where) for value in values)
    return condition


def validated(name: str, value: Any, origin: str) -> Value:
    """A value as its setting keeps it.

    Args:
        name: The setting.
        value: As it is written.
        origin: Where, for error messages.

    Raises:
        UserError: The setting does not take it, or Optuna cannot choose it.
    """
    kept: Any = value
    if not isinstance(value, (list, tuple, Mapping)):
        # The sweep's other settings are not known: as many epochs as there can be, since a warm-up
        # needs some, and self-blended fakes, since real crops alone need those.
        given = [
            Assignment("train.epochs", "100000", origin),
            Assignment("augment.self_blend", "0.5", origin),
            Assignment(name, show(value), f"{show(value)} in {origin}"),
        ]
        kept = value_in(resolve_settings(assignments=given), name)
    if isinstance(kept, (list, tuple, Mapping)):
        raise _no_single_value(name, origin)
    not_finite = isinstance(kept, float) and not math.isfinite(kept)
    if not_finite or (value is None and kept is not None):
        takes = describe(find_field(name, origin))
        raise UserError(f"{show(value)} in {origin}: {name} takes {takes}.")
    return cast(Value, kept)


def _no_single_value(name: str, origin: str) -> UserError:
    return UserError(
        f"{origin}: a value of {name} is a list or a mapping, which a sweep cannot choose; search "
        "settings with single values instead."
    )


def value_in(settings: Settings, name: str) -> Any:
    """The value of a dotted name."""
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return str(value) if isinstance(value, Path) else value


def show(value: Any) -> str:
    """A value as it is written on the command line, with every digit of it."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
