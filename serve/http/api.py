"""The HTTP application, apart from Ray: a FastAPI app around the parts of a server."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from serve.http.gate import Gate
from serve.http.routes import detect, health, interface, jobs, models
from serve.http.server import Server
from serve.problems import ProblemError, fault
from serve.watching.metrics import CLIENT_LEFT

DESCRIPTION = """Judges clips and images: FAKE, REAL or UNDECIDED, with P(fake) and the reason.

Errors are problem documents (RFC 9457). A server with keys wants Authorization: Bearer KEY.
"""
WHAT_TO_DO = {
    404: "there is nothing at this address; /docs lists what there is.",
    405: "this address does not take this method; /docs lists those that it takes.",
}
"""Sentences for what Starlette has two words for."""


def build_api(server: Server, *, names_requests: bool = True) -> ASGIApp:
    """The application with everything around it.

    Args:
        server: Its parts.
        names_requests: Of `Gate`.
    """
    gate = Gate(build_routes(server), server, names_requests)
    return _with_cors(gate, server.settings.cors_origins)


def build_routes(server: Server) -> FastAPI:
    """The routes, and what becomes of their errors."""
    api = FastAPI(
        title="GenConViT deepfake-video detector",
        description=DESCRIPTION,
        version="1",
        docs_url=None,  # FastAPI's pages load their parts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    api.state.server = server
    for routes in (detect, jobs, models, health, interface):
        api.include_router(routes.router)
    api.mount("/web", StaticFiles(directory=health.WEB), name="web")
    api.add_exception_handler(ProblemError, _problem)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _refused)
    api.add_exception_handler(ClientDisconnect, _left)
    api.add_exception_handler(Exception, _failed)
    return api


def _with_cors(api: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """Lets pages of other origins ask, and read why they are refused.

    It comes first: a browser asks whether it may without a key.
    """
    if not origins:
        return api
    return CORSMiddleware(
        api,
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "X-API-Key", "X-Request-Id", "Content-Type"],
        expose_headers=["X-Request-Id", "Location", "Retry-After"],
    )


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    request.state.told["reason"] = error.reason
    return error.response(request.state.request_id)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "the request"
    return await _problem(request, ProblemError(422, f"{where}: {first['msg']}.", "parameter"))


async def _refused(request: Request, error: Exception) -> Response:
    """What Starlette refuses: unknown paths and methods, and bodies that are no multipart."""
    assert isinstance(error, HTTPException)
    status = 422 if error.status_code == 400 else error.status_code
    detail = WHAT_TO_DO.get(status) or f"{str(error.detail).rstrip('.')}."
    response = await _problem(request, ProblemError(status, detail, "protocol"))
    response.headers.update(error.headers or {})
    return response


async def _left(request: Request, error: Exception) -> Response:
    """The client went away before all of its body was there; nobody reads this."""
    return Response(status_code=CLIENT_LEFT)


async def _failed(request: Request, error: Exception) -> Response:
    """A fault of the server. Starlette raises it again, and the gate logs it."""
    return await _problem(request, fault(request.state.request_id))
