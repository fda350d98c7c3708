"""Distorting and cropping a clip in a Ray task.

Nothing here imports torch, which would take seconds and much memory in every process that crops.
"""

from __future__ import annotations

import pickle
from typing import Any

from genconvit.config import PreprocessSettings, SamplingSettings
from genconvit.errors import ClipError
from genconvit.evaluate.robustness.distorted_crops import distorted_crops
from genconvit.evaluate.robustness.distortions import Condition
from genconvit.evaluate.robustness.h264 import missing_h264
from ray_jobs.extract_tasks import local_copy


def missing_encoder() -> str:
    """Why H.264 cannot be encoded where clips are cropped; empty where it can."""
    return missing_h264()


def crop_distorted(
    batch: dict[str, Any],
    preprocess: PreprocessSettings,
    sampling: SamplingSettings,
    wanted: list[Condition],
) -> dict[str, Any]:
    """The crops of one clip under each condition, or why there are none."""
    name, found, failure = batch["name"][0], None, ""
    try:
        with local_copy(batch["path"][0]) as path:
            found = distorted_crops(path, name, preprocess, sampling, wanted)
    except ClipError as error:
        failure = str(error)
    except Exception as error:  # one clip that breaks a library must not end the others
        failure = f"{type(error).__name__}: {error}"
    return {"name": [name], "crops": [pickle.dumps(found)], "failure": [failure]}
