"""Settings from a YAML file and the command line; errors name the setting and its range."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from genconvit.config import ORIGINAL_SAMPLING, ModelSettings, Settings
from genconvit.config_decision import FITTED
from genconvit.errors import UserError
from genconvit.presets import V2_ONLY


@dataclass(frozen=True)
class Assignment:
    """One setting given on the command line.

    Attributes:
        name: Dotted name, such as `model.dropout_rate`.
        value: Its text.
        origin: What the user wrote, such as `--dropout-rate 0.6`, for error messages.
    """

    name: str
    value: str
    origin: str


def parse_assignment(text: str) -> Assignment:
    """Reads `section.name=value`.

    Raises:
        UserError: There is no `=` in the text.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(
            f"{text!r} is not a setting; write section.name=value, such as train.lr=0.001."
        )
    return Assignment(name.strip(), value.strip(), text)


def resolve_settings(
    config: Path | None = None,
    assignments: Iterable[Assignment] = (),
    base: Settings | None = None,
) -> Settings:
    """Merges defaults, preset, YAML file and command line; the later wins.

    Args:
        config: A YAML file with any of the sections of `Settings`.
        assignments: Settings from the command line, in order.
        base: Whole settings to start from, instead of the defaults and a preset.

    Raises:
        UserError: A setting does not exist, or its value is out of range.
    """
    values = settings_in(read_yaml(config, "--config"), str(config)) if config else {}
    origins = {name: f"{name} in {config}" for name in values}
    return merge_settings(values, origins, assignments, base)


def merge_settings(
    values: Mapping[str, Any],
    origins: Mapping[str, str],
    assignments: Iterable[Assignment] = (),
    base: Settings | None = None,
) -> Settings:
    """As `resolve_settings`, of settings that were read already.

    Args:
        values: By dotted name, from `settings_in`.
        origins: What messages call each of them.
        assignments: Settings from the command line, in order.
        base: Whole settings to start from, instead of the defaults and a preset.

    Raises:
        UserError: A setting does not exist, or its value is out of range.
    """
    tree: dict[str, Any] = base.model_dump(mode="json") if base else {}
    origins, from_file = dict(origins), dict(values)
    for name in from_file:
        find_field(name, origins[name])
    from_line: dict[str, Any] = {}
    for item in assignments:
        from_line[item.name] = _parse_value(item.value, find_field(item.name, item.origin))
        origins[item.name] = item.origin
    for name in _of_another_network(from_file, from_line):
        del from_file[name]
    for source in (from_file, from_line):
        for name, value in source.items():
            _put(tree, name, value)
        _latest_sampling_wins(tree, source)
    given = {**from_file, **from_line}
    _aggregation_brings_its_own(tree, given, origins, base)
    _threshold_ends_the_band(tree, given)
    return _validate(tree, origins)


def _of_another_network(from_file: Mapping[str, Any], from_line: Mapping[str, Any]) -> set[str]:
    """Settings of a file that the network has not which the command line asks for.

    So a file for `v2` serves for `original` too, in a comparison of both.
    """
    arch, net = from_line.get("model.arch", "v2"), from_line.get("model.net")
    left_out = set[str]()
    if arch != "v2" and from_file.get("model.arch", "v2") == "v2":
        left_out |= {f"model.{name}" for name in V2_ONLY}
    if net == "genconvit":
        left_out.add("model.seam_branch")
    return left_out & from_file.keys()


def model_settings(**switches: Any) -> ModelSettings:
    """`ModelSettings` from Python keywords, with the errors of this module.

    Raises:
        UserError: A switch does not exist, or its value is out of range.
    """
    origins = {f"model.{name}": f"{name}={value!r}" for name, value in switches.items()}
    for name, origin in origins.items():
        find_field(name, origin)
    return _validate({"model": switches}, origins).model


