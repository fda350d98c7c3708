from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from genconvit.errors import UserError
from genconvit.overrides import parse_assignment, resolve_settings
from genconvit.recipe.recipes import Recipe, differences, read_recipes, run_settings
from ray_jobs.bench_recipe import RECIPES
from ray_jobs.cli import main

NAMES = [f"r{number}" for number in range(6)]
OWN = st.fixed_dictionaries(
    {},
    optional={
        "model.fusion": st.sampled_from(["swiglu", "sum", "concat"]),
        "model.attention": st.booleans(),
        "train.lr": st.sampled_from([1e-4, 3e-4, 1e-3]),
        "train.epochs": st.integers(2, 9),
        "augment.jpeg": st.sampled_from([0.0, 0.5]),
        "stream.balance": st.sampled_from(["none", "class", "method"]),
    },
)


def nested(own: dict[str, Any]) -> dict[str, Any]:
    """The same in sections."""
    tree: dict[str, Any] = {}
    for name, value in own.items():
        section, leaf = name.split(".")
        tree.setdefault(section, {})[leaf] = value
    return tree


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_recipes_are_what_they_start_from_and_what_they_change(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("recipes") / "recipes.yaml"

    @given(
        common=OWN,
        owns=st.lists(OWN, min_size=6, max_size=6),
        parents=st.lists(st.integers(-1, 4), min_size=6, max_size=6),
        order=st.permutations(NAMES),
        dotted=st.booleans(),
    )
    def check(common, owns, parents, order, dotted) -> None:
        merged: dict[str, dict[str, Any]] = {}
        written: dict[str, dict[str, Any]] = {}
        for number, (name, own) in enumerate(zip(NAMES, owns, strict=True)):
            parent = min(parents[number], number - 1)
            start = merged[NAMES[parent]] if parent >= 0 else {}
            merged[name] = {**start, **own}
            written[name] = {**(own if dotted else nested(own))}
            if parent >= 0:
                written[name]["from"] = NAMES[parent]
        tree = {"common": nested(common), "recipes": {name: written[name] for name in order}}
        recipes = read_recipes(write(path, tree))
        assert [recipe.name for recipe in recipes] == sorted(order)  # as safe_dump writes them
        for recipe in recipes:
            whole = {**common, **merged[recipe.name]}
            texts = [f"{name}={value}" for name, value in whole.items()]
            assert recipe.settings == resolve_settings(assignments=map(parse_assignment, texts))

    check()


def test_a_circle_is_told_with_file_and_recipe(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("circles") / "recipes.yaml"

    @given(st.integers(1, 6), st.permutations(NAMES))
    def check(length: int, order: list[str]) -> None:
        circle = order[:length]
        starts = dict(zip(circle, circle[1:] + circle[:1], strict=True))
        recipes = {name: {"from": starts[name]} if name in starts else {} for name in order}
        write(path, {"recipes": recipes})
        with pytest.raises(UserError, match=r"starts from itself \(r\d") as told:
            read_recipes(path)
        assert str(path) in str(told.value)
        assert any(f"recipe {name} in" in str(told.value) for name in circle)

    check()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no recipes; write 'recipes:'"),
        ({"recipes": [1]}, "holds no recipes"),
        ({"recipes": {"a": {}}, "recipe": {}}, "has recipe, and takes common and recipes alone"),
        ({"recipes": {"a": {"from": "b"}}}, "recipe a in {path} starts from b, which is no recipe"),
        ({"recipes": {"ours": {}, "a": {"from": "our"}}}, "did you mean ours?"),
        ({"recipes": {"a": {"model.fussion": "sum"}}}, "recipe a in {path}: there is no setting"),
        ({"recipes": {"a": {"train": {"lr": -1}}}}, "recipe a in {path}: train.lr=-1: train.lr"),
        ({"common": {"train": {"lr": 5}}, "recipes": {"a": {}}}, "recipe a in {path}: train.lr=5"),
        ({"recipes": {"a": {"train": 3}}}, "train in a in {path} is a section"),
        ({"recipes": {"a": 3}}, "recipe a in {path} is no mapping"),
        ({"recipes": {"a/b": {}}}, "'a/b' cannot name a recipe"),
        ({"recipes": {True: {}}}, "True cannot name a recipe"),
        ({"recipes": {"a": {"seed": 3}}}, "give --seeds"),
        ({"recipes": {"a": {"preprocess.size": 96}}}, "preprocess.size is no part of a recipe"),
        ({"recipes": {"a": {"train.batch_size": "auto"}}}, "recipe a in {path}: train.batch_size"),
        ({"recipes": {"a": {"train.train_on_val": True}}}, "leaves nothing to judge by"),
        (
            {"recipes": {"a": {"model": {"arch": "original", "fusion": "sum"}}}},
            "recipe a in {path}: model",
        ),
        ("recipes: {a: [", "is not valid YAML"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    content: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "recipes.yaml", content)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "recipe", "--data", str(tmp_path), "--recipes", str(path)])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert said.replace("{path}", str(path)) in told
    assert len(told.splitlines()) == 1


