"""The crops of a clip as it is and under every distortion, from one pass over its frames."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from genconvit.config import PreprocessSettings, SamplingSettings
from genconvit.data.crops import ClipCrops, Crop, CropCounts, FaceCutter, extract_crops
from genconvit.data.detectors import build_face_detector
from genconvit.data.faces import Face, FaceDetector
from genconvit.data.video import Frame, sample_frames
from genconvit.errors import ClipError
from genconvit.evaluate.robustness.distortions import (
    BY_NAME,
    CLEAN,
    Condition,
    Distortion,
    kept_frames,
    shift_face,
)
from genconvit.evaluate.robustness.h264 import encode_h264


def distorted_crops(
    path: Path,
    name: str,
    preprocess: PreprocessSettings,
    sampling: SamplingSettings,
    wanted: Sequence[Condition],
) -> dict[Condition, ClipCrops | str]:
    """Crops the faces of a clip under each condition.

    The clip is decoded once, and encoded for each level of H.264; of its frames, one at a time is
    kept. Faces are found anew in every distorted frame.

    Args:
        path: Video, folder of frames, or still image.
        name: The clip's name, which with a condition's seed decides what is random.
        preprocess: From a frame to a crop.
        sampling: Which frames.
        wanted: The conditions; the clip as it is comes with them.

    Returns:
        For each condition the crops, or why there are none: H.264 is for videos alone.

    Raises:
        ClipError: The clip as it is cannot be decoded.
    """
    kinds = {each: BY_NAME[each.distortion] for each in wanted if each != CLEAN}
    passed = [each for each, kind in kinds.items() if kind.acts_on in ("frames", "boxes")]
    running = [_Running(each, kinds.get(each), name, preprocess) for each in (CLEAN, *passed)]
    detector = build_face_detector(preprocess)
    frames = []
    for frame in sample_frames(path, sampling):
        frames.append(frame.index)
        faces = detector.detect(frame.image_HWC)
        for each in running:
            each.take(frame, faces, detector)
    found: dict[Condition, ClipCrops | str] = {each.condition: each.found() for each in running}
    for condition, kind in kinds.items():
        if kind.acts_on == "sampling":
            kept = kept_frames(frames, condition.level, condition.generator(name))
            found[condition] = _only(running[0].found(), kept)
        elif kind.acts_on == "file":
            found[condition] = _encoded(path, condition.level, preprocess, sampling)
    return found


class _Running:
    """A condition at work on the frames of a clip."""

    def __init__(
        self,
        condition: Condition,
        kind: Distortion | None,
        clip: str,
        preprocess: PreprocessSettings,
    ) -> None:
        self.condition = condition
        self._kind = kind
        self._rng = condition.generator(clip)
        self._counts = CropCounts()
        self._cutter = FaceCutter(preprocess, self._counts)
        self._crops: list[Crop] = []

    def take(self, frame: Frame, faces: list[Face], detector: FaceDetector) -> None:
        """The next frame as it is, and its faces."""
        self._crops += self._cut(frame, faces, detector)

    def found(self) -> ClipCrops:
        """The crops so far."""
        counts = self._counts
        return ClipCrops(
            self._crops, counts.frames_sampled, counts.frames_with_face, counts.removed
        )

    def _cut(self, frame: Frame, faces: list[Face], detector: FaceDetector) -> Iterator[Crop]:
        level = self.condition.level
        if self._kind is not None and self._kind.on_frame is not None:
            image_HWC = self._kind.on_frame(frame.image_HWC, level, self._rng)
            frame, faces = replace(frame, image_HWC=image_HWC), detector.detect(image_HWC)
        elif self._kind is not None:
            faces = [shift_face(face, level, self._rng) for face in faces]
        return self._cutter.cut(frame, faces)


def _only(found: ClipCrops, frames: list[int]) -> ClipCrops:
    """The crops of some of the frames; what filters removed is not known of them."""
    wanted = set(frames)
    crops = [crop for crop in found.crops if crop.frame_index in wanted]
    return ClipCrops(crops, len(frames), len({crop.frame_index for crop in crops}))


def _encoded(
    path: Path, crf: float, preprocess: PreprocessSettings, sampling: SamplingSettings
) -> ClipCrops | str:
    with tempfile.TemporaryDirectory(prefix="genconvit-") as folder:
        copy = Path(folder) / "clip.mp4"
        try:
            encode_h264(path, copy, crf)
            return extract_crops(copy, preprocess, sampling)
        except ClipError as error:
            return str(error).replace(str(copy), f"{path} at CRF {crf:g}")