def all_settings() -> Iterator[tuple[str, FieldInfo]]:
    """Every setting by dotted name."""
    for name, field in Settings.model_fields.items():
        if _is_section(field):
            assert isinstance(field.annotation, type)
            section: type[BaseModel] = field.annotation
            for leaf, inner in section.model_fields.items():
                yield f"{name}.{leaf}", inner
        else:
            yield name, field


def find_field(name: str, origin: str) -> FieldInfo:
    """The field of a dotted name.

    Raises:
        UserError: No such setting; names the nearest one and its range.
    """
    fields = dict(all_settings())
    if name in fields:
        return fields[name]
    nearest = _nearest(name, list(fields))
    hint = (
        f"did you mean {nearest} ({describe(fields[nearest])})?"
        if nearest
        else "genconvit settings lists them all."
    )
    raise UserError(f"{origin}: there is no setting {name}; {hint}")


def describe(field: FieldInfo) -> str:
    """What a setting takes, in words: `a number from 0 to 0.95, default 0.5`."""
    text = _describe_type(field.annotation)
    limits = {
        key: getattr(m, key)
        for m in field.metadata
        for key in ("ge", "gt", "le", "lt", "multiple_of")
        if getattr(m, key, None) is not None
    }
    if "ge" in limits and "le" in limits:
        text += f" from {_show(limits['ge'])} to {_show(limits['le'])}"
    elif limits:
        words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
        text += " " + " and ".join(
            f"{words[k]} {_show(v)}" for k, v in limits.items() if k in words
        )
    if "multiple_of" in limits:
        text += f", a multiple of {limits['multiple_of']}"
    default = field.get_default(call_default_factory=True, validated_data={})
    return f"{text}, default {_show(default)}"


