"""A detector that is exchanged while it serves."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genconvit import load_detector
from genconvit.answers import Detection
from genconvit.checkpoint import (
    DetectorInfo,
    read_info,
    save_description,
    save_detector,
)
from genconvit.errors import UserError
from genconvit.models.registry import build_from_settings
from genconvit.self_check import CROPS as CHECK_CROPS
from genconvit.self_check import check_crops, check_detector
from serve.work import Options
from tests.conftest import small_settings
from tests.serve import hostile
from tests.serve.local import LocalClient, assert_problem, local_client

DETECT, RELOAD = "/v1/detect", "/v1/models/default/reload"

Weights = dict[str, torch.Tensor]


def write(
    path: Path, seed: int, *settings: str, change: Callable[[Weights], Weights] = dict
) -> Path:
    """A detector whose weights nobody trained."""
    torch.manual_seed(seed)
    chosen = small_settings(*settings)
    info = DetectorInfo(
        model=chosen.model,
        preprocess=chosen.preprocess,
        sampling=chosen.sampling,
        decision=chosen.decision,
    )
    save_detector(path, change(build_from_settings(chosen.model).state_dict()), info)
    return path


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """The folder of the detector that is served."""
    return write(tmp_path / "served", 1)


@pytest.fixture
def client(served: Path, tmp_path: Path) -> Iterator[LocalClient]:
    with local_client(tmp_path / "jobs", served, batch_crops=3) as client:
        yield client


@pytest.fixture(scope="module")
def clip(clips: Path) -> Path:
    return sorted(clips.parent.glob("test/fake/*"))[0]


def judged(client: LocalClient, clip: Path) -> Detection:
    response = client.send_file(DETECT, clip.read_bytes())
    assert response.status_code == 200, response.text
    return Detection.model_validate_json(response.content)


def assert_judged_by(answer: Detection, detector: Path, clip: Path) -> None:
    judge = load_detector(detector, "cpu")
    expected = judge.judge(clip)
    assert answer.model.id == judge.info.id
    assert answer.model.fingerprint == judge.info.weights_sha256
    assert answer.threshold == judge.info.decision.threshold
    assert answer.verdict == expected.verdict
    assert answer.probability_fake == pytest.approx(expected.probability_fake, abs=1e-5)
    scores = [point.probability_fake for point in answer.timeline]
    wanted = [point.probability_fake for point in expected.timeline]
    assert scores == pytest.approx(wanted, abs=1e-5)


# What is taken


def test_other_weights_are_taken(client: LocalClient, served: Path, clip: Path) -> None:
    before = judged(client, clip)
    write(served, 2)
    assert judged(client, clip).probability_fake == before.probability_fake  # not by itself
    response = client.post(RELOAD)
    assert response.status_code == 200
    after = judged(client, clip)
    assert response.json()["id"] == after.model.id != before.model.id
    assert after.probability_fake != before.probability_fake
    assert_judged_by(after, served, clip)
    assert client.get("/v1/models").json()["models"][0] == response.json()
    assert client.get("/healthz").json()["detector"] == after.model.id
    text = client.get("/metrics").text
    assert f'id="{after.model.id}"' in text and before.model.id not in text
    assert 'genconvit_reloads_total{model="default",outcome="taken"} 1.0' in text


def test_the_same_weights_may_be_taken_again(client: LocalClient, clip: Path) -> None:
    before = judged(client, clip)
    assert client.post(RELOAD).json()["id"] == before.model.id
    assert judged(client, clip).probability_fake == before.probability_fake


def test_another_calibration_of_the_same_weights_is_taken(
    client: LocalClient, served: Path, clip: Path
) -> None:
    assert judged(client, clip).threshold == 0.5
    info = read_info(served)
    decision = info.decision.model_copy(update={"threshold": 0.75})
    save_description(served, info.model_copy(update={"decision": decision}))
    assert client.post(RELOAD).json()["threshold"] == 0.75
    assert_judged_by(judged(client, clip), served, clip)


@pytest.mark.parametrize(
    "settings",
    [
        ("preprocess.size=96",),
        ("preprocess.margin=0.6",),
        ("model.image_size=96", "preprocess.size=96"),
        ("model.net=ed",),
        ("sampling.frames=6", "decision.aggregation=max"),
    ],
    ids=" ".join,
)
def test_a_detector_of_another_kind_is_taken(
    client: LocalClient, served: Path, clip: Path, settings: tuple[str, ...]
) -> None:
    judged(client, clip)
    write(served, 3, *settings)
    assert client.post(RELOAD).status_code == 200
    assert_judged_by(judged(client, clip), served, clip)
    crop = hostile.image("png", 80, 80)
    assert client.send_file("/v1/crops", crop).json()["model"]["id"] == read_info(served).id


# What is refused


def nan_weights(weights: Weights) -> Weights:
    name = next(name for name, tensor in weights.items() if tensor.dim() > 1)
    return weights | {name: torch.full_like(weights[name], torch.nan)}


def one_nan(weights: Weights) -> Weights:
    name = next(name for name, tensor in weights.items() if tensor.dim() > 1)
    spoilt = weights[name].clone()
    spoilt.view(-1)[0] = torch.nan
    return weights | {name: spoilt}


def infinite_weights(weights: Weights) -> Weights:
    return {
        name: tensor * 1e30 if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }


def zero_weights(weights: Weights) -> Weights:
    return {name: torch.zeros_like(tensor) for name, tensor in weights.items()}


NONSENSE: dict[str, Callable[[Weights], Weights]] = {
    "nan": nan_weights,
    "one nan": one_nan,
    "infinite": infinite_weights,
    "constant": zero_weights,
}


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def cut_weights(folder: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])


def folder_for_weights(folder: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    file.unlink()
    file.mkdir()


def cut_description(folder: Path) -> None:
    file = folder / "detector.json"
    file.write_bytes(file.read_bytes()[:-100])


def bytes_description(folder: Path) -> None:
    (folder / "detector.json").write_bytes(bytes(range(256)))


DAMAGE = [no_folder, cut_weights, folder_for_weights, cut_description, bytes_description]


def test_what_is_no_sound_detector_is_refused(
    client: LocalClient, served: Path, clip: Path, tmp_path: Path
) -> None:
    before = judged(client, clip)
    kept = shutil.copytree(served, tmp_path / "kept")
    attempts: dict[str, Callable[[], Any]] = {
        name: lambda change=change: write(served, 1, change=change)
        for name, change in NONSENSE.items()
    }
    attempts |= {damage.__name__: lambda damage=damage: damage(served) for damage in DAMAGE}
    for count, (name, spoil) in enumerate(attempts.items(), start=1):
        shutil.rmtree(served, ignore_errors=True)
        shutil.copytree(kept, served)
        spoil()
        problem = assert_problem(client.post(RELOAD), 422, "reload")
        assert "the old detector stays" in problem["detail"], name
        after = judged(client, clip)
        assert (after.model, after.probability_fake) == (before.model, before.probability_fake)
        text = client.get("/metrics").text
        line = f'genconvit_reloads_total{{model="default",outcome="refused"}} {count}.0'
        assert line in text, name


def test_the_check_passes_what_computes_and_no_more(served: Path) -> None:
    detector = load_detector(served, "cpu")
    check_detector(detector)
    crops = check_crops(64)
    assert crops.shape == (CHECK_CROPS, 64, 64, 3) and crops.dtype == np.uint8
    assert np.array_equal(crops, check_crops(64))
    assert min(crop.std() for crop in crops) > 5  # none of them is flat
    detector.network.train()  # dropout and noise: another answer each time
    with pytest.raises(UserError, match="time to time"):
        check_detector(detector)


# In the middle of work


@contextmanager
def exchanged_on_the_way(client: LocalClient, path: Path, times: int = 1) -> Iterator[list[str]]:
    """Reloads between the crops of a clip and their scores, so many times."""
    scorer = client.application.scorers["default"][0]
    score, calls = scorer.score, []

    async def reload_and_score(crops: Any) -> Any:
        if len(calls) < times:
            calls.append("reload")
            write(path, 10 + len(calls), f"preprocess.margin=0.{len(calls)}")
            await client.server.judging.reload("default")
        return await score(crops)

    scorer.score = reload_and_score  # type: ignore[method-assign]
    yield calls
    scorer.score = score  # type: ignore[method-assign]


def test_crops_for_the_detector_before_are_made_anew(
    client: LocalClient, served: Path, clip: Path
) -> None:
    with exchanged_on_the_way(client, served) as calls:
        answer = judged(client, clip)
    assert calls
    assert_judged_by(answer, served, clip)


def test_ready_crops_are_made_anew_for_another_size(client: LocalClient, served: Path) -> None:
    content = hostile.image("png", 80, 80)

    async def reload_first(crops: Any) -> Any:
        scorer.score = score  # type: ignore[method-assign]
        write(served, 5, "model.image_size=96", "preprocess.size=96")
        await client.server.judging.reload("default")
        return await score(crops)

    scorer = client.application.scorers["default"][0]
    score = scorer.score
    scorer.score = reload_first  # type: ignore[method-assign]
    first = client.send_file("/v1/crops", content).json()
    assert first["model"]["id"] == read_info(served).id
    again = client.send_file("/v1/crops", content).json()
    assert again["probability_fake"] == first["probability_fake"]


def test_a_detector_that_never_stays_is_a_matter_for_later(
    client: LocalClient, served: Path, clip: Path
) -> None:
    with exchanged_on_the_way(client, served, times=9):
        response = client.send_file(DETECT, clip.read_bytes())
    assert_problem(response, 503, "exchange")
    assert int(response.headers["retry-after"]) >= 1
    assert_judged_by(judged(client, clip), served, clip)


def test_a_verdict_is_of_one_detector_alone(client: LocalClient, served: Path, clip: Path) -> None:
    # Four crops in passes of three: the second pass finds another detector of the same kind.
    scorer = client.application.scorers["default"][0]
    score, calls = scorer.score, []

    async def reload_before_the_second(crops: Any) -> Any:
        calls.append(len(crops.images))
        if len(calls) == 2:
            write(served, 6)
            await client.server.judging.reload("default")
        return await score(crops)

    scorer.score = reload_before_the_second  # type: ignore[method-assign]
    answer = judged(client, clip)
    assert len(calls) >= 3
    assert_judged_by(answer, served, clip)


def test_a_job_begins_anew_with_another_detector(
    client: LocalClient, served: Path, clip: Path
) -> None:
    from serve.problems import ProblemError

    shown: list[float] = []

    async def on_part(points: Any, progress: float) -> None:
        shown.append(progress)

    async def judge() -> Any:
        content = np.frombuffer(clip.read_bytes(), np.uint8)
        return await client.server.judging.detect(content, "clip", Options(), on_part=on_part)

    assert client.portal is not None
    with exchanged_on_the_way(client, served), pytest.raises(ProblemError) as caught:
        client.portal.call(judge)
    assert caught.value.retry_after_s  # by which the job is put off, not failed
    assert not shown
    assert_judged_by(client.portal.call(judge).detection, served, clip)
    assert shown[-1] == 1.0


def test_no_request_fails_while_detectors_come_and_go(
    client: LocalClient, served: Path, clip: Path
) -> None:
    names: list[tuple[str, float | None]] = []
    failures: list[str] = []
    stop = threading.Event()

    def ask(path: str, content: bytes, answered: threading.Semaphore) -> None:
        while not stop.is_set():
            response = client.send_file(path, content)
            answered.release()
            if response.status_code != 200:
                failures.append(response.text)
            elif path == DETECT:
                answer = response.json()
                names.append((answer["model"]["id"], answer["probability_fake"]))

    image = hostile.image("png", 64, 64)
    content = clip.read_bytes()
    work = [(DETECT, content), ("/v1/crops", image), (f"{DETECT}?frames=1&explain=true", content)]
    answers = [threading.Semaphore(0) for _ in work]
    threads = [
        threading.Thread(target=ask, args=(*each, answered))
        for each, answered in zip(work, answers, strict=True)
    ]
    for thread in threads:
        thread.start()
    kinds = [("preprocess.margin=0.5",), ("model.image_size=96", "preprocess.size=96"), ()]
    for seed, kind in enumerate(kinds, start=20):
        write(served, seed, *kind)
        response = client.post(RELOAD)
        if response.status_code != 200:
            failures.append(response.text)
        for answered in answers:  # no request lives to see more than two of them
            while answered.acquire(blocking=False):
                pass
            assert answered.acquire(timeout=60)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    scores: dict[str, set[float]] = {}
    for name, p_fake in names:
        scores.setdefault(name, set()).add(round(p_fake or 0.0, 4))
    assert all(len(found) == 1 for found in scores.values()), scores  # no mixture of two


# Several processes


@pytest.mark.parametrize(
    ("seed", "settings"),
    [(7, ()), (7, ("preprocess.margin=0.5",)), (1, ("decision.threshold=0.7",))],
    ids=["other weights", "other crops", "another threshold"],
)
def test_the_other_processes_follow(
    served: Path, clip: Path, tmp_path: Path, seed: int, settings: tuple[str, ...]
) -> None:
    with local_client(tmp_path / "jobs", served, processes=2) as client:
        write(served, seed, *settings)
        assert client.post(RELOAD).status_code == 200
        for _ in range(6):  # none fails, whichever of them is asked
            judged(client, clip)
        first, second = client.application.scorers["default"]
        assert client.portal is not None
        client.portal.call(settled, second)
        client.portal.call(settled, first)
        wanted = read_info(served)
        assert first._loaded.info == second._loaded.info == wanted
        for _ in range(2):
            assert_judged_by(judged(client, clip), served, clip)


async def settled(scorer: Any) -> None:
    if scorer._adopting is not None:
        await asyncio.wait_for(scorer._adopting, 20)


def test_a_process_that_cannot_follow_serves_on(served: Path, clip: Path, tmp_path: Path) -> None:
    with local_client(tmp_path / "jobs", served, processes=2) as client:
        before = read_info(served).id
        write(served, 8)
        assert client.post(RELOAD).status_code == 200
        after = read_info(served).id
        shutil.rmtree(served)
        found = {judged(client, clip).model.id for _ in range(8)}
        assert found == {before, after}
        assert client.portal is not None
        for scorer in client.application.scorers["default"]:
            client.portal.call(settled, scorer)
