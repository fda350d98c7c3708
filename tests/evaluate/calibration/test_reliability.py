from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from genconvit.evaluate.calibration.reliability import (
    calibration_error,
    reliability_bins,
    reliability_figure,
)
from genconvit.evaluate.score_metrics import ECE_BINS, score_metrics

CLIPS = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=60)


@given(CLIPS)
def test_bins_are_those_of_scikit_learn(clips: list[tuple[bool, float]]) -> None:
    is_fake, p_fake = map(np.array, zip(*clips, strict=True))
    bins = reliability_bins(is_fake, p_fake)
    share, mean = calibration_curve(is_fake, p_fake, n_bins=ECE_BINS)
    np.testing.assert_allclose(bins.share_fake, share)
    np.testing.assert_allclose(bins.mean_p_fake, mean, atol=1e-12)
    assert bins.clips.sum() == len(clips)
    assert bins.fakes.sum() == is_fake.sum()
    assert calibration_error(is_fake, p_fake) == pytest.approx(score_metrics(is_fake, p_fake).ece)


@given(CLIPS, st.integers(1, 5))
def test_a_clip_of_double_weight_counts_as_two(clips: list[tuple[bool, float]], times: int) -> None:
    is_fake, p_fake = map(np.array, zip(*clips, strict=True))
    weights = np.where(is_fake, times, 1)
    repeated = calibration_error(np.repeat(is_fake, weights), np.repeat(p_fake, weights))
    assert calibration_error(is_fake, p_fake, weights) == pytest.approx(repeated)


def test_known_probabilities_have_a_small_error_and_biased_ones_their_bias() -> None:
    rng = np.random.default_rng(0)
    p_fake = rng.uniform(0.2, 0.8, 20_000)
    is_fake = rng.random(20_000) < p_fake
    assert calibration_error(is_fake, p_fake) < 0.02
    assert calibration_error(is_fake, p_fake + 0.2) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("clips", [1, 200])
def test_the_figure_is_drawn(clips: int, tmp_path: Path) -> None:
    p_fake = np.linspace(0, 1, clips)
    is_fake = np.random.default_rng(0).random(clips) < p_fake
    figure = reliability_figure(is_fake, p_fake, "Test clips")
    assert figure.axes[0].get_title(loc="left").startswith("Test clips, calibration error 0.")
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == clips
    line = figure.axes[0].lines[1]
    assert len(line.get_xdata()) == len(reliability_bins(is_fake, p_fake).clips)  # type: ignore[arg-type]