def _nearest(name: str, names: list[str]) -> str | None:
    """The most similar name; one that differs only in its section comes first."""
    leaf = name.rsplit(".", 1)[-1].replace("-", "_")
    by_leaf = {full.rsplit(".", 1)[-1]: full for full in names}
    if leaf in by_leaf:
        return by_leaf[leaf]
    close = difflib.get_close_matches(name.replace("-", "_"), names, n=1, cutoff=0.6)
    close = close or [by_leaf[m] for m in difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.5)]
    return close[0] if close else None


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _describe_type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        options = [_describe_type(a) for a in get_args(annotation) if a is not type(None)]
        return " or ".join(options)
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in get_args(annotation))
    if origin is tuple:
        items = get_args(annotation)
        if get_origin(items[0]) is Literal:
            return "a list of " + ", ".join(str(a) for a in get_args(items[0]))
        if get_origin(items[0]) is dict:
            return "a list of mappings"
        return "a list of numbers" if ... in items else f"a list of {len(items)} numbers"
    names = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}
    return names.get(annotation, "a mapping" if origin is dict else "text")


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(_show, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _parse_value(text: str, field: FieldInfo) -> Any:
    """Text from the command line; pydantic turns the text of plain types into their values, but
    not that of a number which is one of several."""
    optional = type(None) in get_args(field.annotation)
    if optional and text.lower() in ("none", "null"):
        return None
    if get_origin(field.annotation) is Literal:
        return next((one for one in get_args(field.annotation) if str(one) == text), text)
    kinds = {get_origin(kind) for kind in (field.annotation, *get_args(field.annotation))}
    if kinds & {tuple, dict}:
        is_list = tuple in kinds and not text.startswith("[")
        try:
            return yaml.safe_load(f"[{text}]" if is_list else text)
        except yaml.YAMLError:
            return text
    return text


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *parents, leaf = name.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[leaf] = value


def _latest_sampling_wins(tree: dict[str, Any], given: dict[str, Any]) -> None:
    """Whoever names one way of sampling overrules the other way of an earlier source."""
    pair = ("frames", "frame_interval")
    for name, other in (pair, pair[::-1]):
        if given.get(f"sampling.{name}") is not None and f"sampling.{other}" not in given:
            tree["sampling"].pop(other, None)


def _aggregation_brings_its_own(
    tree: dict[str, Any], given: dict[str, Any], origins: dict[str, str], base: Settings | None
) -> None:
    """What belongs to the published aggregation comes and goes with it.

    Its frames give way to what is asked for of them; another threshold is refused.
    """
    was = base.decision.aggregation if base else "mean"
    chosen = given.get("decision.aggregation", was)
    if chosen == "original":
        for name, fixed in (("decision.threshold", 0.5), ("decision.undecided_margin", 0.0)):
            if name in given and _number(given[name]) != fixed:
                raise UserError(
                    f"{origins[name]}: the aggregation original takes the larger of two sigmoids, "
                    "without threshold and band; leave it out."
                )
    if chosen == "original" and "decision.aggregation" in given:
        asked = {name: value for name, value in tree.get("sampling", {}).items()
                 if f"sampling.{name}" in given}  # fmt: skip
        usual = ORIGINAL_SAMPLING.model_dump()
        if asked.get("frame_interval") is not None:
            usual["frames"] = None
        tree["sampling"] = {**usual, **asked}
    k_was = base.decision.top_k if base else None
    other_k = chosen == "top_k" and str(given.get("decision.top_k", k_was)) != str(k_was)
    if chosen != was or other_k:
        for name in FITTED:
            if f"decision.{name}" not in given:
                tree.get("decision", {}).pop(name, None)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _threshold_ends_the_band(tree: dict[str, Any], given: dict[str, Any]) -> None:
    """Whoever gives a threshold or a margin does not want the band that was found for another."""
    names = ("decision.threshold", "decision.undecided_margin")
    if "decision.undecided_band" not in given and any(name in given for name in names):
        tree["decision"].pop("undecided_band", None)


class _Loader(yaml.SafeLoader):
    """YAML without numbers to the base of 60: `num_workers: 2:8` is a range, and not 128."""

    yaml_implicit_resolvers: ClassVar = {  # type: ignore[misc]
        first: [
            (tag, re.compile(rf"(?!.*:){pattern.pattern}", re.VERBOSE))
            if tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
            else (tag, pattern)
            for tag, pattern in resolvers
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


# In YAML 1.1, 1e-4 is text: numbers need a point and the exponent a sign.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path, option: str) -> Any:
    """What a YAML file holds; None where it is empty.

    Args:
        path: The file.
        option: Which names it, for the message.

    Raises:
        UserError: It cannot be read, or is not YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check {option}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise UserError(
            f"{path} is not valid YAML{line}; check its indentation and quotes."
        ) from error


def settings_in(tree: Any, where: str) -> dict[str, Any]:
    """Settings by dotted name, from sections with names below them or from dotted names.

    Args:
        tree: Of `read_yaml`.
        where: What messages call it.

    Raises:
        UserError: It is no mapping, or a section is none.
    """
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(
            f"{where} holds no settings; write sections such as 'train:' with names below."
        )
    tree = dict(tree)
    for name, section in tree.items():
        field = Settings.model_fields.get(str(name))
        if field is not None and _is_section(field) and section is None:
            tree[name] = {}
        elif field is not None and _is_section(field) and not isinstance(section, dict):
            raise UserError(
                f"{name} in {where} is a section; write its settings below it, indented."
            )
    return dict(_leaves(tree))


def _leaves(tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        field = Settings.model_fields.get(str(name))
        if isinstance(value, dict) and (field is None or _is_section(field)):
            yield from ((f"{name}.{leaf}", inner) for leaf, inner in value.items())
        else:
            yield str(name), value


def _validate(tree: dict[str, Any], origins: dict[str, str]) -> Settings:
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        fields = dict(all_settings())
        name = ".".join(str(part) for part in first["loc"][:2])
        message = str(first["msg"]).removeprefix("Value error, ")
        if name in fields and first["type"] == "value_error":
            raise UserError(f"{origins.get(name, name)}: {name} {message}.") from None
        if name in fields:
            origin = origins.get(name, name)
            raise UserError(f"{origin}: {name} takes {describe(fields[name])}.") from None
        raise UserError(f"{name}: {message}.") from None
