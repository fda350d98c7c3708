from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from genconvit.config import Settings
from genconvit.predict import load_detector
from ray_jobs.bench_serve import Load, bench_serve
from ray_jobs.bench_serve_material import make_requests
from ray_jobs.bench_serve_run import Target, load, time_direct
from ray_jobs.bench_serve_servers import plain
from ray_jobs.bench_serve_show import draw, draw_memory, line, saturation_line, soak_line, table
from ray_jobs.bench_serve_watch import Watch, processes_below, slope, use_of
from ray_jobs.cli import main
from ray_jobs.options import Given
from ray_jobs.output import Output


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_jobs.bench_serve_run.WARM_UP_S", 0.3)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[list[Path]]:
    return make_requests("images", tmp_path_factory.mktemp("images"), Settings().preprocess, 1)


def test_images_are_small_and_show_a_face(images: list[list[Path]], detector: Path) -> None:
    assert len(images) == 16
    judge = load_detector(detector)
    for (file,) in images[::5]:
        assert cv2.imread(str(file)).shape == (300, 300, 3)
        assert 10_000 < file.stat().st_size < 20_000
        assert judge.judge(file).frames_with_face == 1


def test_crops_are_as_many_as_asked_for(tmp_path: Path) -> None:
    settings = Settings().preprocess
    [files] = make_requests("crops", tmp_path, settings, 20)
    assert len(files) == 20
    assert cv2.imread(str(files[-1])).shape == (settings.size, settings.size, 3)


@pytest.mark.parametrize("kind", ["images", "crops"])
def test_the_detector_and_the_plain_server_do_the_same_work(
    kind: Any, images: list[list[Path]], detector: Path, tmp_path: Path
) -> None:
    judge = load_detector(detector)
    requests = images
    if kind == "crops":
        requests = make_requests("crops", tmp_path, judge.info.preprocess, 4)
    direct = list(time_direct(judge, kind, requests, 0.5))
    assert direct[0]["statuses"] == {"200": direct[0]["sent"]}
    assert len(direct) == (2 if kind == "crops" else 1)
    path = "/v1/crops" if kind == "crops" else "/v1/detect"
    with plain(str(detector), os.environ) as (url, process):
        target = Target("plain", url, path, requests, process, True)
        closed, _ = load(target, kind, 1, clients=2)
        opened, watch = load(target, kind, 1, rate=5, every_s=0.5)
    assert closed["statuses"] == {"200": closed["sent"]}
    assert closed["rps"] > 0 and closed["cpus"] > 0 and closed["memory_mb"] > 50
    assert (opened["sent"], opened["rate"]) == (5, 5)
    assert len(watch.memory_mb) >= 2
    assert "batch_crops" not in opened  # it does not say
    if kind == "crops":
        assert closed["crops_per_s"] == pytest.approx(4 * closed["rps"], abs=0.1)


@pytest.mark.slow
def test_all_three_are_compared(
    cluster: object, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench"
    offered = Load("images", [1, 2], [], 1, 1, 0)
    bench_serve(str(detector), Given(None, []), Output(as_json=True), offered, out=out)
    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [one["event"] for one in lines] == ["row"] * 6 + ["bench"]
    report = json.loads((out / "serve.json").read_text())
    served = [row for row in report["rows"] if row["variant"] == "serve"]
    assert [row.get("clients") for row in served] == [1, 2, None]
    for row in served[:2]:
        assert row["statuses"] == {"200": row["sent"]}
        assert row["batch_crops"] >= 1
        assert set(row["stages_ms"]) == {"wait", "decode", "queue", "network"}
    assert "timed out" not in report["saturation"]["statuses"]
    assert set(report["compared"]) == {
        "serve - direct, ms at p50, 1 client",
        "serve / plain, requests/s, 1 client",
        "serve / plain, requests/s, 2 clients",
    }
    assert report["device"] == "CPU" and report["command"]
    assert Image.open(out / "serve.png").width > 500


@pytest.mark.parametrize(
    "given", [["--kind", "songs"], ["--clients", "0"], ["--clients", "many"], ["--rate", "inf"]]
)
def test_wrong_options_are_one_sentence(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "serve", *given])
    assert stop.value.code == 2
    assert given[0] in capsys.readouterr().err


def test_the_slope_of_memory_has_an_honest_interval() -> None:
    rng = np.random.default_rng(0)
    seconds = np.arange(0, 1200, 5.0)
    covered = 0
    for _ in range(50):
        noise = np.zeros(len(seconds))
        for place in range(1, len(seconds)):  # neighbours are alike
            noise[place] = 0.8 * noise[place - 1] + rng.normal()
        memory = 500 + 36 * seconds / 3600 + noise
        found = slope(list(zip(seconds, memory, strict=True)))
        assert found["low_mb_per_h"] < found["mb_per_h"] < found["high_mb_per_h"]
        covered += found["low_mb_per_h"] <= 36 <= found["high_mb_per_h"]
    assert covered >= 42
    flat = slope([(second, 100.0) for second in seconds])
    assert flat == {"mb_per_h": 0, "low_mb_per_h": 0, "high_mb_per_h": 0}


def test_a_watch_sees_children_and_what_they_did() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    busy = "x = bytearray(60_000_000); print(flush=True)\nwhile True: pass"
    command = [sys.executable, "-c", code, busy]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # the child is there
            with Watch(process.pid, itself=True).watching() as used:
                assert len(processes_below(process.pid, itself=True)) == 2
                children = processes_below(process.pid, itself=False)
                begun = use_of(children)
                assert begun.memory_mb > 50
                while use_of(children).cpu_s < begun.cpu_s + 0.2:
                    time.sleep(0.05)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert used["cpus"] > 0.1
    assert use_of([process.pid]) == use_of([])


def test_tables_and_figures_take_what_there_is(tmp_path: Path) -> None:
    answered = {
        "p50_ms": 10.0, "p95_ms": 20.0, "p99_ms": 30.0, "rps": 9.0, "cpus": 1.5,
        "gpu_percent": 40.0, "memory_mb": 1000.0,
    }  # fmt: skip
    rows = [
        {"variant": "direct", "clients": 1, "statuses": {"200": 9}, **answered},
        {"variant": "direct, batches", "batch_crops": 64, "crops_per_s": 800.0},
        {"variant": "serve", "clients": 4, "statuses": {"200": 9, "503": 2}, **answered},
        {"variant": "serve", "rate": 20.0, "statuses": {"503": 7, "failed": 3}, "rps": 0.0},
    ]
    text = io.StringIO()
    Console(file=text, width=200).print(table(rows, "crops"))
    for row in rows:
        assert line(row)
    shown = text.getvalue()
    assert "64 a pass" in shown and "40 %" in shown and "20.0/s" in shown
    assert draw(rows, "crops", tmp_path / "serve.png").stat().st_size > 10_000
    soak = {
        "minutes": 1.0, "rate": 9.0, "answered": 1.0, "p99_ms": 30.0, "memory_mb": 1000.0,
        "mb_per_h": 1.0, "low_mb_per_h": -2.0, "high_mb_per_h": 4.0,
        "memory": [[0.0, 1000.0], [5.0, 1001.0]],
    }  # fmt: skip
    assert "-2.0 to 4.0" in soak_line(soak)
    assert draw_memory(soak, tmp_path / "soak.png").exists()
    overload = {**rows[3], "answered": 0.0, "memory_mb": 9.0, "memory_before_mb": 8.0}
    assert "7 x 503, 0 timed out" in saturation_line(overload)
