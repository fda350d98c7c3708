"""What `genconvit bench serve` compares with: an endpoint as one writes it first.

One process, no batches, no limits: FastAPI runs each request in a thread of its pool, which calls
the detector. `python -m ray_jobs.bench_serve_plain DETECTOR PORT`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, UploadFile

from genconvit.data.crops import decode_crop
from genconvit.evaluate.aggregate import crop_probability
from genconvit.predict import Detector, load_detector


def build_plain_app(detector: Detector) -> FastAPI:
    """The endpoints `/v1/detect` and `/v1/crops`, with the detector's own settings."""
    app = FastAPI()

    @app.post("/v1/detect")
    def detect(file: UploadFile) -> dict[str, Any]:
        with tempfile.NamedTemporaryFile(suffix=Path(file.filename or "").suffix) as clip:
            clip.write(file.file.read())
            clip.flush()
            return detector.judge(clip.name).model_dump(mode="json")

    @app.post("/v1/crops")
    def crops(file: list[UploadFile]) -> list[float]:
        info = detector.info
        images = [decode_crop(one.file.read(), info.model.image_size) for one in file]
        rows = detector.logits(np.stack(images), len(images))
        return [crop_probability(row, info.decision, info.temperature)[0] for row in rows]

    @app.get("/readyz")
    def readyz() -> None:
        return None

    return app


if __name__ == "__main__":
    uvicorn.run(
        build_plain_app(load_detector(sys.argv[1], fast=True)),
        port=int(sys.argv[2]),
        log_level="warning",
    )
