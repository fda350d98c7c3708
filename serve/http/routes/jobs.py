"""Long clips, which are judged while the client does something else."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from fastapi import APIRouter, Request, Response

from genconvit.answers import Job
from serve.http.server import OF_FILES, TheCaller, TheOptions, TheServer, problems
from serve.http.uploads import documented, read_file

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.post("", status_code=202, openapi_extra=documented(), responses=problems(*OF_FILES))
async def submit(
    request: Request,
    response: Response,
    options: TheOptions,
    server: TheServer,
    caller: TheCaller,
) -> Job:
    """Takes a long clip; GET the job to see how far it is."""
    server.judging.check(options)
    await asyncio.to_thread(server.jobs.refuse_when_full, caller.name)
    upload = await read_file(request)
    job = await asyncio.to_thread(
        server.jobs.create, asdict(options), upload.content.data, upload.name, owner=caller.name
    )
    response.headers["Location"] = f"{request.scope['path']}/{job.id}"
    return job


@router.get("/{id}", responses=problems(404))
async def get(id: str, server: TheServer, caller: TheCaller) -> Job:
    """How far a job is, its timeline so far, and at the end its detection."""
    return await asyncio.to_thread(server.jobs.get, id, owner=caller.name)


@router.delete("/{id}", status_code=204, responses=problems(404))
async def delete(id: str, server: TheServer, caller: TheCaller) -> Response:
    """Stops a job and forgets all of it: the upload, the timeline, the detection."""
    await asyncio.to_thread(server.jobs.delete, id, owner=caller.name)
    return Response(status_code=204)
