"""The Serve application, and a server that runs until it is stopped."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from genconvit.checkpoint import load_network, read_info
from genconvit.config import ServeSettings
from genconvit.errors import UserError
from genconvit.storage import absolute
from serve.api import Api
from serve.replicas import Judge


def build_app(
    model: str, detector_id: str, settings: ServeSettings, *, gpus: float = 0
) -> serve.Application:
    """The application for `serve.run`.

    Args:
        model: The detector's folder or URL.
        detector_id: Its name, for `/healthz`.
        settings: Limits.
        gpus: GPUs for the detector.
    """
    judge = serve.deployment(
        max_ongoing_requests=8, ray_actor_options={"num_cpus": 1, "num_gpus": gpus}
    )(Judge)
    api = serve.deployment(max_ongoing_requests=32, ray_actor_options={"num_cpus": 0})(Api)
    return api.bind(judge.bind(absolute(model)), detector_id, settings)


def start(model: str, settings: ServeSettings) -> str:
    """Starts serving a detector, on the cluster that is connected or on one that it starts here.

    Returns:
        The server's address.

    Raises:
        UserError: `model` is no detector, or the port is taken.
    """
    _, info = load_network(model)  # a bad detector is told here, not in a replica's log
    _refuse_taken_port(settings)
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        local = {} if address else {"address": "local"}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            if not address:
                raise
            raise UserError(f"no Ray cluster answers at RAY_ADDRESS={address}.") from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(
        http_options=HTTPOptions(host=settings.host, port=settings.port), logging_config=quiet
    )
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    app = build_app(model, info.id, settings, gpus=gpus)
    serve.run(app, name="genconvit", route_prefix="/", logging_config=quiet)
    return f"http://{settings.host}:{settings.port}"


def serve_forever(model: str, settings: ServeSettings) -> None:
    """Serves a detector over HTTP until the process is stopped.

    Raises:
        UserError: `model` is no detector, or the port is taken.
    """
    url = start(model, settings)
    sys.stdout.write(
        f"Detector {read_info(model).id} answers at {url}/v1/detect\n"
        f"Try: curl -F file=@CLIP {url}/v1/detect    API: {url}/docs    Stop: Ctrl-C\n"
    )
    sys.stdout.flush()
    try:
        threading.Event().wait()
    finally:
        serve.shutdown()


def _refuse_taken_port(settings: ServeSettings) -> None:
    try:
        with socket.create_server((settings.host, settings.port)):
            pass
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UserError(
            f"cannot listen on {settings.host}:{settings.port} ({reason}); "
            "choose another --port or --host."
        ) from error
