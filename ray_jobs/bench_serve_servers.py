"""The servers that `genconvit bench serve` compares."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import ray

from genconvit.config import ServeSettings
from genconvit.errors import UserError

START_S = 300
"""A server is ready by then, also where imports are slow."""


@contextmanager
def plain(model: str, environment: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """The plain app in a process of its own.

    Args:
        model: The detector.
        environment: As this command was started with: what it sets for Ray is none of its business.

    Yields:
        Its URL and process id.
    """
    port = _free_port()
    command = [sys.executable, "-m", "ray_jobs.bench_serve_plain", model, str(port)]
    process = subprocess.Popen(command, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process)
        yield url, process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def served(model: str, state: Path) -> Iterator[tuple[str, ServeSettings]]:
    """The real application, with a decoding process for each CPU but two, and at least two.

    Yields:
        Its URL and settings.
    """
    from ray import serve

    from serve.app import start

    connected = ray.is_initialized()
    cpus = len(os.sched_getaffinity(0))
    decoders = max(2, cpus - 2)
    settings = ServeSettings(
        models={"default": model},
        port=_free_port(),
        state=str(state),
        decoders=(decoders, decoders),
    )
    try:
        url = start(settings)
        # What the raylet says of the end would go between our lines.
        ray._private.worker._worker_logs_enabled = False
        _wait_until_ready(url)
        yield url, settings
    finally:
        serve.shutdown()
        if not connected:
            ray.shutdown()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes] | None = None) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and (process is None or process.poll() is None):
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    raise UserError(f"the server at {url} did not get ready within {START_S} seconds.")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])
