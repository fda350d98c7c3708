from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from genconvit.evaluate.evidence.figure import (
    error_picture,
    error_scale,
    jpeg,
    legend_strip,
    overlay,
    write_evidence,
)
from genconvit.evaluate.evidence.map_check import MapCheck
from genconvit.explain import (
    BranchAgreement,
    ClipEvidence,
    CropEvidence,
    CropFindings,
)
from genconvit.verdict import TimelinePoint

CHECK = MapCheck(
    passes=True,
    gain=0.3,
    spread=0.1,
    insertion=0.8,
    deletion=0.4,
    random_insertion=0.6,
    random_deletion=0.5,
    random_maps=10,
    whole=0.9,
    blurred=0.4,
    sentence="They matter.",
)


def evidence(*, errors: bool = True) -> CropEvidence:
    rng = np.random.default_rng(0)
    crop = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    error = np.full((64, 64), 0.2, np.float32)
    agreement = BranchAgreement(fused=0.9, ed=0.8, vae=0.7, agree=True, sentence="They agree.")
    findings = CropFindings(
        probability_fake=0.9,
        speaks_for="FAKE",
        reconstruction_error={"ed": 0.2, "vae": 0.2} if errors else {},
        agreement=agreement,
        check=CHECK,
    )
    heat = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    return CropEvidence(findings, crop, heat, {"ed": error, "vae": 2 * error} if errors else {})


def test_what_is_not_marked_is_the_bare_crop_in_grey() -> None:
    crop = evidence().crop_HWC
    bare = overlay(crop, np.zeros((64, 64)))
    np.testing.assert_array_equal(bare[:, :, 0], cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY))
    marked = overlay(crop, np.ones((64, 64)))
    assert np.abs(marked.astype(int) - bare).mean() > 50


def brightness(image_HWC: np.ndarray) -> np.ndarray:
    return image_HWC[8] @ np.array([0.2126, 0.7152, 0.0722])


def test_errors_grow_brighter_so_that_no_colour_need_be_told_from_another() -> None:
    strip = brightness(legend_strip("error"))
    assert (np.diff(strip) > -1.5).all()
    assert strip[-1] > strip[0] + 100
    beyond = error_picture(np.full((4, 4), 9.0), 1.0)
    np.testing.assert_array_equal(beyond[0, 0], legend_strip("error")[0, -1])


def test_both_branches_share_a_scale() -> None:
    assert error_scale([evidence()]) == pytest.approx(0.4)
    assert error_scale([evidence(errors=False)]) > 0


def test_small_pictures_are_enlarged() -> None:
    decoded = cv2.imdecode(np.frombuffer(jpeg(evidence().crop_HWC), np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (224, 224, 3)


@pytest.mark.parametrize("errors", [True, False])
def test_a_picture_a_crop_is_written_under_a_name_that_any_disk_takes(
    tmp_path: Path, errors: bool
) -> None:
    point = TimelinePoint(
        time_s=1.5, frame_index=30, track=1, box=(0, 0, 9, 9), probability_fake=0.9
    )
    crop = evidence(errors=errors)
    name = "../a b/$x$ ü:1.mp4"
    [written] = write_evidence(tmp_path, name, ClipEvidence([point], [crop]))
    assert (tmp_path / written).resolve().parent == tmp_path / "evidence"
    assert written.endswith("-track1-frame30.png")
    image = cv2.imread(str(tmp_path / written))
    assert image is not None and image.std() > 10


def test_no_picture_takes_the_place_of_that_of_another_clip(tmp_path: Path) -> None:
    point = TimelinePoint(
        time_s=1.5, frame_index=30, track=1, box=(0, 0, 9, 9), probability_fake=0.9
    )
    deep = "/".join(["folder"] * 20)
    clips = ["a/b.mp4", "a b.mp4", "a_b.mp4", f"one/{deep}/1.mp4", f"two/{deep}/1.mp4"]
    found = [write_evidence(tmp_path, clip, ClipEvidence([point], [evidence()])) for clip in clips]
    assert len({name for names in found for name in names}) == len(clips)
    assert found[0] == write_evidence(tmp_path, clips[0], ClipEvidence([point], [evidence()]))
