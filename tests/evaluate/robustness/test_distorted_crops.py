from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from genconvit.config import PreprocessSettings, SamplingSettings
from genconvit.data.crops import ClipCrops, Crop, extract_crops
from genconvit.data.faces import Face, WholeFrame
from genconvit.errors import ClipError
from genconvit.evaluate.robustness.distorted_crops import distorted_crops
from genconvit.evaluate.robustness.distortions import CLEAN, Condition

WHOLE = PreprocessSettings(size=64, detector="none")
SAMPLING = SamplingSettings(frames=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clip as a folder of four frames."""
    rng = np.random.default_rng(0)
    for number in range(4):
        frame = cv2.resize(rng.integers(40, 200, (12, 16, 3), np.uint8), (160, 120))
        cv2.imwrite(str(tmp_path / f"{number}.png"), frame)
    return tmp_path


def crops_of(found: dict[Condition, ClipCrops | str], condition: Condition) -> list[Crop]:
    crops = found[condition]
    assert isinstance(crops, ClipCrops)
    return crops.crops


def test_the_clip_as_it_is_gives_the_crops_of_every_other_path(clips: Path) -> None:
    clip = sorted(clips.parent.glob("val/real/*"))[0]
    preprocess = PreprocessSettings(size=64)
    found = distorted_crops(clip, "a", preprocess, SAMPLING, [Condition("jpeg", 100)])
    assert found[CLEAN] == extract_crops(clip, preprocess, SAMPLING)
    assert found[CLEAN] != found[Condition("jpeg", 100)]


def test_each_distortion_acts_where_it_says(folder: Path) -> None:
    dark, shift, drop = (
        Condition("darker", 0.1),
        Condition("crop_shift", 0.3),
        Condition("frame_drop", 0.5),
    )
    h264 = Condition("h264", 23)
    found = distorted_crops(folder, "a", WHOLE, SAMPLING, [dark, shift, drop, h264])
    clean = crops_of(found, CLEAN)

    def brightness(crop: Crop) -> float:
        return float(cv2.imdecode(np.frombuffer(crop.jpeg, np.uint8), cv2.IMREAD_COLOR).mean())

    for before, after in zip(clean, crops_of(found, dark), strict=True):
        assert brightness(after) == pytest.approx(0.1 * brightness(before), abs=1)
        assert after.box == before.box
    for before, after in zip(clean, crops_of(found, shift), strict=True):
        assert after.box != before.box
        assert after.jpeg != before.jpeg
    dropped = found[drop]
    assert isinstance(dropped, ClipCrops)
    assert dropped.frames_sampled == dropped.frames_with_face == 2
    assert set(dropped.crops) < set(clean)
    assert "folder of frames" in str(found[h264])


def test_faces_are_looked_for_in_the_distorted_frames(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SeesBright:
        def detect(self, image_HWC: np.ndarray) -> list[Face]:
            return [] if image_HWC.mean() < 60 else WholeFrame().detect(image_HWC)

    monkeypatch.setattr(
        "genconvit.evaluate.robustness.distorted_crops.build_face_detector", lambda _: SeesBright()
    )
    found = distorted_crops(folder, "a", WHOLE, SAMPLING, [Condition("darker", 0.1)])
    lost = found[Condition("darker", 0.1)]
    assert isinstance(lost, ClipCrops)
    assert (lost.crops, lost.frames_sampled, lost.frames_with_face) == ([], 4, 0)


def test_a_seed_repeats_itself_and_another_does_not(folder: Path) -> None:
    wanted = [Condition("noise", 0.1, seed) for seed in (0, 1)]
    first, again = (distorted_crops(folder, "a", WHOLE, SAMPLING, wanted) for _ in range(2))
    assert first == again
    assert first[wanted[0]] != first[wanted[1]]


def test_a_clip_that_cannot_be_decoded_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("Dear reader")
    with pytest.raises(ClipError):
        distorted_crops(tmp_path / "a.mp4", "a", WHOLE, SAMPLING, [])
