"""A detector's network as an ONNX file, for machines without PyTorch."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genconvit.checkpoint import library_versions
from genconvit.config import DecisionSettings
from genconvit.errors import UserError
from genconvit.evaluate.aggregate import crop_probability
from genconvit.files import replaced_file
from genconvit.models.autoencoder import normalize
from genconvit.predict import Detector

FORMATS = ("onnx",)
OUTPUTS = ("logits", "probability_fake")
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-3
"""Of logits and P(fake). Float32 in another order differs by 1e-6 to 1e-5."""
LARGEST = 2**31 - 2**24
"""Bytes of weights in one file: protobuf ends at 2 GiB, and the graph takes some."""
BATCHES = (1, 5)
"""Crops of the first passes of the comparison; one more pass takes the rest."""
ENOUGH = 8
"""Crops that make passes of three sizes."""
NORMALISATION = "inside the graph: give pixels in [0, 1], with no mean and deviation applied"


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how near its answers are to the detector's."""

    path: Path
    bytes: int
    crops: int
    """Crops that both judged."""
    logits_difference: float
    """Largest absolute difference of a logit."""
    probability_difference: float
    """Largest absolute difference of P(fake)."""
    opset: int
    onnxruntime: str
    """Version of the runtime that answered."""


def check_format(format: str) -> None:
    """Refuses what cannot be exported here, before any work is done.

    Raises:
        UserError: There is no such format, or its packages are not installed.
    """
    if format not in FORMATS:
        raise UserError(f"--format {format}: the formats are {', '.join(FORMATS)}.")
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"an ONNX export needs {', '.join(missing)}; run pip install 'genconvit[export]'."
        )


def export_onnx(
    detector: Detector, out: Path, crops_BHWC: np.ndarray, *, tolerance: float = TOLERANCE
) -> ExportReport:
    """Writes a detector's network as one ONNX file that is known to answer as the detector does.

    The graph takes `images`, float32 (batch, 3, S, S), RGB in [0, 1]; the normalisation is inside.
    It gives `logits` (batch, 2) for (fake, real) and `probability_fake` (batch,), the softmax of
    the logits over the temperature; with `net` genconvit also `ed_logits` and `vae_logits`, of
    which the published aggregation is made. The file's metadata says how crops are made.

    Args:
        detector: What to export.
        out: The file. An older one is replaced, and only when all went well.
        crops_BHWC: uint8 RGB (B, S, S, 3), at least one: what detector and file are compared by.
        tolerance: Largest difference of a logit or of P(fake).

    Raises:
        UserError: A package is missing, the network is too large or cannot be written as ONNX, or
            the file's answers are not the detector's.
    """
    check_format("onnx")
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file, such as {out / 'detector.onnx'}.")
    _refuse_too_large(detector)
    import onnx
    import onnxruntime

    with replaced_file(out) as aside, _silence():
        _write(detector, aside)
        onnx.checker.check_model(str(aside))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors: it writes past Python's stderr
        session = onnxruntime.InferenceSession(
            str(aside), options, providers=["CPUExecutionProvider"]
        )
        logits, p_fake = _differences(detector, session, crops_BHWC)
        if not max(logits, p_fake) <= tolerance:
            raise UserError(
                f"the ONNX file's logits differ from the detector's by up to {logits:.1e} and its "
                f"P(fake) by {p_fake:.1e}, more than {tolerance:g}, so {out} was not written; try "
                "other versions of onnxscript and onnxruntime."
            )
        opsets = onnx.load(str(aside), load_external_data=False).opset_import
    return ExportReport(
        path=out,
        bytes=out.stat().st_size,
        crops=len(crops_BHWC),
        logits_difference=logits,
        probability_difference=p_fake,
        opset=next(opset.version for opset in opsets if opset.domain == ""),
        onnxruntime=onnxruntime.__version__,
    )


class _Exported(nn.Module):
    """From pixels to P(fake): what the graph computes."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.network = detector.network
        self.temperature = _temperature(detector)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """RGB in [0, 1] (B, 3, S, S) to logits (B, 2), P(fake) (B,) and both networks' logits."""
        output = self.network(normalize(images), verdict_only=True)
        p_fake_B = (output.logits / self.temperature).softmax(dim=1)[:, 0]
        rows = (output.logits, p_fake_B, output.ed_logits, output.vae_logits)
        return tuple(row for row in rows if row is not None)


