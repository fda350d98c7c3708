from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genconvit.config import ORIGINAL_SAMPLING, SamplingSettings, Settings
from genconvit.errors import UserError
from genconvit.overrides import (
    Assignment,
    all_settings,
    describe,
    model_settings,
    parse_assignment,
    resolve_settings,
)


def resolve(*texts: str, config: Path | None = None) -> Settings:
    return resolve_settings(config, [parse_assignment(text) for text in texts])


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def test_the_command_line_overrules_the_file_and_the_file_the_preset(tmp_path: Path) -> None:
    config = write(tmp_path, "model: {preset: nano, ae_latent: 99}\ntrain: {lr: 0.5, epochs: 7}\n")
    settings = resolve("train.lr=1e-3", config=config)
    assert settings.train.lr == 1e-3
    assert settings.train.epochs == 7
    assert settings.model.ae_latent == 99
    assert settings.model.image_size == 64  # nano's


def test_a_preset_on_the_command_line_keeps_what_the_file_says(tmp_path: Path) -> None:
    config = write(tmp_path, "model: {ae_latent: 99}\n")
    model = resolve("model.preset=nano", config=config).model
    assert (model.ae_latent, model.image_size) == (99, 64)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.dropout_rte=0.6", ["model.dropout_rte", "model.dropout_rate", "0 to 0.95"]),
        ("dropout_rate=0.6", ["model.dropout_rate", "0 to 0.95"]),
        ("train.learning-rate=1", ["no setting train.learning-rate"]),
        ("model.dropout_rate=1.6", ["model.dropout_rate=1.6", "0 to 0.95", "default 0.5"]),
        ("model.image_size=100", ["multiple of 32"]),
        ("model.net=resnet", ["one of v2, genconvit, ed, vae"]),
        ("train.epochs=1.5", ["whole number"]),
        ("model.attention=maybe", ["true or false"]),
        ("model.autoencoder_channels=[1,2]", ["list of 5 numbers"]),
        ("train.lr", ["section.name=value"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_range(text: str, expected: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        resolve(text)
    for part in expected:
        assert part in str(caught.value)


def test_a_wrong_setting_in_a_file_is_named_with_the_file(tmp_path: Path) -> None:
    config = write(tmp_path, "train: {epochz: 3}\n")
    with pytest.raises(UserError, match=r"train\.epochz in .*job\.yaml.*train\.epochs"):
        resolve(config=config)


@pytest.mark.parametrize("text", ["train: [1", "- a\n- b\n", "train: 3\n"])
def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"job\.yaml"):
        resolve(config=write(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        resolve(config=tmp_path / "none.yaml")


def test_frames_and_frame_interval_exclude_each_other() -> None:
    assert resolve("sampling.frame_interval=3").sampling.frames is None
    with pytest.raises(UserError, match="exclude each other"):
        resolve("sampling.frame_interval=3", "sampling.frames=8")


def test_the_command_line_replaces_the_files_way_of_sampling(tmp_path: Path) -> None:
    config = write(tmp_path, "sampling: {frames: 8}\n")
    sampling = resolve("sampling.frame_interval=3", config=config).sampling
    assert (sampling.frames, sampling.frame_interval) == (None, 3)


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_one_of_several_numbers_may_be_chosen_on_the_command_line(stride: int) -> None:
    assert resolve(f"model.backbone_stride={stride}").model.backbone_stride == stride


@given(st.floats(0.0, 0.95))
def test_a_number_survives_the_command_line(value: float) -> None:
    assert resolve(f"model.dropout_rate={value!r}").model.dropout_rate == value


@given(st.floats(allow_nan=False).filter(lambda x: not 0.0 <= x <= 0.95))
def test_no_number_out_of_range_gets_through(value: float) -> None:
    with pytest.raises(UserError, match=r"0 to 0\.95"):
        resolve(f"model.dropout_rate={value!r}")


@given(st.text(min_size=1, max_size=30))
def test_any_text_is_a_setting_or_a_sentence(text: str) -> None:
    names = dict(all_settings())
    if text not in names:
        with pytest.raises(UserError):
            resolve_settings(assignments=[Assignment(text, "1", text)])


def test_settings_survive_their_own_file(tmp_path: Path) -> None:
    import yaml

    settings = resolve("model.preset=nano", "sampling.frame_interval=3", "seed=5")
    config = write(tmp_path, yaml.safe_dump(settings.model_dump(mode="json")))
    assert resolve(config=config) == settings


def test_every_setting_has_a_meaning_and_a_range() -> None:
    for name, field in all_settings():
        assert field.description, name
        assert "default" in describe(field), name


# serve.yaml is Ray Serve's own kind of file: tests/serve/test_server.py reads it. Files of recipes
# have many sets of settings: tests/recipe/test_recipes.py reads them.
OTHERS = {Path("configs/serve.yaml"), *Path("configs").glob("recipes*.yaml")}
RECIPES = sorted(set(Path("configs").glob("*.yaml")) - OTHERS)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_shipped_files_hold_valid_settings(path: Path) -> None:
    resolve(config=path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_shipped_files_serve_for_every_network_that_the_line_asks_for(path: Path) -> None:
    for asked in ("model.arch=original", "model.net=genconvit", "model.net=ed"):
        name, value = asked.split(".")[1].split("=")
        model = resolve(asked, config=path).model
        assert getattr(model, name) == value
        assert not (model.net == "genconvit" and model.seam_branch)


def test_what_one_place_says_of_a_network_is_still_held_to_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="setting of arch v2"):
        resolve("model.arch=original", "model.seam_branch=true")
    config = write(tmp_path, "model: {arch: original, attention: false}\n")
    with pytest.raises(UserError, match="setting of arch v2"):
        resolve("model.arch=original", config=config)


def test_python_keywords_get_the_same_errors() -> None:
    with pytest.raises(UserError, match=r"model\.attention "):
        model_settings(atention=False)


def test_the_published_aggregation_brings_its_frames_unless_others_are_asked_for() -> None:
    assert resolve("decision.aggregation=original").sampling == ORIGINAL_SAMPLING
    chosen = resolve("decision.aggregation=original", "sampling.frames=7").sampling
    assert chosen == SamplingSettings(frames=7, spacing="linspace")
    every = resolve("sampling.frame_interval=3", "decision.aggregation=original").sampling
    assert every.frame_interval == 3


def test_where_the_published_aggregation_is_chosen_does_not_matter(tmp_path: Path) -> None:
    on_line = resolve("decision.aggregation=original", "sampling.frames=7")
    config = write(tmp_path, "decision: {aggregation: original}\n")
    assert resolve("sampling.frames=7", config=config) == on_line
    config = write(tmp_path, "sampling: {frames: 7}\n")
    assert resolve("decision.aggregation=original", config=config) == on_line


@pytest.mark.parametrize("text", ["decision.threshold=0.8", "decision.undecided_margin=0.2"])
def test_the_published_aggregation_takes_no_other_threshold(text: str) -> None:
    with pytest.raises(UserError, match=f"{text}: the aggregation original"):
        resolve("decision.aggregation=original", text)
    published = resolve("decision.aggregation=original")
    with pytest.raises(UserError, match=f"{text}: the aggregation original"):
        resolve_settings(assignments=[parse_assignment(text)], base=published)
    # What a run wrote of its settings is read again.
    assert resolve("decision.threshold=0.5", "decision.aggregation=original") == published


def test_the_mean_comes_with_its_band_again() -> None:
    published = resolve("decision.aggregation=original")
    mean = resolve_settings(
        assignments=[parse_assignment("decision.aggregation=mean")], base=published
    )
    assert mean.decision == Settings().decision


def test_the_published_aggregation_overrules_the_frames_of_a_detector() -> None:
    base = resolve("sampling.frames=32")
    given = [parse_assignment("decision.aggregation=original")]
    assert resolve_settings(assignments=given, base=base).sampling == ORIGINAL_SAMPLING
    assert resolve_settings(base=base).sampling == SamplingSettings(frames=32)


def test_real_crops_alone_need_fakes_that_are_made_of_them() -> None:
    with pytest.raises(UserError, match=r"stream\.real_only.*augment\.self_blend"):
        resolve("stream.real_only=true")
    resolve("stream.real_only=true", "augment.self_blend=0.5")


def test_original_has_its_own_defaults() -> None:
    settings = resolve("model.arch=original")
    assert settings.model.net == "genconvit"
    assert settings.model.autoencoder_channels == (16, 32, 64, 128, 256)
    assert settings.loss.vae_weight == 1.0
    assert resolve("model.arch=original", "loss.vae_weight=0.5").loss.vae_weight == 0.5
    assert resolve("model.arch=v2").loss.vae_weight == 0.1
    again = resolve_settings(base=settings)
    assert again == settings
    assert Settings(model=settings.model).loss.vae_weight == 1.0


def test_what_only_v2_has_is_refused_with_original() -> None:
    with pytest.raises(UserError, match="attention is a setting of arch v2"):
        resolve("model.arch=original", "model.attention=false")


def test_digests_leave_out_what_came_later_at_its_default() -> None:
    settings = resolve("preprocess.size=64", "sampling.frames=4")
    assert settings.preprocess.fingerprint() == "a248b5319a30"  # as version 1 had it
    assert "spacing" not in settings.sampling.identity()
    other = resolve("preprocess.size=64", "preprocess.shape=tight").preprocess
    assert other.fingerprint() != "a248b5319a30"
    assert resolve("sampling.spacing=linspace").sampling.identity()["spacing"] == "linspace"


def test_a_range_of_workers_is_read_from_both_sources(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("train:\n  num_workers: 2:8\n  batch_size: auto\n  log_to: [mlflow]\n")
    train = resolve_settings(file).train
    assert (train.worker_range, train.batch_size, train.log_to) == ((2, 8), "auto", ("mlflow",))
    line = ("train.num_workers=1:4", "train.log_to=tensorboard,wandb", "train.batch_size=32")
    train = resolve_settings(file, [parse_assignment(text) for text in line]).train
    assert train.worker_range == (1, 4)
    assert (train.batch_size, train.log_to) == (32, ("tensorboard", "wandb"))
    line = ("train.num_workers=3", "train.log_to=none")
    train = resolve_settings(file, [parse_assignment(text) for text in line]).train
    assert (train.worker_range, train.log_to) == ((3, 3), ())


def test_on_and_off_in_yaml_are_words_where_words_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    for word in ("on", "off"):
        file.write_text(f"train:\n  compile: {word}\n")
        assert resolve_settings(file).train.compile == word


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train.num_workers=8:2", "from 1 to 4096, or MIN:MAX such as 2:8"),
        ("train.num_workers=some", "a number, or MIN:MAX such as 2:8"),
        ("train.batch_size=1", "between 2 and 65536, or auto"),
        ("train.log_to=paper", "a list of tensorboard, mlflow, wandb"),
    ],
)
def test_what_is_wrong_with_workers_batches_and_loggers(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        resolve_settings(assignments=[parse_assignment(text)])
