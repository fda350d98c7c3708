"""A detector that is exchanged while it serves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genconvit import load_detector
from genconvit.checkpoint import read_info, save_description
from genconvit.errors import UserError
from genconvit.self_check import CROPS as CHECK_CROPS
from genconvit.self_check import check_crops, check_detector
from tests.conftest import Weights, write_detector
from tests.serve import hostile
from tests.serve.local import LocalClient, assert_problem
from tests.serve.scoring.reloading import RELOAD, assert_judged_by, judged

# What is taken


def test_other_weights_are_taken(client: LocalClient, served: Path, clip: Path) -> None:
    before = judged(client, clip)
    write_detector(served, 2)
    assert judged(client, clip).probability_fake == before.probability_fake  # not by itself
    response = client.post(RELOAD)
    assert response.status_code == 200
    after = judged(client, clip)
    assert response.json()["id"] == after.model.id != before.model.id
    assert after.probability_fake != before.probability_fake
    assert_judged_by(after, served, clip)
    assert client.get("/v1/models").json()["models"][0] == response.json()
    assert client.get("/healthz").json()["detector"] == after.model.id
    text = client.get("/metrics").text
    assert f'id="{after.model.id}"' in text and before.model.id not in text
    assert 'genconvit_reloads_total{model="default",outcome="taken"} 1.0' in text


def test_the_same_weights_may_be_taken_again(client: LocalClient, clip: Path) -> None:
    before = judged(client, clip)
    assert client.post(RELOAD).json()["id"] == before.model.id
    assert judged(client, clip).probability_fake == before.probability_fake


def test_another_calibration_of_the_same_weights_is_taken(
    client: LocalClient, served: Path, clip: Path
) -> None:
    assert judged(client, clip).threshold == 0.5
    info = read_info(served)
    decision = info.decision.model_copy(update={"threshold": 0.75})
    save_description(served, info.model_copy(update={"decision": decision}))
    assert client.post(RELOAD).json()["threshold"] == 0.75
    assert_judged_by(judged(client, clip), served, clip)


@pytest.mark.parametrize(
    "settings",
    [
        ("preprocess.size=96",),
        ("preprocess.margin=0.6",),
        ("model.image_size=96", "preprocess.size=96"),
        ("model.net=ed",),
        ("sampling.frames=6", "decision.aggregation=max"),
    ],
    ids=" ".join,
)
def test_a_detector_of_another_kind_is_taken(
    client: LocalClient, served: Path, clip: Path, settings: tuple[str, ...]
) -> None:
    judged(client, clip)
    write_detector(served, 3, *settings)
    assert client.post(RELOAD).status_code == 200
    assert_judged_by(judged(client, clip), served, clip)
    crop = hostile.image("png", 80, 80)
    assert client.send_file("/v1/crops", crop).json()["model"]["id"] == read_info(served).id


# What is refused


def nan_weights(weights: Weights) -> Weights:
    name = next(name for name, tensor in weights.items() if tensor.dim() > 1)
    return weights | {name: torch.full_like(weights[name], torch.nan)}


def one_nan(weights: Weights) -> Weights:
    name = next(name for name, tensor in weights.items() if tensor.dim() > 1)
    spoilt = weights[name].clone()
    spoilt.view(-1)[0] = torch.nan
    return weights | {name: spoilt}


def infinite_weights(weights: Weights) -> Weights:
    return {
        name: tensor * 1e30 if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }


def zero_weights(weights: Weights) -> Weights:
    return {name: torch.zeros_like(tensor) for name, tensor in weights.items()}


NONSENSE: dict[str, Callable[[Weights], Weights]] = {
    "nan": nan_weights,
    "one nan": one_nan,
    "infinite": infinite_weights,
    "constant": zero_weights,
}


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def cut_weights(folder: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])


def folder_for_weights(folder: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    file.unlink()
    file.mkdir()


def cut_description(folder: Path) -> None:
    file = folder / "detector.json"
    file.write_bytes(file.read_bytes()[:-100])


def bytes_description(folder: Path) -> None:
    (folder / "detector.json").write_bytes(bytes(range(256)))


DAMAGE = [no_folder, cut_weights, folder_for_weights, cut_description, bytes_description]


def test_what_is_no_sound_detector_is_refused(
    client: LocalClient, served: Path, clip: Path, tmp_path: Path
) -> None:
    before = judged(client, clip)
    kept = shutil.copytree(served, tmp_path / "kept")
    attempts: dict[str, Callable[[], Any]] = {
        name: lambda change=change: write_detector(served, 1, change=change)
        for name, change in NONSENSE.items()
    }
    attempts |= {damage.__name__: lambda damage=damage: damage(served) for damage in DAMAGE}
    for count, (name, spoil) in enumerate(attempts.items(), start=1):
        shutil.rmtree(served, ignore_errors=True)
        shutil.copytree(kept, served)
        spoil()
        problem = assert_problem(client.post(RELOAD), 422, "reload")
        assert "the old detector stays" in problem["detail"], name
        after = judged(client, clip)
        assert (after.model, after.probability_fake) == (before.model, before.probability_fake)
        text = client.get("/metrics").text
        line = f'genconvit_reloads_total{{model="default",outcome="refused"}} {count}.0'
        assert line in text, name


def test_the_check_passes_what_computes_and_no_more(served: Path) -> None:
    detector = load_detector(served, "cpu")
    check_detector(detector)
    crops = check_crops(64)
    assert crops.shape == (CHECK_CROPS, 64, 64, 3) and crops.dtype == np.uint8
    assert np.array_equal(crops, check_crops(64))
    assert min(crop.std() for crop in crops) > 5  # none of them is flat
    detector.network.train()  # dropout and noise: another answer each time
    with pytest.raises(UserError, match="time to time"):
        check_detector(detector)
