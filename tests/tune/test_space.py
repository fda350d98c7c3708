from __future__ import annotations

import json
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from genconvit.config import Settings
from genconvit.errors import UserError
from genconvit.presets import V2_ONLY
from genconvit.tune.space import Space, default_space, trial_settings
from tests.conftest import small_settings

optuna.logging.set_verbosity(optuna.logging.WARNING)

BASE = small_settings()
RANGES: dict[str, tuple[str, float, float]] = {
    "model.dropout_rate": ("uniform", 0.0, 0.95),
    "augment.jpeg": ("uniform", 0.0, 1.0),
    "train.lr": ("log", 1e-6, 1.0),
    "train.weight_decay": ("log", 1e-9, 10.0),
    "train.lr_patience": ("int", 0, 10_000),
    "train.early_stopping_patience": ("int", 1, 40),
    "train.warmup_epochs": ("int", 0, 50),
}
CHOICES: dict[str, list[Any]] = {
    "train.sched": ["plateau", "cosine"],
    "train.batch_size": [16, 32, "auto"],
    "train.layer_decay": [None, 0.75, 1.0],
    "model.attention": [True, False],
}


def parse(text: str) -> Space:
    return Space.parse(yaml.safe_load(text), "job.yaml")


def ask(space: Space, seed: int = 0, base: Settings = BASE) -> dict[str, Any]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    return space.suggest(study.ask(), base)


def value_of(settings: Settings, name: str) -> Any:
    section, leaf = name.split(".")
    return getattr(getattr(settings, section), leaf)


def some_of(values: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=1, unique=True)


@st.composite
def specs(draw: st.DrawFn, name: str) -> dict[str, Any]:
    if name in CHOICES:
        return {"choice": draw(some_of(CHOICES[name]))}
    kind, low, high = RANGES[name]
    numbers = st.integers(int(low), int(high)) if kind == "int" else st.floats(low, high)
    return {kind: sorted(draw(st.lists(numbers, min_size=2, max_size=2, unique=True)))}


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """Spaces without circles, in any order; conditions name settings inside and outside."""
    names = draw(some_of([*RANGES, *CHOICES]))
    tree: dict[str, Any] = {}
    for name in names:
        tree[name] = draw(specs(name))
        others = [other for other in CHOICES if other not in names or other in tree]
        others = [other for other in others if other != name]
        if others and draw(st.booleans()):
            tree[name]["when"] = {
                other: draw(some_of(tree[other]["choice"] if other in tree else CHOICES[other]))
                for other in draw(some_of(others))
            }
    return {name: tree[name] for name in draw(st.permutations(names))}


@given(trees())
def test_a_space_is_the_same_when_written_and_read(tree: dict[str, Any]) -> None:
    space = Space.parse(tree, "job.yaml")
    assert {d.name for d in space.dimensions} == set(tree)
    written = space.tree()
    for copy in (
        json.loads(json.dumps(written)),
        yaml.safe_load(yaml.safe_dump(written, sort_keys=False)),
    ):
        assert Space.parse(copy, "job.yaml") == space


@given(trees(), st.integers(0, 2**31))
def test_a_trial_gets_what_its_conditions_say_and_nothing_else(
    tree: dict[str, Any], seed: int
) -> None:
    space = Space.parse(tree, "job.yaml")
    config = ask(space, seed)
    settings = trial_settings(BASE, config)
    for name, value in config.items():
        assert type(value) in (bool, int, float, str, type(None))
        assert value_of(settings, name) == value  # to the last bit
        kind, ends = next(item for item in tree[name].items() if item[0] != "when")
        assert value in ends if kind == "choice" else ends[0] <= value <= ends[1]
        assert kind != "int" or type(value) is int
    for name, spec in tree.items():
        conditions = spec.get("when", {}).items()
        holds = all(value_of(settings, other) in allowed for other, allowed in conditions)
        assert (name in config) == holds
    back = {name: value_of(BASE, name) for name in config}
    assert trial_settings(settings, back) == BASE  # nothing else has changed


