"""The detectors that are served."""

from __future__ import annotations

from fastapi import APIRouter

from genconvit.answers import ModelCard, ModelList
from serve.http.server import TheCaller, TheServer, problems
from serve.problems import ProblemError

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses=problems())
async def models(server: TheServer) -> ModelList:
    """All detectors; the first one is the default."""
    return ModelList(models=await server.judging.cards())


@router.post("/{name}/reload", responses=problems(403, 404))
async def reload(name: str, server: TheServer, caller: TheCaller) -> ModelCard:
    """Reads a detector's folder or URL again.

    The new weights are loaded aside and tried on stored crops, then take the place of the old ones
    between two requests. If anything is wrong with them the old ones stay.
    """
    if not caller.admin:
        raise ProblemError(403, "only the key of an admin may reload a model.", "not an admin")
    try:
        loaded = await server.judging.reload(name)
    except ProblemError:
        server.metrics.reload(name, "refused")
        raise
    server.metrics.reload(name, "taken")
    server.metrics.model(name, loaded.info)
    return server.judging.card(name, loaded)
