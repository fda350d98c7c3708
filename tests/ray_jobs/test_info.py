from __future__ import annotations

import json
from pathlib import Path

import pytest

from genconvit.checkpoint import read_info
from genconvit.config import ModelSettings
from genconvit.errors import UserError
from genconvit.overrides import parse_assignment
from ray_jobs.info import changed, info, quantity, size
from ray_jobs.options import Given
from ray_jobs.output import Output


def given(*texts: str) -> Given:
    return Given(None, [parse_assignment(text) for text in texts])


def test_a_detector_tells_what_it_is(detector: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info(str(detector), given(), 8, Output(as_json=True))
    [line] = capsys.readouterr().out.splitlines()
    told, known = json.loads(line), read_info(detector)
    assert told["event"] == "info"
    assert told["id"] == known.id
    assert told["preprocess_fingerprint"] == known.preprocess.fingerprint()
    assert told.items() >= known.model_dump(mode="json").items()
    assert told["footprint"]["batch_size"] == 8
    assert told["footprint"]["parameters"] == 1_173_647


def test_people_see_parts_memory_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    info(None, given("model.preset=nano", "model.attention=false"), 32, Output())
    text = capsys.readouterr().out
    for part in ("ed", "vae", "backbone", "embedder", "projection", "fusion", "head"):
        assert f"  {part} " in text
    for expected in ("1.0 M", "100.0%", "none", "Memory for 32 images", "MiB"):
        assert expected in text
    assert "model.attention" in text and "model.residual" not in text


def test_nothing_and_both_are_refused(detector: Path) -> None:
    for model, settings in ((None, given()), (str(detector), given("model.net=ed"))):
        with pytest.raises(UserError, match="give either"):
            info(model, settings, 32, Output())


def test_settings_that_could_not_be_trained_are_refused() -> None:
    with pytest.raises(UserError, match="classification_weight"):
        info(None, given("model.preset=nano", "loss.classification_weight=0"), 2, Output())


def test_heads_that_training_leaves_out_are_left_out() -> None:
    cost = info(None, given("model.preset=nano", "loss.aux_weight=0"), 2, Output(as_json=True))
    assert "branch_heads" not in {part["name"] for part in cost["footprint"]["parts"]}


def test_changes_are_those_to_the_preset() -> None:
    assert changed(ModelSettings(preset="nano")) == {}
    assert changed(ModelSettings(arch="original", preset="nano", net="ed")) == {"net": "ed"}


def test_numbers_are_for_people() -> None:
    assert [quantity(n) for n in (0, 999, 6148, 82_272_038)] == ["0", "999", "6.1 k", "82.3 M"]
    assert [size(n) for n in (12, 2048, 1_400_000_000)] == ["12 B", "2.0 KiB", "1.3 GiB"]
