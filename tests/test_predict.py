from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.special import expit

from genconvit import build_network, load_detector
from genconvit.checkpoint import DetectorInfo
from genconvit.config import DecisionSettings, SamplingSettings
from genconvit.data.crops import decode_crop, extract_crops
from genconvit.data.tensors import to_images
from genconvit.data.video import sample_frames
from genconvit.errors import ClipError, UserError
from genconvit.models.autoencoder import normalize
from genconvit.predict import Detector
from tests.conftest import small_settings


@pytest.fixture(scope="module")
def judge(detector: Path) -> Detector:
    return load_detector(detector, "cpu")


@pytest.fixture(scope="module")
def clip(clips: Path) -> Path:
    return sorted(clips.parent.glob("test/real/*"))[0]


def test_a_verdict_is_the_mean_of_its_timeline(judge: Detector, clip: Path) -> None:
    verdict = judge.judge(clip)
    assert verdict.frames_sampled == 4
    scores = [point.probability_fake for point in verdict.timeline]
    assert verdict.probability_fake == pytest.approx(np.mean(scores))


def test_the_same_clip_gets_the_same_verdict_twice(judge: Detector, clip: Path) -> None:
    assert judge.judge(clip) == judge.judge(clip)


def test_crops_are_scored_as_they_would_be_from_shards(judge: Detector, clip: Path) -> None:
    verdict, jpegs = judge.judge_with_crops(clip)
    stored = extract_crops(clip, judge.info.preprocess, judge.info.sampling)
    assert jpegs == [crop.jpeg for crop in stored.crops]
    logits = torch.from_numpy(judge.logits(np.stack([decode_crop(jpeg, 64) for jpeg in jpegs])))
    scores = logits.mean(dim=1).softmax(dim=1)[:, 0]
    expected = [point.probability_fake for point in verdict.timeline]
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_the_size_of_a_pass_does_not_change_the_scores(judge: Detector) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    np.testing.assert_allclose(judge.logits(crops, 2), judge.logits(crops, 5), atol=1e-5)


def test_a_clip_goes_through_the_network_in_passes_of_the_asked_size(
    judge: Detector, clip: Path
) -> None:
    found = extract_crops(clip, judge.info.preprocess, SamplingSettings(frames=8))
    many = replace(found, crops=found.crops * 6)  # more than a pass has by default
    sizes: list[int] = []
    hook = judge.network.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    judge.judge_crops("clip", many, batch_size=40)
    hook.remove()
    assert sizes == [40, 8]


def test_the_asked_frames_are_looked_at(judge: Detector, clip: Path) -> None:
    verdict = judge.judge(clip, sampling=SamplingSettings(frames=2))
    assert verdict.frames_sampled == 2


@pytest.fixture(scope="module")
def long_clip(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clip's 8 frames five times over."""
    frames = [frame.image_HWC for frame in sample_frames(clip, SamplingSettings(frames=8))]
    path = tmp_path_factory.mktemp("long") / "long.avi"
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (width, height))
    for image_HWC in frames * 5:
        writer.write(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def test_the_published_aggregation_looks_and_decides_as_published(
    judge: Detector, long_clip: Path
) -> None:
    clip, published = long_clip, DecisionSettings(aggregation="original")
    verdict = judge.judge(clip, decision=published)
    frames = [point.frame_index for point in verdict.timeline]
    assert frames == np.linspace(0, 39, 15).astype(int).tolist()
    m0, m1 = np.mean([point.sigmoids for point in verdict.timeline], axis=0)
    assert verdict.verdict == ("FAKE" if m0 > m1 else "REAL")
    assert verdict.probability_fake == pytest.approx(m0 if m0 > m1 else 1 - m1)
    few = judge.judge(clip, decision=published, sampling=SamplingSettings(frames=2))
    assert few.frames_sampled == 2


def test_both_published_networks_have_a_say_in_each_crop() -> None:
    settings = small_settings("model.arch=original")
    torch.manual_seed(0)
    info = DetectorInfo(
        model=settings.model,
        preprocess=settings.preprocess,
        sampling=settings.sampling,
        decision=settings.decision,
    )
    network = build_network("original", preset="nano").eval()
    detector = Detector(network, info, torch.device("cpu"))
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    logits_BRK = detector.logits(crops)
    assert logits_BRK.shape == (3, 2, 2)
    with torch.no_grad():
        output = network(normalize(to_images(crops, torch.device("cpu"))))
    np.testing.assert_array_equal(logits_BRK[:, 0], output.ed_logits.double())
    np.testing.assert_array_equal(logits_BRK[:, 1], output.vae_logits.double())


def test_a_file_that_is_no_clip_is_refused(judge: Detector, tmp_path: Path) -> None:
    path = tmp_path / "letter.mp4"
    path.write_text("Dear reader")
    with pytest.raises(ClipError, match=r"letter\.mp4"):
        judge.judge(path)


def test_a_clip_without_a_face_is_undecided(judge: Detector, shared: Path) -> None:
    verdict = judge.judge(shared / "data/edge/no_face.mp4")
    assert verdict.verdict == "UNDECIDED"
    assert verdict.probability_fake is None
    assert "no face" in verdict.reason


def test_all_of_many_faces_are_judged(judge: Detector, shared: Path) -> None:
    verdict = judge.judge(shared / "data/edge/street_multi_face.mp4")
    assert len(verdict.tracks) > 1
    assert {point.track for point in verdict.timeline} == {t.track for t in verdict.tracks}


def test_cuda_where_there_is_none_is_refused(detector: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(UserError, match="no CUDA GPU"):
        load_detector(detector, "cuda")


def test_the_public_names_need_no_ray() -> None:
    code = (
        "import sys, genconvit\n"
        "assert 'torch' not in sys.modules\n"
        "genconvit.build_network, genconvit.load_detector\n"
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_any_variant_can_be_built() -> None:
    network = build_network("v2", preset="nano", attention=False, fusion="sum")
    assert network is not None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_the_fast_way_gives_nearly_the_same_scores(judge: Detector, detector: Path) -> None:
    fast = load_detector(detector, "cuda", fast=True)
    assert fast.dtype == torch.bfloat16
    size = judge.info.model.image_size
    crops_BHWC = np.random.default_rng(0).integers(0, 256, (40, size, size, 3), np.uint8)
    logits = [one.logits(crops_BHWC, 16).mean(axis=1) for one in (judge, fast)]
    p_fakes = [expit(each[:, 0] - each[:, 1]) for each in logits]
    assert np.abs(p_fakes[0] - p_fakes[1]).max() < 0.02


def test_a_cpu_knows_no_fast_way(judge: Detector, detector: Path, clip: Path) -> None:
    assert load_detector(detector, "cpu", fast=True).judge(clip) == judge.judge(clip)
