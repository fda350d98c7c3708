"""The ONNX file answers as the detector does, says how it wants its crops, or is not written."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pytest
import torch

from genconvit.checkpoint import Calibration, DetectorInfo
from genconvit.config import SamplingSettings
from genconvit.data.clip_table import ClipRecord
from genconvit.data.crops import decode_crop, extract_crops
from genconvit.data.shards import SCHEMA, write_manifest, write_shard
from genconvit.errors import UserError
from genconvit.export import export_onnx
from genconvit.folder import Folder
from genconvit.models.registry import build_from_settings
from genconvit.predict import Detector, load_detector, timeline_point
from ray_jobs.export import export, find_crops
from ray_jobs.output import Output
from tests.conftest import small_settings


def untrained(*texts: str, device: str = "cpu", **more: Any) -> Detector:
    settings = small_settings(*texts)
    info = DetectorInfo(
        model=settings.model,
        preprocess=settings.preprocess,
        sampling=settings.sampling,
        decision=settings.decision,
        **more,
    )
    with torch.device(device):
        return Detector(build_from_settings(settings.model).eval(), info, torch.device("cpu"))


@pytest.fixture(scope="module")
def crops(detector: Path, clips: Path) -> np.ndarray:
    """Five real crops, as the detector makes them."""
    info = load_detector(detector, "cpu").info
    clip = sorted(clips.parent.glob("test/fake/*"))[0]
    found = extract_crops(clip, info.preprocess, SamplingSettings(frames=5)).crops
    return np.stack([decode_crop(crop.jpeg, info.model.image_size) for crop in found])


@pytest.fixture(scope="module")
def job(
    detector: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """The file that the job writes of the detector, and the lines that it prints."""
    out = tmp_path_factory.mktemp("export") / "detector.onnx"
    with redirect_stdout(StringIO()) as printed:
        export(detector, out, "onnx", clips.parent, Output(as_json=True))
    return out, printed.getvalue().splitlines()


@pytest.fixture(scope="module")
def exported(job: tuple[Path, list[str]]) -> Path:
    return job[0]


def run(file: Path, crops_BHWC: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    images_BCHW = crops_BHWC.transpose(0, 3, 1, 2).astype(np.float32) / 255
    outputs: list[np.ndarray] = session.run(None, {"images": images_BCHW})
    return outputs


@pytest.mark.parametrize("batch", [1, 3])
def test_the_file_answers_as_the_detector(
    exported: Path, detector: Path, crops: np.ndarray, batch: int
) -> None:
    eager = load_detector(detector, "cpu")
    logits, p_fake = run(exported, crops[:batch])
    expected = eager.logits(crops[:batch])
    np.testing.assert_allclose(logits, expected[:, 0], atol=1e-5)
    scores = [
        timeline_point(0, 0.0, 0, (0, 0, 1, 1), row, eager.info.decision, eager.temperature)
        for row in expected
    ]
    np.testing.assert_allclose(p_fake, [point.probability_fake for point in scores], atol=1e-5)


def test_the_file_says_how_crops_are_made(exported: Path, detector: Path) -> None:
    info = load_detector(detector, "cpu").info
    model = onnx.load(exported)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    preprocess = json.loads(facts["preprocess"])
    assert preprocess["fingerprint"] == info.preprocess_fingerprint
    assert info.preprocess.model_dump(mode="json").items() <= preprocess.items()
    assert preprocess["colour_order"] == "RGB"
    assert facts["detector"] == info.id
    assert json.loads(facts["classes"]) == ["fake", "real"]
    assert json.loads(facts["sampling"]) == info.sampling.model_dump(mode="json")
    assert json.loads(facts["decision"]) == info.decision.model_dump(mode="json")
    assert "torch" in json.loads(facts["libraries"])
    assert info.id in model.doc_string
    assert "RGB" in model.graph.input[0].doc_string


def test_the_file_is_alone_and_tells_nothing_of_this_machine(exported: Path) -> None:
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]
    assert str(Path.cwd()).encode() not in exported.read_bytes()


def test_both_published_networks_and_a_temperature_are_exported_without_a_word(
    crops: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pair = untrained("model.arch=original", calibration=Calibration(temperature=2.0))
    report = export_onnx(pair, tmp_path / "net.onnx", crops)
    assert report.crops == len(crops)
    assert report.logits_difference < 1e-5
    logits, p_fake, ed_logits, vae_logits = run(report.path, crops)
    fake, real = (logits / 2).T
    np.testing.assert_allclose(p_fake, 1 / (1 + np.exp(real - fake)), atol=1e-6)
    rows_BRK = np.stack([ed_logits, vae_logits], axis=1)
    np.testing.assert_allclose(rows_BRK, pair.logits(crops), atol=1e-5)
    assert capfd.readouterr() == ("", "")


def test_a_network_of_detail_is_exported(crops: np.ndarray, tmp_path: Path) -> None:
    switches = ("backbone_input=difference", "backbone_stride=8", "pooling=place")
    detector = untrained(*(f"model.{switch}" for switch in switches))
    report = export_onnx(detector, tmp_path / "net.onnx", crops)
    assert report.logits_difference < 1e-5


def test_a_seam_branch_is_exported(crops: np.ndarray, tmp_path: Path) -> None:
    detector = untrained("model.seam_branch=true")
    branch = detector.network.seams
    branch.weight.copy_(torch.linspace(-1, 1, len(branch.weight)))
    branch.verdict_scale.fill_(0.25)
    assert export_onnx(detector, tmp_path / "net.onnx", crops).logits_difference < 1e-4


def test_a_file_that_answers_differently_is_not_written(crops: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    out.write_text("older")
    # Sums in another order differ in their last digits, and not even that is let pass.
    with pytest.raises(UserError, match=r"differ from the detector's by up to \d\.\de-0[6-9]"):
        ed = untrained("model.arch=original", "model.net=ed")
        export_onnx(ed, out, crops, tolerance=0.0)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert out.read_text() == "older"


def test_weights_beyond_what_a_file_holds_are_refused(crops: np.ndarray, tmp_path: Path) -> None:
    sizes = ("image_size=512", "ae_latent=4096", "autoencoder_channels=[2,2,2,2,4096]")
    large = untrained(*(f"model.{size}" for size in sizes), device="meta")
    with pytest.raises(UserError, match="2 GiB"):
        export_onnx(large, tmp_path / "large.onnx", crops)
    assert not list(tmp_path.iterdir())


def test_the_job_tells_what_it_wrote(job: tuple[Path, list[str]], detector: Path) -> None:
    out, [line] = job
    event = json.loads(line)
    assert event["event"] == "exported"
    assert event["path"] == str(out)
    assert event["detector"] == load_detector(detector, "cpu").info.id
    assert event["bytes"] == out.stat().st_size
    assert event["crops"] == 16
    assert 0 <= event["logits_difference"] < 1e-5


def test_crops_come_from_several_clips(detector: Path, clips: Path) -> None:
    judge = load_detector(detector, "cpu")
    for source in (None, clips.parent, clips):
        found = find_crops(judge, source)
        assert found.shape == (16, 64, 64, 3)
        assert len(np.unique(found, axis=0)) > 4
    assert find_crops(judge, sorted(clips.parent.glob("test/real/*"))[0]).shape[0] == 4


def test_crops_come_from_shards_with_the_same_preprocessing(
    detector: Path, clips: Path, tmp_path: Path
) -> None:
    judge = load_detector(detector, "cpu")
    settings = {
        name: getattr(judge.info, name).model_dump(mode="json")
        for name in ("preprocess", "sampling")
    }
    clip = sorted(clips.parent.glob("val/fake/*"))[0]
    rows = [
        dict.fromkeys(SCHEMA.names)
        | vars(crop)
        | {"image": crop.jpeg, "video_id": "v", "label": 0, "split": "val"}
        for crop in extract_crops(clip, judge.info.preprocess, judge.info.sampling).crops
    ]
    shard = write_shard(Folder(tmp_path), pa.Table.from_pylist(rows, schema=SCHEMA))
    records = [ClipRecord("v", "fake", split="val", crops=len(rows))]
    write_manifest(Folder(tmp_path), [shard], records, settings=settings)
    np.testing.assert_array_equal(find_crops(judge, tmp_path), find_crops(judge, clip))
    settings["preprocess"]["margin"] = 0.1
    write_manifest(Folder(tmp_path), [shard], records, settings=settings)
    with pytest.raises(UserError, match="preprocessing"):
        find_crops(judge, tmp_path)


def test_clips_without_a_face_are_refused(detector: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((120, 160, 3), 128, np.uint8))
    with pytest.raises(UserError, match="no face was found"):
        export(detector, tmp_path / "net.onnx", "onnx", tmp_path, Output(as_json=True))


def test_other_formats_are_refused(detector: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the formats are onnx"):
        export(detector, tmp_path / "net.pt", "torchscript", None, Output(as_json=True))