@given(trees(), st.integers(0, 2**31))
def test_what_was_suggested_can_be_given_as_a_point(tree: dict[str, Any], seed: int) -> None:
    space = Space.parse(tree, "job.yaml")
    config = ask(space, seed)
    assert space.check_point(config, "--try") == config
    trial = optuna.trial.FixedTrial(config)
    assert space.suggest(trial, BASE) == config


@given(trees())
def test_the_start_is_the_base_as_far_as_it_lies_in_the_space(tree: dict[str, Any]) -> None:
    space = Space.parse(tree, "job.yaml")
    start = space.start(BASE)
    assert trial_settings(BASE, start) == BASE
    assert space.check_point(start, "start") == start
    for dimension in space.dimensions:
        conditions = dimension.when.items()
        holds = all(value_of(BASE, other) in allowed for other, allowed in conditions)
        inside = dimension.holds(value_of(BASE, dimension.name))
        assert (dimension.name in start) == (holds and inside)


@given(st.floats(1e-12, 1.0), st.booleans(), st.none() | st.floats(1e-9, 1.0))
def test_a_trial_gets_every_digit(lr: float, attention: bool, decay: float | None) -> None:
    config = {"train.lr": lr, "model.attention": attention, "train.layer_decay": decay}
    trial = trial_settings(BASE, config)
    assert (trial.train.lr, trial.model.attention, trial.train.layer_decay) == (
        lr,
        attention,
        decay,
    )


def test_a_setting_comes_after_those_that_it_depends_on() -> None:
    space = parse(
        "train.warmup_epochs: {uniform: [0, 3], when: {train.sched: cosine}}\n"
        "train.lr: {log: [3e-5, 3e-3]}\n"  # YAML reads these as text
        "train.sched: {choice: [plateau, cosine], when: {model.attention: [true]}}\n"
        "model.attention: {choice: [true, false]}\n"
    )
    assert [dimension.name for dimension in space.dimensions] == [
        "model.attention",
        "train.sched",
        "train.warmup_epochs",
        "train.lr",
    ]
    assert space.tree()["train.lr"] == {"log": [3e-5, 3e-3]}
    # Without attention the schedule stays the base's, and the warm-up goes by that.
    fixed = {"model.attention": False, "train.lr": 1e-3, "train.warmup_epochs": 2.0}
    assert "train.warmup_epochs" not in space.suggest(optuna.trial.FixedTrial(fixed), BASE)
    cosine = small_settings("train.sched=cosine")
    assert space.suggest(optuna.trial.FixedTrial(fixed), cosine) == fixed


def test_a_condition_on_an_unsearched_setting_looks_at_the_base() -> None:
    space = parse("train.lr_patience: {int: [1, 8], when: {train.sched: [plateau]}}")
    assert set(ask(space)) == {"train.lr_patience"}
    assert ask(space, base=small_settings("train.sched=cosine")) == {}
    assert space.tree()["train.lr_patience"]["when"] == {"train.sched": "plateau"}


