from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn

from genconvit.checkpoint import Calibration, DetectorInfo
from genconvit.config import DecisionSettings, ModelSettings
from genconvit.data.crops import encode_crop
from genconvit.data.tensors import to_images
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import decide
from genconvit.explain import ClipEvidence, deciding, evidence_for, explain_crop
from genconvit.models.autoencoder import normalize
from genconvit.models.output import NetworkOutput
from genconvit.models.registry import build_from_settings
from genconvit.predict import Detector, load_detector, timeline_point
from genconvit.verdict import TimelinePoint, Verdict
from tests.conftest import small_settings
from tests.models.test_switches import MODELS

SIZE = 64
PATCH = (slice(16, 24), slice(40, 48))
"""Rows and columns of what the toy network looks at."""


class Toy(nn.Module):
    """Fake where one patch is bright, real where it is dark; the rest of the image is nothing.

    Its only backbone is a ConvNeXt whose stages do nothing, over a stem that pools 8x8 pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model(
            "convnext_atto", depths=[1, 1, 1, 1], dims=[4, 4, 4, 4], num_classes=0
        )
        self.backbone.stem = nn.AvgPool2d(8)
        self.backbone.stages = nn.Sequential(*[nn.Identity() for _ in range(4)])

    def forward(self, images_BCHW: Tensor, *, verdict_only: bool = False) -> NetworkOutput:
        map_BChw = self.backbone.stages(self.backbone.stem(images_BCHW))
        bright_B = map_BChw[:, :, 2, 5].mean(dim=1)
        return NetworkOutput(logits=torch.stack([bright_B, -bright_B], dim=1))


def detector_of(network: nn.Module, model: ModelSettings, **more: Any) -> Detector:
    of = small_settings()
    info = DetectorInfo(
        model=model, preprocess=of.preprocess, sampling=of.sampling, decision=of.decision, **more
    )
    return Detector(network.eval(), info, torch.device("cpu"))


@pytest.fixture(scope="module")
def toy() -> Detector:
    return detector_of(Toy(), small_settings().model)


def crop_with(patch: int, seed: int = 0) -> np.ndarray:
    """Noise of middle grey, with a patch."""
    crop = np.random.default_rng(seed).integers(60, 180, (SIZE, SIZE, 3), dtype=np.uint8)
    crop[PATCH] = patch
    return crop


@pytest.mark.parametrize(("patch", "side"), [(250, "FAKE"), (5, "REAL")])
def test_the_patch_that_decides_is_marked_and_the_check_says_so(
    toy: Detector, patch: int, side: str
) -> None:
    found = explain_crop(toy, crop_with(patch))
    assert found.findings.speaks_for == side
    assert (found.heat_HW.min(), found.heat_HW.max()) == (0, 1)
    marked = found.heat_HW > 0.5
    inside = np.zeros_like(marked)
    inside[PATCH] = True
    assert marked[inside].mean() > 0.5
    assert marked[~inside].mean() < 0.02
    check = found.findings.check
    assert check.passes
    assert check.deletion < check.random_deletion
    assert check.insertion > check.random_insertion
    assert "matter more than random ones" in check.sentence


@pytest.fixture(scope="module")
def nano(detector: Path) -> Detector:
    return load_detector(detector, "cpu")


def state_of(network: nn.Module) -> dict[str, Any]:
    return {
        "weights": {name: value.clone() for name, value in network.state_dict().items()},
        "modes": [module.training for module in network.modules()],
        "gradients": [p.grad is None for p in network.parameters()],
        "asked": [p.requires_grad for p in network.parameters()],
        "hooks": sum(len(module._forward_hooks) for module in network.modules()),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    weights = before.pop("weights"), after.pop("weights")
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert before == after
    assert before["hooks"] == 0
    assert all(before["gradients"])


def test_the_network_is_left_as_it_was(nano: Detector) -> None:
    before = state_of(nano.network)
    with torch.inference_mode():
        explain_crop(nano, crop_with(250), random_maps=2)
    assert_same(before, state_of(nano.network))


def test_the_network_is_left_as_it_was_when_it_fails(
    nano: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state_of(nano.network)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(nano.network.vae, "forward", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        explain_crop(nano, crop_with(250), random_maps=2)
    assert_same(before, state_of(nano.network))


def test_the_score_is_that_of_the_verdict(nano: Detector) -> None:
    crop = crop_with(250)
    warm = detector_of(nano.network, nano.info.model, calibration=Calibration(temperature=3.0))
    for detector in (nano, warm):
        rows = detector.logits(crop[None])[0]
        decision, temperature = detector.info.decision, detector.temperature
        point = timeline_point(0, 0.0, 0, (0, 0, 9, 9), rows, decision, temperature)
        findings = explain_crop(detector, crop, random_maps=2).findings
        assert findings.probability_fake == pytest.approx(point.probability_fake)
        assert findings.agreement.fused == findings.probability_fake


def test_the_same_crop_has_the_same_evidence_twice(nano: Detector) -> None:
    first, second = (explain_crop(nano, crop_with(250), random_maps=2) for _ in range(2))
    assert first.findings == second.findings
    np.testing.assert_array_equal(first.heat_HW, second.heat_HW)


@examples(max_examples=10)
@given(st.sampled_from(sorted(MODELS)).flatmap(MODELS.__getitem__), st.integers(0, 2**31 - 1))
def test_any_switches_can_be_explained(model: ModelSettings, seed: int) -> None:
    torch.manual_seed(seed)
    detector = detector_of(build_from_settings(model), model)
    size = model.image_size
    crop = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    found = explain_crop(detector, crop, random_maps=2)
    assert found.heat_HW.shape == (size, size)
    assert 0 <= found.heat_HW.min() <= found.heat_HW.max() <= 1
    original = model.arch == "original"
    expected = {"ed"} - ({"ed"} if original or model.net == "vae" else set())
    expected |= set() if model.net == "ed" else {"vae"}
    assert found.errors.keys() == found.findings.reconstruction_error.keys() == expected
    for name, error in found.errors.items():
        assert error.shape == (size, size)
        assert 0 <= error.min() <= error.max() <= 1
        mean = found.findings.reconstruction_error[name]
        assert error.mean() == pytest.approx(mean, abs=1e-6)
    agreement = found.findings.agreement
    heads = model.net == "genconvit" or (model.net == "v2" and model.aux_heads)
    assert (agreement.ed is not None) == (agreement.vae is not None) == heads
    assert (agreement.agree is not None) == heads
    assert (agreement.seams is not None) == model.seam_branch
    assert ("Seams alone" in agreement.sentence) == model.seam_branch


def test_errors_are_where_a_reconstruction_differs(nano: Detector, monkeypatch: Any) -> None:
    grey = torch.full((1, 3, SIZE, SIZE), 0.5)
    monkeypatch.setattr(
        nano.network.ed, "forward", lambda images: grey.expand(len(images), -1, -1, -1)
    )
    crop = np.full((SIZE, SIZE, 3), 128, np.uint8)
    crop[PATCH] = 255
    error_HW = explain_crop(nano, crop, random_maps=2).errors["ed"]
    assert error_HW[19:21, 43:45] == pytest.approx(0.5, abs=0.02)
    assert error_HW[50:, :20] == pytest.approx(0.0, abs=0.01)


class Heads(Toy):
    """The toy with branch heads that say what they are told."""

    def __init__(self, ed: float, vae: float) -> None:
        super().__init__()
        self.said = ed, vae

    def forward(self, images_BCHW: Tensor, *, verdict_only: bool = False) -> NetworkOutput:
        output = super().forward(images_BCHW)
        if not verdict_only:
            output.ed_logits, output.vae_logits = (
                torch.tensor([[logit, 0.0]]) for logit in self.said
            )
        return output


@pytest.mark.parametrize(
    ("ed", "vae", "agree", "words"),
    [
        (2.0, 1.0, True, "Both branches lean to FAKE, as the verdict does"),
        (2.0, -1.0, False, "The branches disagree: the variational branch leans to REAL"),
        (-2.0, 1.0, False, "The branches disagree: the autoencoder branch leans to REAL"),
        (-2.0, -1.0, False, "Both branches lean to REAL, against the fused head"),
    ],
)
def test_the_branches_are_compared(ed: float, vae: float, agree: bool, words: str) -> None:
    detector = detector_of(Heads(ed, vae), small_settings().model)
    agreement = explain_crop(detector, crop_with(250)).findings.agreement
    assert agreement.agree is agree
    assert agreement.sentence.startswith(words)
    assert agreement.ed == pytest.approx(1 / (1 + np.exp(-ed)))


def test_a_map_is_not_blamed_for_what_the_seams_say() -> None:
    """It is of the backbones. The check blurs places, and how sharp they are is what seams are."""
    torch.manual_seed(0)
    model = small_settings("model.seam_branch=true").model
    detector = detector_of(build_from_settings(model), model)
    crop, said = crop_with(250), detector.network.seams
    without = explain_crop(detector, crop).findings
    said.weight.fill_(0.5)
    here = said.measure(normalize(to_images(crop[None], torch.device("cpu"))))
    said.bias.fill_((1 if without.speaks_for == "FAKE" else -1) - 0.5 * float(here.sum()))
    fitted = explain_crop(detector, crop).findings
    assert fitted.speaks_for == without.speaks_for
    assert abs(fitted.probability_fake - without.probability_fake) > 0.1
    for name in ("gain", "spread", "whole", "blurred"):
        before = getattr(without.check, name)
        assert getattr(fitted.check, name) == pytest.approx(before, abs=1e-4), name


def test_a_crop_of_another_size_is_refused(nano: Detector) -> None:
    with pytest.raises(UserError, match=r"takes \(64, 64, 3\)"):
        explain_crop(nano, np.zeros((32, 32, 3), np.uint8))


def test_a_network_without_a_backbone_is_refused() -> None:
    detector = detector_of(nn.Linear(1, 1), small_settings().model)
    with pytest.raises(UserError, match="no ConvNeXt and no Swin"):
        explain_crop(detector, crop_with(250))


def verdict_of(tracks: dict[int, list[float]]) -> Verdict:
    points = [
        TimelinePoint(
            time_s=frame, frame_index=frame, track=track, box=(0, 0, 9, 9), probability_fake=p_fake
        )
        for track, scores in tracks.items()
        for frame, p_fake in enumerate(scores)
    ]
    return decide("c.mp4", points, 10, DecisionSettings())


def test_the_crops_that_decided_most_are_chosen_of_each_track() -> None:
    verdict = verdict_of({0: [0.1, 0.9, 0.95, 0.7], 1: [0.3, 0.1, 0.0, 0.2], 2: [0.1, 0.5, 0.9]})
    places = deciding(verdict, DecisionSettings())
    chosen = [(verdict.timeline[i].track, verdict.timeline[i].probability_fake) for i in places]
    assert chosen == [(0, 0.9), (0, 0.95), (1, 0.1), (1, 0.0), (2, 0.1), (2, 0.9)]


@given(
    st.dictionaries(st.integers(0, 9), st.lists(st.floats(0, 1), min_size=1, max_size=5)),
    st.integers(1, 3),
)
def test_no_crop_is_explained_twice_and_no_more_than_asked(
    tracks: dict[int, list[float]], count: int
) -> None:
    places = deciding(verdict_of(tracks), DecisionSettings(), count)
    assert len(places) == len(set(places))
    longest = sorted((len(scores) for scores in tracks.values()), reverse=True)[:4]
    assert len(places) == sum(min(count, crops) for crops in longest)


def test_a_clip_is_explained_by_its_crops(toy: Detector) -> None:
    verdict = verdict_of({0: [0.9, 0.95, 0.1]})
    jpegs = [encode_crop(crop_with(patch), 95) for patch in (230, 250, 5)]
    steps: list[int] = []
    found = evidence_for(toy, verdict, jpegs, count=1, advance=lambda: steps.append(1))
    assert [point.frame_index for point in found.points] == [1]
    assert found.crops[0].findings.probability_fake > 0.9
    assert steps == [1]
    assert found.sentence() == "The map passes its check on 1 of 1 crop."
    assert evidence_for(toy, verdict_of({}), []) == ClipEvidence([], [])
