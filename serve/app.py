"""The Serve application, and a server that runs until it is stopped."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray's processes give way to all others of the machine, which is right for jobs, not for a server.
os.environ.setdefault("RAY_worker_niceness", "0")
# One event loop a process. Ray Serve would run three, in threads that wait for each other's turn;
# ours is never blocked, since what takes long is in other threads and processes.
os.environ.setdefault("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "0")
os.environ.setdefault("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "0")
# So often the controller looks at every process; ten times a second takes a tenth of a CPU.
os.environ.setdefault("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.5")
# Heaps of malloc in each of Ray's processes. glibc makes up to eight a CPU for their threads, and
# what is freed in one is lost to the others: memory grew by 70 MB and more an hour.
os.environ.setdefault("MALLOC_ARENA_MAX", "2")

import ray
from pydantic import ValidationError
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import LoggingConfig

from genconvit.checkpoint import load_network
from genconvit.config import ServeSettings
from genconvit.errors import UserError
from genconvit.storage import absolute
from genconvit.wording import first_mistake
from serve.decoding.cropper import Cropper
from serve.http.keys import Keys
from serve.ingress import CROPPER, Ingress
from serve.jobs.deployment import Jobs
from serve.jobs.store import open_store
from serve.scoring.scorer import PASSES, Scorer

ROOM = 64
"""Requests beyond the limit that reach the ingress, to be refused there with a problem document."""
ENDING_LOOKS_S = 0.2
"""So often a process that is to end looks whether it is idle; every two seconds otherwise, and one
deployment ends after the other."""
DECODERS_QUEUE = 16
"""Files at a process that decodes. Beyond it Ray Serve keeps them and looks for a free one only
now and then."""


def build_app(
    settings: ServeSettings, *, gpus: float = 0, listens: bool = False
) -> serve.Application:
    """The application for `serve.run`.

    Args:
        settings: `models` names at least one detector, and `state` the jobs' folder.
        gpus: GPUs for each scoring process.
        listens: It answers HTTP itself, on this machine, and needs no proxy of Ray Serve.
    """
    cpus = _cpus(settings)
    cropper = _deployment(
        Cropper,
        name=CROPPER,
        ray_actor_options={"num_cpus": cpus},
        max_ongoing_requests=DECODERS_QUEUE,
        autoscaling_config=_scaling(settings.decoders, 1),
    ).bind(settings)
    scorers = {
        name: _deployment(
            Scorer,
            name=f"Scorer-{name}",
            ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
            max_ongoing_requests=max(settings.batch_crops * PASSES, ROOM),
            autoscaling_config=_scaling(settings.scorers, 8),
        ).bind(absolute(location), settings)
        for name, location in settings.models.items()
    }
    job_cropper = _deployment(
        Cropper,
        name="JobCropper",
        num_replicas=settings.job_decoders,
        ray_actor_options={"num_cpus": cpus},
        max_ongoing_requests=1,
    ).bind(settings)
    # Made here, once: processes that find no store of their folder say so, and make no other one.
    store = open_store(settings)
    here = {f"node:{ray.util.get_node_ip_address()}": 0.001} if listens else {}
    light = {"num_cpus": 0, "resources": here}
    jobs = _deployment(Jobs, ray_actor_options=light).bind(job_cropper, scorers, store, settings)
    return _deployment(
        Ingress,
        ray_actor_options=light,
        max_ongoing_requests=settings.max_requests + ROOM,
    ).bind(cropper, scorers, jobs, store, settings, listens)


def _deployment(kind: type, **options: Any) -> serve.Deployment:
    return serve.deployment(kind, graceful_shutdown_wait_loop_s=ENDING_LOOKS_S, **options)


def build_from_args(args: dict[str, Any]) -> serve.Application:
    """The application for `serve deploy`, whose config gives the settings as `args`.

    Raises:
        UserError: They are no settings of the endpoint.
    """
    try:
        settings = ServeSettings.model_validate(args)
    except ValidationError as error:
        raise UserError(f"args: {first_mistake(error)}.") from None
    if not settings.models:
        raise UserError("args: models: name at least one detector, as NAME: FOLDER.")
    if settings.state is None:
        raise UserError("args: state: name a folder for the jobs, one that all nodes share.")
    # Who can reach it is decided elsewhere: without keys nobody is taken for an admin.
    settings = settings.model_copy(update={"host": "0.0.0.0"})
    return build_app(settings, gpus=_gpus(settings))


def start(settings: ServeSettings) -> str:
    """Starts serving, on the cluster that is connected or on one that it starts here.

    Args:
        settings: `models` names at least one detector, and `state` the jobs' folder.

    Returns:
        The server's address.

    Raises:
        UserError: A model is no detector, the keys file is wrong, or the port is taken.
    """
    if not settings.models:
        raise UserError("name a detector to serve with --model FOLDER.")
    for location in settings.models.values():
        load_network(location)  # a bad detector is told here, not in a replica's log
    Keys(settings)
    _refuse_taken_port(settings)
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        local = {} if address else {"address": "local", "include_dashboard": False}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            if not address:
                raise
            raise UserError(f"no Ray cluster answers at RAY_ADDRESS={address}.") from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(proxy_location="Disabled", logging_config=quiet)
    app = build_app(settings, gpus=_gpus(settings), listens=True)
    serve.run(app, name="genconvit", route_prefix="/", logging_config=quiet)
    return f"{'https' if settings.tls_key else 'http'}://{settings.host}:{settings.port}"


def serve_forever(settings: ServeSettings) -> None:
    """Serves detectors over HTTP until the process is stopped.

    Raises:
        UserError: A model is no detector, the keys file is wrong, or the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="genconvit-jobs-") as folder:
        if settings.state is None:
            settings = settings.model_copy(update={"state": folder})
        url = start(settings)
        names = ", ".join(settings.models)
        key = ' -H "Authorization: Bearer KEY"' if settings.keys else ""
        sys.stdout.write(
            f"Serving {names} at {url}\nPage: {url}/    API: {url}/docs    Stop: Ctrl-C\n"
            f"Try: curl{key} -F file=@CLIP {url}/v1/detect\n"
        )
        sys.stdout.flush()
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())  # as containers are stopped
        try:
            stop.wait()
        finally:
            # What the raylet says of the end is no news to the user.
            ray._private.worker._worker_logs_enabled = False
            serve.shutdown()


def _scaling(processes: tuple[int, int], ongoing: float) -> AutoscalingConfig:
    """As many processes as the load needs, `ongoing` requests each."""
    fewest, most = processes
    return AutoscalingConfig(
        min_replicas=fewest,
        max_replicas=most,
        target_ongoing_requests=ongoing,
        upscale_delay_s=5,
        downscale_delay_s=120,
    )


def _cpus(settings: ServeSettings) -> float:
    """CPUs of a process that works: one, or less where the cluster has fewer than processes."""
    fewest = settings.decoders[0] + settings.job_decoders
    fewest += settings.scorers[0] * len(settings.models)
    return min(1.0, round(ray.cluster_resources().get("CPU", 1.0) / fewest - 0.01, 2))


def _gpus(settings: ServeSettings) -> float:
    """GPUs of a process that scores: one, or less where there are fewer than processes."""
    if settings.scorer_gpus is not None:
        return settings.scorer_gpus
    fewest = settings.scorers[0] * len(settings.models)
    return min(1.0, ray.cluster_resources().get("GPU", 0.0) / fewest)


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