def _write(detector: Detector, path: Path) -> None:
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    size = detector.info.model.image_size
    example_BCHW = torch.zeros(2, 3, size, size, device=detector.device)
    both = ("ed_logits", "vae_logits") if detector.info.model.net == "genconvit" else ()
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                _Exported(detector).eval(),
                (example_BCHW,),
                dynamo=True,
                input_names=["images"],
                output_names=[*OUTPUTS, *both],
                # A name, not a torch.export.Dim: where tracing adds conditions to a Dim, the
                # exporter quietly fixes the batch's size.
                dynamic_shapes={"images": {0: "batch"}},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise UserError(
            f"this network cannot be written as ONNX ({reason}); try another torch or backbone."
        ) from error
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # stack traces, with this machine's paths
    program.model.metadata_props.update(_metadata(detector))
    program.model.doc_string = (
        f"Deepfake detector {detector.info.id} of genconvit: face crops to P(fake). The metadata "
        "says how crops are made, and how a clip's verdict is made of theirs."
    )
    [images] = program.model.graph.inputs
    images.doc_string = f"Face crops, RGB in [0, 1]; the normalisation is {NORMALISATION}."
    logits, p_fake, *rows = program.model.graph.outputs
    logits.doc_string = "For (fake, real)."
    p_fake.doc_string = "softmax(logits / temperature)[:, 0]"
    for row in rows:
        row.doc_string = "Of one network, for (fake, real); logits is the mean of both."
    program.save(str(path), external_data=False)


def _metadata(detector: Detector) -> dict[str, str]:
    """What a program needs to feed the graph, and a person to know it; ONNX takes texts alone."""
    info = detector.info
    size = info.model.image_size
    facts = {
        "project": "genconvit",
        "project_version": version("genconvit"),
        "detector": info.id,
        "weights_sha256": info.weights_sha256,
        "classes": info.classes,
        "input": f"images: float32 (batch, 3, {size}, {size}), face crops, RGB in [0, 1]",
        "preprocess": {
            **info.preprocess.model_dump(mode="json"),
            "fingerprint": info.preprocess.fingerprint(),
            "image_size": size,
            "colour_order": "RGB",
            "value_range": [0, 1],
            "normalisation": NORMALISATION,
        },
        "sampling": info.sampling.model_dump(mode="json"),
        "decision": info.decision.model_dump(mode="json"),
        "temperature": _temperature(detector),
        "licence": info.licence or "not stated",
        "libraries": {**library_versions(), **{name: version(name) for name in PACKAGES}},
    }
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}


def _differences(detector: Detector, session: Any, crops_BHWC: np.ndarray) -> tuple[float, float]:
    """The largest differences of logits and of P(fake) between the file and the detector."""
    # A few crops are repeated: batches of several sizes must run, whatever there is.
    many = max(len(crops_BHWC), ENOUGH)
    crops_BHWC = np.resize(crops_BHWC, (many, *crops_BHWC.shape[1:]))
    rows_BRK = detector.logits(crops_BHWC)
    temperature, mean = _temperature(detector), DecisionSettings()
    p_fake_B = [crop_probability(rows_RK, mean, temperature)[0] for rows_RK in rows_BRK]
    passes = []
    for crops in np.split(crops_BHWC, np.cumsum(BATCHES)):
        images_BCHW = crops.transpose(0, 3, 1, 2).astype(np.float32) / 255
        passes.append(session.run(list(OUTPUTS), {"images": images_BCHW}))
    logits_B2, exported_B = (np.concatenate(parts) for parts in zip(*passes, strict=True))
    return (
        float(np.abs(logits_B2 - rows_BRK.mean(axis=1)).max()),
        float(np.abs(exported_B - p_fake_B).max()),
    )


def _refuse_too_large(detector: Detector) -> None:
    weights = sum(tensor.nbytes for tensor in detector.network.state_dict().values())
    if weights > LARGEST:
        raise UserError(
            f"the network's weights are {weights / 2**30:.1f} GiB, and an ONNX file holds less "
            "than 2 GiB; export a network with smaller latents or backbones."
        )


def _temperature(detector: Detector) -> float:
    calibration = detector.info.calibration
    return calibration.temperature if calibration else 1.0


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps the exporter's remarks on its own working off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        for logger in loggers:
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        yield
