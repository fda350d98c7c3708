from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from rich.console import Console

from genconvit.errors import UserError
from genconvit.footprint import footprint
from genconvit.train.measure import (
    PARTS,
    Marks,
    compare_losses,
    made_up_batch,
    matmul_tflops_per_s,
    mfu,
    summary,
)
from genconvit.train.measured_steps import PlainStep, run_step
from genconvit.train.network import start_network
from genconvit.train.precision import Precision
from ray_jobs.bench_train import bench_train
from ray_jobs.bench_train_rows import fill
from ray_jobs.bench_train_table import show
from ray_jobs.bench_train_worker import Place, check_losses
from ray_jobs.cli import main
from ray_jobs.output import Output
from tests.conftest import small_settings

CPU = torch.device("cpu")


def numbers(content: Any) -> Iterator[float]:
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        for one in content:
            yield from numbers(one)
    elif isinstance(content, (int, float)):
        yield content


@pytest.fixture(scope="module")
def folder(cluster: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    bench_train(
        None,
        small_settings("train.batch_size=4", "train.num_workers=1"),
        Output(as_json=True),
        variants=["verdict", "streamed", "genconvit"],
        steps=3,
        warmup=1,
        profile=True,
        out=folder,
    )
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "train.json").read_text())
    return found


@pytest.mark.slow
def test_the_variants_that_were_named_are_measured(report: dict[str, Any]) -> None:
    assert [row["variant"] for row in report["train"]] == ["genconvit", "streamed"]
    assert [row["variant"] for row in report["verdict"]] == ["genconvit"]
    assert all(math.isfinite(number) for number in numbers(report))
    for row in report["train"]:
        assert "error" not in row
        assert (row["precision"], row["compiled"], row["batch_size"]) == ("float32", False, 4)
        assert 0 < row["mfu"] < 1
        assert 0 < row["first_step_s"] < row["start_to_first_step_s"] < 120
        assert row["peak_process_bytes"] > 2**27
        assert len(row["steps_ms"]) == 3
    for row in report["verdict"]:
        assert row["crops_per_s"] > report["train"][0]["images_per_s"]


@pytest.mark.slow
def test_the_parts_of_a_step_add_up_to_it(report: dict[str, Any]) -> None:
    for row in report["train"]:
        assert list(row["parts_ms"]) == list(PARTS)
        assert min(row["parts_ms"].values()) >= 0
        assert sum(row["parts_ms"].values()) == pytest.approx(row["step_ms"])
        assert row["images_per_s"] == pytest.approx(1000 * 4 / row["step_ms"])
        # The parts are medians, each of a step of its own.
        assert row["step_ms"] == pytest.approx(np.median(row["steps_ms"]), rel=0.5)


@pytest.mark.slow
def test_mfu_is_the_images_work_over_what_matrix_products_reach(report: dict[str, Any]) -> None:
    assert mfu(5e9, 200, 2.0) == pytest.approx(0.5)
    settings = small_settings()
    cost = footprint(settings.model, settings.loss, 3)
    assert report["training_flops_per_image"] == cost.training_flops
    row = report["train"][0]
    assert row["mfu"] == pytest.approx(
        cost.training_flops * row["images_per_s"] / (1e12 * report["matmul_tflops_per_s"])
    )


@pytest.mark.slow
def test_the_profile_is_written(folder: Path, report: dict[str, Any]) -> None:
    with gzip.open(folder / "trace.json.gz") as file:
        assert json.load(file)["traceEvents"]
    text = (folder / "profile.txt").read_text()
    assert "aten::convolution_backward" in text
    assert len(report["profile"]) == 25
    assert 0.5 < sum(one["share"] for one in report["profile"]) <= 1


@pytest.mark.slow
def test_the_tables_fit_a_terminal_of_80_columns(report: dict[str, Any]) -> None:
    several = {**report["train"][1], "workers": 8, "exchange_ms": 1.5, "scaling_efficiency": 0.98}
    rows = [*report["train"], several]
    rows += [{"variant": "eager-bf16", "workers": 1, "error": "out of memory"}]
    rows[0] = {**rows[0], "compile_cache": "cold"}
    output = Output()
    output.console = Console(record=True, width=80, file=io.StringIO())
    show({**report, "train": rows, "gpus": 8, "device": "NVIDIA H100 80GB HBM3"}, output)
    text = output.console.export_text()
    for word in ("img/s", "a GPU", "scaling", "1st step", "out of memory", "exchange", "98 %"):
        assert word in text
    assert "…" not in text


@pytest.mark.usefixtures("cluster")
def test_a_row_that_fails_says_why_and_asks_no_more() -> None:
    def run_out() -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    row: dict[str, Any] = {}
    fill(row, ray.remote(num_cpus=0)(run_out))
    assert row == {"error": "out of memory"}
    fill(row, None)
    assert row == {"error": "out of memory"}

    def go_wrong() -> None:
        raise RuntimeError("the kernel does not fit")

    row = {}
    fill(row, ray.remote(num_cpus=0)(go_wrong))
    assert row == {"error": "RuntimeError: the kernel does not fit"}

    def ask_for_what_is_not_there() -> None:
        raise UserError("there is no such thing; take another.")

    row = {}
    fill(row, ray.remote(num_cpus=0)(ask_for_what_is_not_there))
    assert row == {"error": "there is no such thing; take another."}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--variants", "lazy"], "--variants lazy: there are eager-fp32, eager-bf16"),
        (["--variants", "streamed", "--profile"], "--profile is of the variant genconvit"),
        (["--data", "nowhere"], "nowhere does not exist"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "train", "--preset", "nano", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_both_steps_learn_the_same_from_the_same() -> None:
    found = check_losses(small_settings("train.batch_size=8"), Place(False, 1), steps=12)
    assert (found["steps"], found["last_steps"]) == (12, 6)
    assert found["genconvit_loss"] == pytest.approx(found["plain_loss"], rel=0.02)
    assert found["within_noise"]


def test_losses_that_differ_by_more_than_their_noise_are_told() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 50)
    assert compare_losses([*(1 + noise)], [*(1.01 + noise)], 50)["within_noise"]
    assert not compare_losses([*(1 + noise)], [*(1.2 + noise)], 50)["within_noise"]


def test_marks_time_what_lies_between_them() -> None:
    settings = small_settings()
    for make in (
        lambda marks: PlainStep(
            start_network(settings, CPU, new=False), settings, Precision("cpu"), marks
        ),
        lambda marks: run_step(settings, start_network(settings, CPU, new=False), CPU, marks),
    ):
        marks = Marks(CPU)
        step = make(marks)
        marks.begin()
        for number in range(2):
            step(*made_up_batch(number, 2, 64, CPU, CPU))
        times = marks.read()
        assert times.shape == (2, len(PARTS))
        assert (times >= 0).all()
        assert (times[:, 2:] > 0.05).all()


def test_a_bursty_wait_is_not_lost_in_a_median() -> None:
    times = np.ones((5, len(PARTS)))
    times[3, 0] = 101
    found = summary(times)
    assert found["parts_ms"] == {part: 21.0 if part == "data_wait" else 1.0 for part in PARTS}
    assert found["step_ms"] == 25.0


def test_a_matrix_product_has_a_rate() -> None:
    assert 0.001 < matmul_tflops_per_s(CPU, repeats=3) < 100
