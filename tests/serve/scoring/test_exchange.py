"""A detector that is exchanged in the middle of work."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genconvit.answers import Detection
from genconvit.checkpoint import read_info
from serve.problems import ProblemError
from serve.scoring.work import Options
from tests.conftest import write_detector
from tests.serve import hostile
from tests.serve.local import LocalClient, assert_problem, local_client
from tests.serve.scoring.reloading import DETECT, RELOAD, assert_judged_by, judged


@contextmanager
def exchanged_on_the_way(client: LocalClient, path: Path, times: int = 1) -> Iterator[list[str]]:
    """Reloads between the crops of a clip and their scores, so many times."""
    scorer = client.application.scorers["default"][0]
    score, calls = scorer.score, []

    async def reload_and_score(crops: Any) -> Any:
        if len(calls) < times:
            calls.append("reload")
            write_detector(path, 10 + len(calls), f"preprocess.margin=0.{len(calls)}")
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
        write_detector(served, 5, "model.image_size=96", "preprocess.size=96")
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
            write_detector(served, 6)
            await client.server.judging.reload("default")
        return await score(crops)

    scorer.score = reload_before_the_second  # type: ignore[method-assign]
    answer = judged(client, clip)
    assert len(calls) >= 3
    assert_judged_by(answer, served, clip)


@contextmanager
def exchanged_before_the_evidence(
    client: LocalClient, path: Path, *settings: str
) -> Iterator[None]:
    """Reloads once, between the verdict and its evidence."""
    scorer = client.application.scorers["default"][0]
    explain = scorer.explain

    async def reload_and_explain(*arguments: Any) -> Any:
        scorer.explain = explain  # type: ignore[method-assign]
        write_detector(path, 9, *settings)
        await scorer.reload()  # as in a process that another ingress has told
        return await explain(*arguments)

    scorer.explain = reload_and_explain  # type: ignore[method-assign]
    yield
    scorer.explain = explain  # type: ignore[method-assign]


def assert_explained_by_who_judged(answer: Detection) -> None:
    assert answer.evidence
    for entry in answer.evidence:  # its sentence has what the explaining detector computed
        assert f"fused {entry.probability_fake:.2f}" in entry.sentence


@pytest.mark.parametrize("settings", [(), ("preprocess.margin=0.5",)], ids=["same crops", "other"])
def test_evidence_is_of_the_detector_that_judged(
    client: LocalClient, served: Path, clip: Path, settings: tuple[str, ...]
) -> None:
    before = judged(client, clip)
    with exchanged_before_the_evidence(client, served, *settings):
        response = client.send_file(f"{DETECT}?explain=true", clip.read_bytes())
    answer = Detection.model_validate_json(response.content)
    assert answer.model.id != before.model.id
    assert_judged_by(answer, served, clip)
    assert_explained_by_who_judged(answer)


def test_a_job_begins_anew_where_its_evidence_would_be_of_another_detector(
    client: LocalClient, served: Path, clip: Path
) -> None:
    async def on_part(points: Any, progress: float) -> None:
        pass

    async def judge() -> Any:
        content, options = np.frombuffer(clip.read_bytes(), np.uint8), Options(explain=True)
        return await client.server.judging.detect(content, "clip", options, on_part=on_part)

    assert client.portal is not None
    with (
        exchanged_before_the_evidence(client, served, "preprocess.margin=0.5"),
        pytest.raises(ProblemError) as caught,
    ):
        client.portal.call(judge)
    assert caught.value.retry_after_s
    assert_judged_by(client.portal.call(judge).detection, served, clip)  # in the next attempt


def test_a_job_begins_anew_with_another_detector(
    client: LocalClient, served: Path, clip: Path
) -> None:
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
        write_detector(served, seed, *kind)
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
        write_detector(served, seed, *settings)
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


def test_evidence_and_verdict_are_of_one_process_while_the_other_follows(
    served: Path, clip: Path, tmp_path: Path
) -> None:
    with local_client(tmp_path / "jobs", served, processes=2) as client:
        write_detector(served, 7)
        assert client.post(RELOAD).status_code == 200
        for _ in range(3):
            response = client.send_file(f"{DETECT}?explain=true", clip.read_bytes())
            assert_explained_by_who_judged(Detection.model_validate_json(response.content))


async def settled(scorer: Any) -> None:
    if scorer._adopting is not None:
        await asyncio.wait_for(scorer._adopting, 20)


def test_a_process_that_cannot_follow_serves_on(served: Path, clip: Path, tmp_path: Path) -> None:
    with local_client(tmp_path / "jobs", served, processes=2) as client:
        before = read_info(served).id
        write_detector(served, 8)
        assert client.post(RELOAD).status_code == 200
        after = read_info(served).id
        shutil.rmtree(served)
        found = {judged(client, clip).model.id for _ in range(8)}
        assert found == {before, after}
        assert client.portal is not None
        for scorer in client.application.scorers["default"]:
            client.portal.call(settled, scorer)
