"""Judging clips, images and ready crops while the client waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Query, Request

from genconvit.answers import BatchDetection, BatchItem, CropScores, Detection, ModelId, Timings
from serve.http.server import OF_FILES, RequestId, Server, TheOptions, TheServer, problems
from serve.http.uploads import Upload, documented, read_file, read_files
from serve.problems import ProblemError
from serve.scoring.work import Options

router = APIRouter(prefix="/v1", tags=["judge"])


@router.post("/detect", openapi_extra=documented(), responses=problems(*OF_FILES, 504))
async def detect(
    request: Request, options: TheOptions, server: TheServer, request_id: RequestId
) -> Detection:
    """Judges one clip or image."""
    upload = await read_file(request)
    detection = await _judge(upload, options, server, request_id)
    request.state.told |= {"model": detection.model.id, "verdict": detection.verdict}
    return detection


@router.post(
    "/detect/batch",
    openapi_extra=documented(several=True),
    responses=problems(*OF_FILES, 504),
)
async def detect_batch(
    request: Request, options: TheOptions, server: TheServer, request_id: RequestId
) -> BatchDetection:
    """Judges several clips and images; one that cannot be judged does not stop the others."""
    uploads = await read_files(request, server.settings.max_batch_files)

    async def item(upload: Upload) -> BatchItem:
        try:
            found = await _judge(upload, options, server, request_id)
        except ProblemError as problem:
            server.metrics.problem(problem.reason)
            return BatchItem(file=upload.name, problem=problem.document(request_id))
        return BatchItem(file=upload.name, detection=found)

    return BatchDetection(results=await asyncio.gather(*map(item, uploads)))


@router.post("/crops", openapi_extra=documented(several=True), responses=problems(*OF_FILES, 504))
async def crops(
    request: Request,
    server: TheServer,
    request_id: RequestId,
    model: str | None = Query(None, max_length=64, description="Name of the detector."),
) -> CropScores:
    """Scores face crops that are ready: JPEG or PNG, square, cut as the detector's own are."""
    begin = time.monotonic()
    uploads = await read_files(request, server.settings.max_crops)
    images = [upload.content for upload in uploads]
    async with _budget(server.settings.request_s):
        scored = await server.judging.score(images, model)
    info = scored.loaded.info
    answered = ModelId(name=scored.model, id=info.id, fingerprint=info.weights_sha256)
    request.state.told["model"] = info.id
    server.metrics.batch(scored.batch_crops)
    server.metrics.crops(answered, scored.probability_fake, scored.statistics)
    timings = Timings(
        wait=scored.wait_ms,
        decode=scored.decode_ms,
        queue=scored.queue_ms,
        network=scored.network_ms,
        total=1000 * (time.monotonic() - begin),
    )
    server.metrics.stages(timings)
    return CropScores(
        probability_fake=scored.probability_fake,
        model=answered,
        timings_ms=timings,
        request_id=request_id,
    )


async def _judge(upload: Upload, options: Options, server: Server, request_id: str) -> Detection:
    limits = server.settings
    async with _budget(limits.explain_s if options.explain else limits.request_s):
        judged = await server.judging.detect(
            upload.content, upload.name, options, request_id=request_id
        )
    server.metrics.detection(judged.detection, judged.statistics)
    server.metrics.stages(judged.detection.timings_ms)
    server.metrics.batch(judged.batch_crops)
    return judged.detection


@asynccontextmanager
async def _budget(seconds: float) -> AsyncIterator[None]:
    """As `asyncio.timeout`, but whose request takes too long is told what to do."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise ProblemError(
            504,
            f"it took longer than {seconds:g} seconds; ask for fewer frames, or POST /v1/jobs.",
            "time budget",
        ) from None