REFUSED = [
    ("{}", ["empty", "name a setting"]),
    # what is searched
    ("train.learning_rat: {log: [1e-3, 1e-2]}", ["train.learning_rat", "did you mean"]),
    ("model.dropout: {uniform: [0, 0.5]}", ["did you mean model.dropout_rate"]),
    ("train.epochs: {int: [1, 9]}", ["train.epochs", "ASHA", "search train.early_stopping"]),
    ("tune.trials: {int: [1, 9]}", ["tune.trials", "the sweep itself", "beside the space"]),
    ("serve.port: {int: [80, 90]}", ["serve.port", "leave it out"]),
    ("preprocess.margin: {uniform: [0, 1]}", ["preprocess.margin", "extract them again"]),
    ("extract.shard_mb: {int: [1, 9]}", ["extract.shard_mb", "extract them again"]),
    ("sampling.frames: {int: [1, 9]}", ["sampling.frames", "extract them again"]),
    ("split.seed: {int: [1, 9]}", ["split.seed", "which clips validate", "leave it out"]),
    ("decision.threshold: {uniform: [0.4, 0.6]}", ["decision.threshold", "for the winner"]),
    ("stream.cache: {choice: [true, false]}", ["stream.cache", "set it once"]),
    ("seed: {int: [1, 9]}", ["seed", "luck", "leave it out"]),
    ("train.num_workers: {int: [1, 9]}", ["train.num_workers", "tune.workers_per_trial"]),
    ("train.device: {choice: [cpu, cuda]}", ["train.device", "set it once"]),
    ("train.log_to: {choice: [wandb]}", ["train.log_to", "set it once"]),
    ("train.max_failures: {int: [0, 3]}", ["train.max_failures", "set it once"]),
    ("train.checkpoint_minutes: {uniform: [1, 3]}", ["train.checkpoint_minutes", "set it once"]),
    ("train.init: {choice: [a, b]}", ["train.init", "begins", "set it once"]),
    ("model.weights: {choice: [a, b]}", ["model.weights", "begins", "set it once"]),
    ("model.pretrained: {choice: [true, false]}", ["model.pretrained", "set it once"]),
    ("model.arch: {choice: [v2, original]}", ["model.arch", "sweep over each"]),
    ("model.preset: {choice: [base, nano]}", ["model.preset", "by their names"]),
    # the kind
    ("train.lr: 0.1", ["train.lr has no range", "write one of uniform"]),
    ("train.lr: {when: {train.sched: cosine}}", ["train.lr has no range", "write one of"]),
    ("train.lr: {normal: [0, 1]}", ["train.lr has normal", "write one of uniform"]),
    ("train.lr: {log: [0.1, 1], uniform: [0, 1]}", ["train.lr has log and uniform", "one of"]),
    ("train.lr: {log: [0.1, 1], step: 2}", ["train.lr has log and step", "write one of"]),
    ("train.lr_patience: {uniform: [1, 8]}", ["train.lr_patience", "write int: [low, high]"]),
    ("train.batch_size: {log: [16, 64]}", ["train.batch_size", "or choice"]),
    ("model.attention: {int: [0, 1]}", ["model.attention", "true or false", "write choice"]),
    ("train.sched: {int: [0, 1]}", ["train.sched", "plateau, cosine", "write choice"]),
    ("model.image_size: {int: [64, 128]}", ["model.image_size", "multiple of 32", "choice"]),
    # bounds
    ("train.lr: {log: [0.1]}", ["log of train.lr takes two numbers", "[low, high]"]),
    ("train.lr: {log: 0.1}", ["log of train.lr takes two numbers", "[low, high]"]),
    ("train.lr: {uniform: [0.1, 0.2, 0.3]}", ["uniform of train.lr takes two", "[low, high]"]),
    ("train.lr: {log: [0.1, 0.01]}", ["train.lr goes from 0.1 to 0.01", "low below high"]),
    ("train.lr_patience: {int: [3, 3]}", ["train.lr_patience goes from 3", "low below high"]),
    ("train.lr: {log: [0, 0.01]}", ["log of train.lr begins at 0", "begin above 0"]),
    ("train.lr: {uniform: [small, 0.01]}", ["train.lr has 'small'", "not a number", "write"]),
    ("model.dropout_rate: {uniform: [false, 0.5]}", ["dropout_rate has False", "not a number"]),
    ("train.lr: {uniform: [.nan, 0.1]}", ["train.lr has nan", "not a number", "write"]),
    ("train.clip_grad: {uniform: [1, .inf]}", ["train.clip_grad has inf", "not a number"]),
    ("train.lr_patience: {int: [1.5, 3]}", ["train.lr_patience has 1.5", "round it"]),
    ("train.lr: {uniform: [0.1, 5]}", ["5.0 in job.yaml", "train.lr", "above 0 and at most 1"]),
    ("train.lr: {uniform: [0, 0.5]}", ["0.0 in job.yaml", "train.lr", "above 0"]),
    ("loss.label_smoothing: {uniform: [0, 1]}", ["1.0 in", "loss.label_smoothing", "below 1"]),
    ("train.batch_size: {int: [1, 8]}", ["1 in job.yaml", "train.batch_size", "2 and 65536"]),
    # choices
    ("train.sched: {choice: []}", ["choice of train.sched has no values", "a list"]),
    ("train.sched: {choice: cosine}", ["choice of train.sched has no values", "a list"]),
    ("train.lr: {choice: [1e-3, 0.001]}", ["train.lr has 0.001 more than once", "leave one"]),
    ("train.sched: {choice: [step]}", ["step in job.yaml", "train.sched", "plateau, cosine"]),
    ("train.lr: {choice: [true]}", ["true in job.yaml", "train.lr", "a number"]),
    ("train.lr: {choice: [.nan]}", ["nan in job.yaml", "train.lr", "a number"]),
    ("train.lr: {choice: [null]}", ["none in job.yaml", "train.lr", "a number"]),
    ("model.backbone: {choice: [null]}", ["none in job.yaml", "model.backbone takes text"]),
    ("augment.scale: {choice: [[0.9, 1.1]]}", ["augment.scale", "single values"]),
    ("augment.scale: {choice: ['0.9, 1.1']}", ["augment.scale", "single values"]),
    ("stream.mix: {uniform: [0.1, 0.9]}", ["stream.mix", "single values"]),
    ("model.backbone_kwargs: {choice: [{}]}", ["backbone_kwargs", "single values"]),
    # conditions
    ("train.lr: {log: [0.1, 1], when: cosine}", ["when of train.lr", "write when: {setting"]),
    ("train.lr: {log: [0.1, 1], when: {train.sched: []}}", ["when of train.lr", "write when"]),
    (
        "train.lr: {log: [0.1, 1], when: {train.schd: cosine}}",
        ["when of train.lr", "no setting train.schd", "did you mean train.sched"],
    ),
    (
        "train.lr: {log: [0.1, 1], when: {train.sched: step}}",
        ["step in when of train.lr", "train.sched takes one of plateau, cosine"],
    ),
    (
        "train.lr: {log: [0.1, 1], when: {augment.scale: [[1, 2]]}}",
        ["when of train.lr", "augment.scale", "single values"],
    ),
    (
        "train.lr: {log: [0.1, 1], when: {train.sched: cosine}}\ntrain.sched: {choice: [plateau]}",
        ["when of train.lr", "train.sched=cosine", "train.sched takes one of plateau"],
    ),
    (
        "train.lr: {log: [0.1, 1], when: {train.lr_patience: 9}}\ntrain.lr_patience: {int: [1, 8]}",
        ["when of train.lr", "train.lr_patience=9", "whole numbers from 1 to 8"],
    ),
    (
        "train.lr: {log: [0.1, 1], when: {augment.jpeg: 0.5}}\naugment.jpeg: {uniform: [0, 1]}",
        ["when of train.lr", "augment.jpeg", "hardly ever", "as choice or int"],
    ),
    (
        "train.sched: {choice: [cosine], when: {train.sched: cosine}}",
        ["conditions of train.sched go in a circle", "leave out"],
    ),
    (
        "train.lr: {log: [0.1, 1], when: {train.sched: cosine}}\n"
        "train.sched: {choice: [cosine], when: {train.tf32: true}}\n"
        "train.tf32: {choice: [true], when: {train.sched: cosine}}",
        ["conditions of train.sched, train.tf32 go in a circle", "leave out"],
    ),
]


