"""The real server on a real cluster: what only several processes can show."""

from __future__ import annotations

import ctypes
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml
from ray.serve.schema import ServeDeploySchema

from genconvit import load_detector
from genconvit.checkpoint import load_network, save_detector
from genconvit.client import ApiError, Client
from genconvit.config import ServeSettings
from genconvit.errors import UserError
from serve.app import build_from_args, start
from serve.ingress import JOBS_EVERY_S
from tests.conftest import Cluster, free_port

pytestmark = pytest.mark.usefixtures("cluster")

COMES_BACK_S = 60.0


@pytest.fixture(scope="module")
def folders(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two detectors of the server's own, which tests may exchange."""
    made = {}
    for seed, name in enumerate(("first", "second"), start=1):
        made[name] = tmp_path_factory.mktemp("served") / name
        write_other_weights(detector, made[name], seed)
    return made


def write_other_weights(detector: Path, to: Path, seed: int) -> None:
    network, info = load_network(detector)
    torch.manual_seed(seed)
    weights = {
        name: tensor + 0.02 * torch.randn_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    save_detector(to, weights, info)


@pytest.fixture(scope="module")
def url(
    cluster: Cluster, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    from ray import serve

    state = tmp_path_factory.mktemp("jobs")
    models = {name: str(folder) for name, folder in folders.items()}
    yield start(ServeSettings(port=free_port(), models=models, state=str(state), decoders=(1, 1)))
    serve.shutdown()


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, retries=0) as client:
        yield client


@contextmanager
def asked_all_the_while(ask: Callable[[], Any]) -> Iterator[list[Exception]]:
    """Asks again and again beside what happens in the block; collects what goes wrong."""
    failures: list[Exception] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                ask()
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    yield failures
    stop.set()
    for thread in threads:
        thread.join(COMES_BACK_S)
        assert not thread.is_alive()


def kill_process_of(deployment: str) -> None:
    import ray

    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    found = [name for name in names if f"#{deployment}#" in name]
    assert found, f"no process of {deployment}"
    ray.kill(ray.get_actor(found[0], namespace="serve"), no_restart=True)


def test_it_answers_as_predict_does(client: Client, clip: Path, folders: dict[str, Path]) -> None:
    for name, folder in folders.items():
        answer = client.detect(clip, model=name)
        expected = load_detector(folder, "cpu").judge(clip)
        assert answer.probability_fake == pytest.approx(expected.probability_fake, abs=1e-5)
        assert answer.verdict == expected.verdict
        assert [p.box for p in answer.timeline] == [p.box for p in expected.timeline]
        assert answer.model.name == name


def test_a_job_goes_to_its_end_and_is_forgotten(client: Client, clip: Path) -> None:
    job = client.submit(clip, frames=12)
    seen: list[float] = []
    done = client.wait(job, on_progress=lambda job: seen.append(job.progress))
    assert done.state == "done" and done.detection is not None
    assert done.detection.verdict == client.detect(clip, frames=12).verdict
    assert seen == sorted(seen)
    client.delete(job.id)
    with pytest.raises(ApiError, match="no such job"):
        client.job(job.id)


def test_a_job_is_watched_as_one_clip(client: Client, clip: Path, url: str) -> None:
    def counted(name: str) -> float:
        text = httpx.get(f"{url}/metrics").text
        return float(re.search(rf'^genconvit_{name}{{model="second"}} (\S+)$', text, re.M)[1])

    names = ("clip_score_count", "crop_score_count", "crop_brightness_count", "face_size_count")
    before = [counted(name) for name in names]
    done = client.wait(client.submit(clip, frames=12, model="second"))
    assert done.detection is not None
    client.delete(done.id)  # as the page does at once
    deadline = time.monotonic() + 3 * JOBS_EVERY_S
    while counted("clip_score_count") == before[0] and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(JOBS_EVERY_S)  # nor is it counted again
    grown = [counted(name) - was for name, was in zip(names, before, strict=True)]
    crops = len(done.detection.timeline)
    assert grown == [1, crops, crops, crops]


@pytest.mark.parametrize("deployment", ["Cropper", "Scorer-first"])
def test_no_request_fails_when_a_process_dies(client: Client, clip: Path, deployment: str) -> None:
    asked = []
    with asked_all_the_while(lambda: asked.append(client.detect(clip))) as failures:
        time.sleep(1)
        kill_process_of(deployment)
        before = len(asked)
        deadline = time.monotonic() + COMES_BACK_S
        while len(asked) < before + 6 and not failures and time.monotonic() < deadline:
            time.sleep(0.2)
    assert not failures
    assert len(asked) >= before + 6


def test_a_job_survives_the_process_that_had_it(client: Client, clip: Path) -> None:
    job = client.submit(clip, frames=12)
    kill_process_of("Jobs")
    assert client.wait(job).state == "done"


def test_no_request_fails_while_a_model_is_exchanged(
    client: Client, clip: Path, folders: dict[str, Path], detector: Path
) -> None:
    before = client.detect(clip)
    with asked_all_the_while(lambda: client.detect(clip)) as failures:
        write_other_weights(detector, folders["first"], seed=7)
        card = client.reload("first")
        after = client.detect(clip)
    assert not failures
    assert card.id == after.model.id != before.model.id
    assert after.probability_fake != before.probability_fake


def test_what_is_no_detector_does_not_take_its_place(
    client: Client, clip: Path, folders: dict[str, Path]
) -> None:
    before = client.detect(clip, model="second")
    weights = next(folders["second"].glob("*.safetensors"))
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + b"\x7f\x7f\x7f\x7f")
    with pytest.raises(ApiError, match="the old detector stays"):
        client.reload("second")
    weights.write_bytes(content)
    assert client.detect(clip, model="second").probability_fake == before.probability_fake


def test_memory_does_not_grow_by_heaps_of_threads(tmp_path: Path) -> None:
    def heaps(path: str) -> int:
        libc = ctypes.CDLL("libc.so.6")
        libc.fopen.restype = ctypes.c_void_p
        file = ctypes.c_void_p(libc.fopen(path.encode(), b"w"))
        libc.malloc_info(0, file)
        libc.fclose(file)
        return Path(path).read_text().count("<heap nr")

    import ray

    task = ray.remote(heaps).options(num_cpus=0)  # the server has all of them
    found: int = ray.get(task.remote(str(tmp_path / "malloc.xml")))
    assert 1 <= found <= 2  # a process of Ray has thirty threads


def test_what_is_no_detector_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no detector"):
        start(ServeSettings(models={"default": str(tmp_path)}))
    with pytest.raises(UserError, match="--model"):
        start(ServeSettings())


def test_a_taken_port_is_refused(url: str, detector: Path) -> None:
    port = int(url.rsplit(":", 1)[1])
    with pytest.raises(UserError, match="cannot listen"):
        start(ServeSettings(models={"default": str(detector)}, port=port))


def test_wrong_settings_of_a_deployment_are_named() -> None:
    with pytest.raises(UserError, match="max_frames"):
        build_from_args({"models": {"default": "runs/a/best"}, "max_frames": 0})
    with pytest.raises(UserError, match="models"):
        build_from_args({})
    with pytest.raises(UserError, match="state"):
        build_from_args({"models": {"default": "runs/a/best"}})


def test_the_shipped_deployment_is_valid() -> None:
    config = yaml.safe_load(Path("configs/serve.yaml").read_text(encoding="utf-8"))
    (application,) = ServeDeploySchema.model_validate(config).applications
    assert application.import_path == "serve.app:build_from_args"
    assert ServeSettings.model_validate(application.args).models
