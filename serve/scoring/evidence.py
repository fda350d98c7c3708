"""Evidence as pictures that fit into an answer."""

from __future__ import annotations

import numpy as np

from genconvit.answers import Evidence
from genconvit.evaluate.evidence.figure import error_picture, error_scale, jpeg, overlay
from genconvit.evaluate.pages import data_uri
from genconvit.explain import explain_crop
from genconvit.predict import Detector
from genconvit.verdict import TimelinePoint


def evidence_of(
    detector: Detector, crops_NHWC: np.ndarray, points: list[TimelinePoint]
) -> list[Evidence]:
    """Why crops are judged as they are.

    Args:
        detector: What judged them.
        crops_NHWC: uint8 RGB (N, S, S, 3), as the network takes them.
        points: Their points of the timeline.
    """
    found = [explain_crop(detector, crop_HWC) for crop_HWC in crops_NHWC]
    scale = error_scale(found)
    return [
        Evidence(
            track=point.track,
            time_s=point.time_s,
            frame_index=point.frame_index,
            probability_fake=point.probability_fake,
            crop=_embedded(crop.crop_HWC),
            heat=_embedded(overlay(crop.crop_HWC, crop.heat_HW)),
            errors={
                branch: _embedded(error_picture(error, scale))
                for branch, error in crop.errors.items()
            },
            means_something=crop.findings.check.passes,
            sentence=f"{crop.findings.check.sentence} {crop.findings.agreement.sentence}",
        )
        for point, crop in zip(points, found, strict=True)
    ]


def _embedded(image_HWC: np.ndarray) -> str:
    return data_uri(jpeg(image_HWC), "image/jpeg")
