from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genconvit.data.clip import Clip
from genconvit.data.video import sample_frames
from genconvit.errors import UserError
from genconvit.evaluate.localisation.splice import (
    EVERY_FRAME,
    SwapPair,
    splice_clips,
    swap_pairs,
    write_splices,
)

FPS = 20.0


def plain_clip(
    path: Path, shade: int, frames: int = 60, size: tuple[int, int] = (64, 48), fps: float = FPS
) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
    for _ in range(frames):
        writer.write(np.full((size[1], size[0], 3), shade, np.uint8))
    writer.release()
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_clip(tmp_path_factory.mktemp("real") / "real.avi", 200)


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shorter, of another size and half the frame rate."""
    return plain_clip(tmp_path_factory.mktemp("fake") / "fake.avi", 40, 25, (96, 72), FPS / 2)


def shades(path: Path) -> list[int]:
    return [round(float(frame.image_HWC.mean())) for frame in sample_frames(path, EVERY_FRAME)]


def test_frames_are_forged_exactly_where_the_truth_says(
    real: Path, fake: Path, tmp_path: Path
) -> None:
    made = splice_clips(real, fake, [0.5, 1.25, 2.0], tmp_path / "deep" / "a.avi")
    assert made.forged == ((0.5, 1.25), (2.0, made.duration_s))
    assert made.duration_s == pytest.approx(2.5, abs=0.1)
    found = list(sample_frames(made.path, EVERY_FRAME))
    assert len(found) == round(made.duration_s * FPS)
    assert found[0].image_HWC.shape == (48, 64, 3)
    for frame in found:
        middle = frame.index / FPS + 1e-6
        forged = any(start <= middle < end for start, end in made.forged)
        assert abs(frame.image_HWC.mean() - (40 if forged else 200)) < 4


@pytest.mark.parametrize("cuts", [[0.0, 1.0], [1.0, 0.5], [1.0, 1.0], [1.0, 9.0]])
def test_cuts_that_do_not_fit_are_refused(
    real: Path, fake: Path, tmp_path: Path, cuts: list[float]
) -> None:
    with pytest.raises(UserError, match=r"cuts at .* do not fit .*real\.avi"):
        splice_clips(real, fake, cuts, tmp_path / "a.avi")
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("still") / "still.png"
    cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    return path


@given(seed=st.integers(0, 2**32 - 1))
def test_every_splice_is_real_forged_real(
    real: Path, fake: Path, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    [made], failures = write_splices(
        [SwapPair(real, fake)], tmp_path_factory.mktemp("splices"), seed
    )
    assert failures == []
    [(start, end)] = made.forged
    assert 0 < start < end < made.duration_s
    assert 0.25 < (end - start) / made.duration_s < 0.65


def test_what_cannot_be_spliced_is_told_and_the_rest_is_made(
    real: Path, fake: Path, still: Path, tmp_path: Path
) -> None:
    made, failures = write_splices([SwapPair(still, fake), SwapPair(real, fake, "g")], tmp_path)
    assert [(clip.path.name, clip.group) for clip in made] == [("001_fake.avi", "g")]
    [failure] = failures
    assert "still.png" in failure


def test_a_fake_clip_goes_with_the_real_one_that_looks_like_it(tmp_path: Path) -> None:
    shade = {"real/a": 60, "real/b": 200, "fake/a1": 70, "fake/b1": 190, "fake/alone": 60}
    clips = []
    for name, value in shade.items():
        path = tmp_path / f"{name.replace('/', '_')}.avi"
        label = name.split("/")[0]
        group = "other" if "alone" in name else "g"
        clips.append(Clip(plain_clip(path, value, 2), name, label=label, group=group))
    (tmp_path / "broken.avi").write_text("no clip")
    clips.append(Clip(tmp_path / "broken.avi", "broken", label="fake", group="g"))
    pairs = [(real.stem, fake.stem, group) for real, fake, group in swap_pairs(clips)]
    assert pairs == [("real_a", "fake_a1", "g"), ("real_b", "fake_b1", "g")]