def test_those_that_are_asked_for_come_in_that_order(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", {"recipes": {"a": {}, "b": {}, "c": {}}})
    assert [recipe.name for recipe in read_recipes(path, only=["c", "a"])] == ["c", "a"]
    for only, said in ((["d"], "has no recipe d"), (["a", "a"], "recipe a is given twice")):
        with pytest.raises(UserError, match=said):
            read_recipes(path, only=only)


def test_the_command_line_gives_what_all_have_in_common(tmp_path: Path) -> None:
    tree = {
        "common": {"train": {"epochs": 9}},
        "recipes": {"a": {"train.lr": 1e-3}, "b": {}},
    }
    path = write(tmp_path / "r.yaml", tree)
    config = write(tmp_path / "c.yaml", {"train": {"epochs": 5, "batch_size": 4}})
    recipes = read_recipes(path, config=config, assignments=[parse_assignment("train.epochs=3")])
    assert [recipe.settings.train.epochs for recipe in recipes] == [3, 3]
    assert [recipe.settings.train.batch_size for recipe in recipes] == [4, 4]
    given = [parse_assignment("train.lr=0.01")]
    with pytest.raises(UserError, match=r"train.lr=0.01: recipe a in .* sets train.lr itself"):
        read_recipes(path, assignments=given)
    [only] = read_recipes(path, only=["b"], assignments=given)
    assert only.settings.train.lr == 0.01
    with pytest.raises(UserError, match="no part of a recipe"):
        read_recipes(path, assignments=[parse_assignment("decision.threshold=0.4")])


@pytest.mark.parametrize("preset", ["base", "nano"])
def test_the_recipes_that_come_along_are_one_change_from_ours(preset: str) -> None:
    given = [parse_assignment(f"model.preset={preset}")]
    recipes = {recipe.name: recipe for recipe in read_recipes(RECIPES, assignments=given)}
    ours = recipes["ours"].settings
    for name, changed in {
        "reconstruction-only": {"model.backbone_input": "reconstruction"},
        "fusion-sum": {"model.fusion": "sum"},
        "no-attention": {"model.attention": False},
        "self-blend": {"augment.self_blend": 0.5},
        "balance-method": {"stream.balance": "method"},
        "smoothing": {"loss.label_smoothing": 0.1},
    }.items():
        assert differences(recipes[name].settings, ours) == changed
    assert recipes["original"].settings.model.arch == "original"
    assert differences(ours, ours) == {}


def test_the_recipes_for_few_clips_build_on_each_other() -> None:
    path = RECIPES.with_name("recipes_few_clips.yaml")
    recipes = {recipe.name: recipe.settings for recipe in read_recipes(path)}
    common = {recipe.name: recipe.settings for recipe in read_recipes(RECIPES)}
    for name in ("predecessor", "original"):
        assert recipes[name] == common[name]
    assert differences(recipes["small-seams"], recipes["small"]) == {
        "augment.self_blend": 0.5,
        "augment.self_blend_seams": 1.0,
    }
    for alone, mixed in (
        ("small-seams-alone", "small-seams"),
        ("frozen-seams-alone", "frozen-detail"),
    ):
        assert differences(recipes[alone], recipes[mixed]) == {"stream.real_only": True}
    for plain in ("small", "base"):
        branch = {"model.seam_branch": True}
        assert differences(recipes[f"{plain}-seam-branch"], recipes[plain]) == branch
    frozen = recipes["frozen-detail"].train
    assert frozen.freeze_epochs == frozen.epochs


def test_what_train_is_given_is_the_recipe_that_was_measured() -> None:
    path = RECIPES.with_name("recipes_few_clips.yaml")
    measured = next(r.settings for r in read_recipes(path) if r.name == "small-seam-branch")
    given = resolve_settings(RECIPES.with_name("train.yaml"))
    assert differences(given, measured) == {}


def test_a_seed_is_all_that_differs_between_the_runs_of_a_recipe() -> None:
    recipe = Recipe("a", resolve_settings())
    one, other = (run_settings(recipe.of_seed(seed)) for seed in (1, 2))
    assert {name for name in one if one[name] != other[name]} == {"seed"}
    assert "train.log_to" not in one and "stream.cache" not in one