@pytest.mark.parametrize(("text", "expected"), REFUSED, ids=[text for text, _ in REFUSED])
def test_a_wrong_space_is_refused_in_a_sentence(text: str, expected: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    message = str(caught.value)
    for part in ["job.yaml", *expected]:
        assert part in message
    assert message[-1] in ".?" and "\n" not in message


POINTS = parse(
    "train.lr: {log: [1e-3, 0.1]}\n"
    "train.sched: {choice: [plateau, cosine]}\n"
    "train.warmup_epochs: {int: [0, 3], when: {train.sched: cosine}}\n"
)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ({"train.weight_decay": 0.1}, ["train.weight_decay is not searched", "leave it out"]),
        ({"train.lrr": 0.1}, ["no setting train.lrr", "did you mean train.lr"]),
        ({"train.lr": 0.5}, ["train.lr=0.5 lies outside", "numbers from 0.001 to 0.1"]),
        ({"train.lr": "fast"}, ["fast in --try", "train.lr", "a number"]),
        ({"train.warmup_epochs": 1.5}, ["train.warmup_epochs=1.5", "whole numbers from 0 to 3"]),
        ({"train.sched": ["cosine"]}, ["train.sched", "single values"]),
        (
            {"train.warmup_epochs": 1, "train.sched": "plateau"},
            ["train.warmup_epochs is not searched with train.sched=plateau", "leave one"],
        ),
    ],
)
def test_a_wrong_point_is_refused(point: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        POINTS.check_point(point, "--try")
    for part in ["--try", *expected]:
        assert part in str(caught.value)


def test_a_point_may_be_partial_and_is_read_as_its_settings_are() -> None:
    assert POINTS.check_point({}, "--try") == {}
    point = POINTS.check_point({"train.warmup_epochs": "2.0", "train.lr": "1e-2"}, "--try")
    assert list(point.items()) == [("train.lr", 0.01), ("train.warmup_epochs", 2)]
    assert type(point["train.warmup_epochs"]) is int


def test_a_space_that_contradicts_the_base_is_refused_before_the_first_trial() -> None:
    space = parse("train.warmup_epochs: {uniform: [0, 3], when: {train.sched: cosine}}")
    short = ("train.epochs=2", "train.sched=cosine")
    with pytest.raises(UserError, match=r"warmup_epochs=3 .*epochs=2; give more epochs"):
        space.check_base(small_settings(*short))
    space.check_base(small_settings("train.epochs=4", "train.sched=cosine"))
    space.check_base(small_settings("train.epochs=2"))  # no trial warms up
    real = parse("stream.real_only: {choice: [true, false]}")
    real.check_base(small_settings("augment.self_blend=0.3"))
    with pytest.raises(UserError, match=r"augment\.self_blend"):
        real.check_base(small_settings())
    dropout = parse("model.dropout_rate: {uniform: [0, 0.3]}")
    with pytest.raises(UserError, match=r"leave model\.dropout_rate out"):
        dropout.check_base(small_settings("model.arch=original"))


@pytest.mark.parametrize("epochs", [1, 2, 4, 5, 100])
@pytest.mark.parametrize(
    ("arch", "net"),
    [("v2", net) for net in ("v2", "genconvit", "ed", "vae")]
    + [("original", net) for net in ("genconvit", "ed", "vae")],
)
def test_the_usual_space_has_what_the_network_has(arch: str, net: str, epochs: int) -> None:
    base = small_settings(f"model.arch={arch}", f"model.net={net}", f"train.epochs={epochs}")
    space = default_space(base)
    names = set(space.tree())
    space.check_base(base)
    trial_settings(base, ask(space, base=base))
    assert space.start(base).keys() >= names - {
        "train.early_stopping_patience",
        "train.lr_patience",
    }
    assert ("loss.ae_weight" in names) == (arch == "v2" and net != "vae")
    assert ("loss.vae_weight" in names) == (net != "ed")
    assert ("loss.vae_beta" in names) == (arch == "v2" and net != "ed")
    assert ("model.fusion" in names) == (net == "v2")
    assert ("model.dropout_rate" in names) == (arch == "v2")
    assert arch == "v2" or not names & {f"model.{name}" for name in V2_ONLY}
    for name, low in (("train.early_stopping_patience", 3), ("train.lr_patience", 2)):
        assert (name in names) == (epochs - 1 > low)
        assert name not in names or space.tree()[name]["int"][1] <= epochs - 1


def test_the_usual_space_leaves_alone_what_the_user_settled() -> None:
    assert "train.lr_patience" not in default_space(small_settings("train.sched=cosine")).tree()
    assert "train.batch_size" not in default_space(small_settings("train.batch_size=auto")).tree()
    begun = default_space(small_settings("train.init=runs/a/best")).tree()
    assert "model.attention" not in begun and "model.dropout_rate" in begun
