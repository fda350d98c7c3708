from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from genconvit.checkpoint import load_network, read_info, save_detector
from genconvit.errors import UserError


@pytest.fixture
def copy(detector: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(detector, tmp_path / "copy"))


def test_a_detector_comes_back_as_it_was_saved(detector: Path, tmp_path: Path) -> None:
    network, info = load_network(detector)
    saved = save_detector(tmp_path / "again", network.state_dict(), info)
    assert saved == info
    again, _ = load_network(tmp_path / "again")
    x_BCHW = torch.rand(2, 3, 64, 64)
    assert torch.equal(network(x_BCHW).logits, again(x_BCHW).logits)
    assert not again.training


def test_its_card_tells_who_it_is_and_how_far_to_trust_it(detector: Path) -> None:
    card = (detector / "README.md").read_text()
    assert read_info(detector).id in card
    assert "evidence, not proof" in card


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    for dotted, value in changes.items():
        *parents, leaf = dotted.split("__")
        target = content
        for parent in parents:
            target = target[parent]
        target[leaf] = value
    path.write_text(json.dumps(content))


def test_edited_preprocessing_is_refused(copy: Path) -> None:
    edit(copy / "detector.json", preprocess__margin=0.9)
    with pytest.raises(UserError, match="preprocessing is not the one"):
        load_network(copy)


def test_damaged_weights_are_refused(copy: Path) -> None:
    file = copy / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        load_network(copy)


def test_weights_of_another_network_are_refused(copy: Path) -> None:
    edit(copy / "detector.json", model__ae_latent=7)
    with pytest.raises(UserError, match="does not fit"):
        load_network(copy)


def test_a_description_from_the_future_is_refused(copy: Path) -> None:
    edit(copy / "detector.json", format=99)
    with pytest.raises(UserError, match="another version"):
        load_network(copy)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "no detector.json"),
        (lambda path: path.write_bytes(b"weights"), "is a file"),
    ],
)
def test_what_is_no_detector_is_named(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "model.pth"
    make(path)  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        read_info(path)


def test_a_run_folder_points_to_its_best_detector(detector: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean .*best"):
        read_info(detector.parent)
