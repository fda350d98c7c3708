"""Drift as Prometheus reads it, computed whenever it asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from genconvit.reference import SCALES
from serve.watching.drift import Drift, Window

TEXTS = {
    "clip_score": "Mean P(fake) of a clip's crops, without calibration.",
    "crop_score": "P(fake) of a crop, without calibration.",
    "brightness": "Mean luma of a crop.",
    "contrast": "Standard deviation of a crop's luma.",
    "sharpness": "Logarithm of 1 + the variance of a crop's Laplacian.",
    "face_size": "Shorter side of a face in its frame, pixels.",
}


class DriftCollector(Collector):
    """Exports the drift of each detector.

    Args:
        drifts: By the detector's name; may change.
    """

    def __init__(self, drifts: Mapping[str, Drift]) -> None:
        self._drifts = drifts

    def collect(self) -> Iterator[Metric]:
        """The indices that rest on enough, and what has been counted."""
        score = GaugeMetricFamily(
            "genconvit_score_psi",
            "Distance of clip scores from validation.",
            labels=["model"],
        )
        crop = GaugeMetricFamily(
            "genconvit_crop_psi",
            "Distance of a statistic of crops from validation.",
            labels=["model", "statistic"],
        )
        clips = GaugeMetricFamily(
            "genconvit_drift_clips", "Clips that the score's distance rests on.", labels=["model"]
        )
        for model, drift in self._drifts.items():
            clips.add_metric([model], drift.windows["clip_score"].clips)
            for name, index in drift.psi().items():
                if name == "clip_score":
                    score.add_metric([model], index)
                else:
                    crop.add_metric([model, name], index)
        yield from (score, crop, clips)
        for name in SCALES:
            kind = name if "_" in name else f"crop_{name}"
            family = HistogramMetricFamily(f"genconvit_{kind}", TEXTS[name], labels=["model"])
            for model, drift in self._drifts.items():
                window = drift.windows[name]
                family.add_metric([model], _buckets(window), sum_value=window.total)
            yield family


def _buckets(window: Window) -> list[tuple[str, float]]:
    """Upper borders and how many values lie below; the last bin has no border."""
    borders = [f"{edge:.6g}" for edge in window.scale.edges[1:-1]]
    return list(zip([*borders, "+Inf"], np.cumsum(window.counts).tolist(), strict=True))
