"""Published checkpoints: their logits, what is dropped of them, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from genconvit import load_detector
from genconvit.checkpoint import load_network, save_detector
from genconvit.config import ModelSettings
from genconvit.errors import UserError
from genconvit.legacy import (
    CheckpointError,
    Net,
    from_state_dict,
    model_for,
    published_info,
    read_published,
)
from genconvit.models.registry import build_from_settings
from ray_jobs.cli import main
from ray_jobs.convert import convert
from ray_jobs.output import Output

# (net, seed) of ../shared/reference/cases.json.
CASES: list[tuple[Net, int]] = [("ed", 1), ("ed", 2), ("vae", 1), ("vae", 2)]
NANO = ModelSettings(
    arch="original", preset="nano", autoencoder_channels=(2, 2, 3, 4, 4),
    backbone_kwargs={"depths": [1, 1, 1, 1], "dims": [4, 4, 8, 8]},
)  # fmt: skip


@pytest.fixture(scope="module")
def parity(shared: Path) -> ModuleType:
    """The recorded cases and what makes their tensors."""
    spec = importlib.util.spec_from_file_location("parity", shared / "reference" / "parity.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recorded(parity: ModuleType, net: Net, seed: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """State dict, images and the logits that the published network gave."""
    [case] = [c for c in parity.cases() if (c["net"], c["seed"]) == (net, seed)]
    # A third of a second for each of 300 M numbers that are dropped anyway.
    state = parity.state_dict(net, seed, skip=lambda key: key.startswith("encoder.var"))
    tensors = {key: torch.from_numpy(array) for key, array in state.items()}
    return tensors, torch.from_numpy(parity.images(case["n"], seed)), torch.tensor(case["logits"])


@pytest.mark.parametrize(("net", "seed"), CASES)
def test_logits_are_those_of_the_published_network(parity: ModuleType, net: Net, seed: int) -> None:
    assert sorted((c["net"], c["seed"]) for c in parity.cases()) == CASES
    state, x_BCHW, expected = recorded(parity, net, seed)
    model = model_for([net])
    with torch.device("meta"):
        network = build_from_settings(model)
    published = from_state_dict(state, net, model, "the case")
    network.load_state_dict(published.weights, assign=True)
    with torch.inference_mode():
        logits = network.eval()(x_BCHW).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_a_published_file_becomes_a_detector_with_its_logits_and_licence(
    parity: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, x_BCHW, expected = recorded(parity, "ed", 1)
    training = {"epoch": 7, "state_dict": state, "optimizer": {"state": {}}, "min_loss": 0.1}
    torch.save(training, tmp_path / "ed.pth")
    out = tmp_path / "detector"
    with pytest.raises(SystemExit) as caught:
        main(["convert", "--ed", str(tmp_path / "ed.pth"), "--out", str(out)])
    assert caught.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "CC BY-NC 4.0" in printed
    assert "never called" in printed
    detector = load_detector(out, "cpu")
    with torch.inference_mode():
        logits = detector.network(x_BCHW).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert detector.info.model.net == "ed"
    assert detector.info.licence == "CC BY-NC 4.0"
    assert detector.info.training["epoch"] == {"ed": 7}
    card = (out / "README.md").read_text()
    assert "CC BY-NC 4.0" in card
    assert "license: cc-by-nc-4.0" in card


PUBLISHED_NAMES = {
    "ed": [("encoder.", "encoder.features."), ("decoder.", "decoder.features.")],
    "vae": [
        ("encoder.", "encoder.features."),
        ("decoder.", "decoder.features."),
        ("mu.", "encoder.mu."),
        ("backbone.", "convnext_backbone."),
    ],
}
DEAD = {
    "ed": {"embedder.norm.weight": 8, "backbone.patch_embed.proj.bias": 5},
    "vae": {"embedder.head.fc.weight": 3, "encoder.var.bias": 7, "fc3.bias": 2},
}


def published_nano(net: str) -> tuple[dict[str, Tensor], torch.nn.Module]:
    """A state dict under the published names, with dead tensors, and the network it is of."""
    torch.manual_seed(0)
    network = build_from_settings(NANO.model_copy(update={"net": net})).eval()
    state = {}
    for name, tensor in network.state_dict().items():
        key = name.removeprefix(f"{net}.")
        key = key.replace("head.1.", "fc.").replace("head.3.", "fc2.")
        for ours, theirs in PUBLISHED_NAMES[net]:
            if key.startswith(ours):
                key = theirs + key.removeprefix(ours)
                break
        state[key] = tensor
    for key in list(state):
        if "backbone.fc" in key:  # timm's own head keeps its name
            state[key.replace("backbone.fc", "backbone.head.fc")] = state.pop(key)
    if net == "vae":  # the published convolutions have a bias in front of their norm
        for at in (0, 3, 6, 9):
            mean = state[f"encoder.features.{at + 1}.running_mean"]
            state[f"encoder.features.{at}.bias"] = torch.full_like(mean, 0.5)
            state[f"encoder.features.{at + 1}.running_mean"] = mean + 0.5
    return state | {key: torch.zeros(size) for key, size in DEAD[net].items()}, network


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("net", ["ed", "vae"])
@pytest.mark.parametrize("form", ["bare", "training", "parallel", "old format", "half"])
def test_every_way_of_saving_loads(net: Net, form: str, tmp_path: Path) -> None:
    state, network = published_nano(net)
    path = tmp_path / "a.pth"
    if form == "training":
        torch.save({"epoch": 3, "state_dict": state, "min_loss": 0.2}, path)
    elif form == "parallel":
        torch.save({f"module.{key}": tensor for key, tensor in state.items()}, path)
    elif form == "old format":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif form == "half":
        torch.save({k: t.half() if t.is_floating_point() else t for k, t in state.items()}, path)
    else:
        torch.save(state, path)
    published = read_published(path, net, NANO)
    expected = network.state_dict()
    assert published.weights.keys() == expected.keys()
    for name, tensor in published.weights.items():
        assert tensor.dtype == expected[name].dtype
        torch.testing.assert_close(
            tensor, expected[name], atol=1e-3 if form == "half" else 0, rtol=0
        )
    assert published.epoch == (3 if form == "training" else None)
    assert sum(dropped.parameters for dropped in published.dropped) == sum(DEAD[net].values())


def test_both_networks_become_one_detector(tmp_path: Path) -> None:
    nets: list[Net] = ["ed", "vae"]
    files = {net: saved(published_nano(net)[0], tmp_path / f"{net}.pth") for net in nets}
    networks = [read_published(file, net, NANO) for net, file in files.items()]
    weights = {k: t for network in networks for k, t in network.weights.items()}
    save_detector(tmp_path / "d", weights, published_info(files, networks, NANO))
    detector = load_detector(tmp_path / "d", "cpu")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits = [published_nano(net)[1](x).logits for net in nets]
        torch.testing.assert_close(detector.network(x).logits, (logits[0] + logits[1]) / 2)


def test_each_key_that_does_not_fit_is_named(tmp_path: Path) -> None:
    state, _ = published_nano("ed")
    del state["fc2.bias"]
    del state["backbone.head.norm.weight"]
    state["surprise"] = torch.zeros(3)
    state["fc.bias"] = torch.zeros(4)
    with pytest.raises(CheckpointError) as caught:
        read_published(saved(state, tmp_path / "a.pth"), "ed", NANO)
    assert sorted(caught.value.problems) == [
        "backbone.head.norm.weight is missing",
        "fc.bias is (4,) and should be (500,)",
        "fc2.bias is missing",
        "surprise is unexpected",
    ]
    assert "surprise is unexpected" in str(caught.value)


def test_the_command_names_every_key_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, _ = published_nano("ed")  # far smaller than the published network
    file = saved(state, tmp_path / "a.pth")
    with pytest.raises(SystemExit) as caught:
        main(["convert", "--ed", str(file), "--out", str(tmp_path / "out")])
    assert caught.value.code == 2
    *warnings, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error:")
    assert len(warnings) > 10
    assert any("encoder.features.12.weight is (4, 4, 3, 3) and should be" in w for w in warnings)
    assert not (tmp_path / "out").exists()


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("boom",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a file"),
        (b"", "no PyTorch checkpoint|cannot be read"),
        (b"PK\x03\x04 broken", "cannot be read"),
        (pickle.dumps({"state_dict": Bomb()}, protocol=2), "could run code"),
        (b"hello world, this is a text", "cannot be read"),
        (bytes(range(256)) * 9, "no PyTorch checkpoint|cannot be read"),
        ({3: torch.zeros(2), "a": torch.zeros(2)}, "a is unexpected"),
        ([1, 2], "no state dict"),
        ({"epoch": 3}, "no state dict"),
        ({"state_dict": Bomb()}, "could run code"),
    ],
    ids=[
        "nothing",
        "empty",
        "broken zip",
        "pickle",
        "text",
        "bytes",
        "numbers",
        "list",
        "no state",
        "code in a state",
    ],
)
def test_what_is_no_checkpoint_is_refused_and_never_run(
    content: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(UserError, match=message):
        read_published(file, "ed", NANO)
    assert "boom" not in capsys.readouterr().out


def test_the_other_network_is_recognised(tmp_path: Path) -> None:
    file = saved(published_nano("vae")[0], tmp_path / "vae.pth")
    with pytest.raises(UserError, match="give it as --vae"):
        read_published(file, "ed", NANO)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "give --ed FILE"), (["--ed", "nowhere.pth"], "nowhere.pth is not a file")],
)
def test_wrong_input_ends_with_one_sentence_and_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["convert", *arguments, "--out", str(tmp_path / "out")])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_url_that_is_taken_is_left_alone(detector: Path, tmp_path: Path) -> None:
    network, info = load_network(detector)
    save_detector("memory://bucket/taken", network.state_dict(), info)
    with pytest.raises(UserError, match="taken is not empty"):
        convert(tmp_path / "a.pth", None, "memory://bucket/taken", Output())


def test_a_folder_that_is_taken_is_left_alone(detector: Path, tmp_path: Path) -> None:
    before = json.loads((detector / "detector.json").read_text())
    with pytest.raises(SystemExit) as caught:
        main(["convert", "--ed", str(tmp_path / "a.pth"), "--out", str(detector)])
    assert caught.value.code == 2
    assert json.loads((detector / "detector.json").read_text()) == before


def test_published_crops_are_tight_and_their_own(tmp_path: Path) -> None:
    info = published_info({"ed": tmp_path / "x.pth"}, [], model_for(["ed"]))
    assert (info.preprocess.shape, info.preprocess.margin) == ("tight", 0.0)
    assert info.decision.aggregation == "mean"
