from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path
from typing import Any

import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genconvit.errors import UserError
from genconvit.tune.figures import draw_sweep
from genconvit.tune.report import read_sweep, summary, write_sweep
from genconvit.tune.results import Confirmation, Objective, State, SweepResults, TrialResult

SPACE: dict[str, dict[str, Any]] = {
    "train.lr": {"log": [1e-5, 1e-3]},
    "model.fusion": {"choice": ["concat", "attention", "<i>$x$ & y</i>"]},
    "model.heads": {"int": [2, 8], "when": {"model.fusion": ["attention"]}},
    "train.model_ema": {"choice": [True, False, None]},
}
START = {"train.lr": 1e-4, "model.fusion": "concat", "train.model_ema": None}
AUC = Objective(name="clip_auc", direction="maximize")
SPEED = Objective(name="ms_per_clip", direction="minimize")
REASON = "out of memory, <script>alert(1)</script>\nlower train.batch_size."
FIGURES = {"history", "parallel", "slices", "learning"}


def trial(number: int, state: State = "finished", score: float | None = 0.8, **changes: Any):
    config = {
        "train.lr": 1e-5 * 1.3 ** (number % 15),
        "model.fusion": SPACE["model.fusion"]["choice"][number % 3],
        "train.model_ema": SPACE["train.model_ema"]["choice"][number % 3],
    }
    if config["model.fusion"] == "attention":
        config["model.heads"] = 2 + number % 7
    scored = state != "failed" and score is not None
    values: dict[str, Any] = {
        "number": number,
        "state": state,
        "config": config,
        "scores": [score] if scored else None,
        "best_epoch": 3 if scored else None,
        "epochs": 4,
        "history": [None, 0.6, score, score] if scored else [],
        "seconds": 3600.0,
        "gpus": 1.0,
        "failure": REASON if state == "failed" else None,
        "detector": f"runs/{number}" if scored else None,
    }
    return TrialResult(**(values | changes))


TRIALS = [
    trial(0, score=0.8123),
    trial(1, "failed"),
    trial(2, "stopped", 0.71),
    trial(3, score=0.91236),
    trial(4, "unfinished", None),
    trial(5, "finished", 0.9),
]


def sweep(trials: list[TrialResult] = TRIALS, **changes: Any) -> SweepResults:
    values: dict[str, Any] = {
        "name": "sweep-<1>",
        "objectives": [AUC],
        "space": SPACE,
        "start": START,
        "epochs": 10,
        "stopping": "asha",
        "use_gpu": True,
        "trials": trials,
        "best": [3],
        "importance": {"train.lr": 0.7, "model.fusion": 0.3},
    }
    return SweepResults(**(values | changes))


def confirmation(difference: float, low: float, high: float) -> Confirmation:
    return Confirmation(
        seeds=[7, 8],
        winner=[0.9, 0.91],
        start=[0.88, 0.89],
        difference=difference,
        interval=(low, high),
    )


def text_of(page: Path) -> str:
    """What a reader sees, in one line."""
    body = page.read_text(encoding="utf-8").split("<body>")[1]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of `TRIALS`; tests only read it and its folder."""
    return write_sweep(tmp_path_factory.mktemp("sweep") / "new" / "folder", sweep())


def names(figures: list[Path]) -> set[str]:
    for path in figures:
        image = cv2.imread(str(path))
        assert image is not None and image.std() > 5, path
    return {path.stem.removeprefix("sweep_") for path in figures}


def test_everything_is_written_and_nothing_else(page: Path) -> None:
    assert page.name == "sweep_report.html"
    expected = {page.name, "sweep.json", "trials.csv"}
    expected |= {f"sweep_{name}.png" for name in FIGURES | {"importance"}}
    assert {path.name for path in page.parent.iterdir()} == expected


def test_csv_has_every_trial_and_setting(page: Path) -> None:
    with (page.parent / "trials.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, each in zip(rows, TRIALS, strict=True):
        assert (int(row["number"]), row["state"]) == (each.number, each.state)
        assert row["clip_auc"] == (str(each.scores[0]) if each.scores else "")
        assert float(row["device_hours"]) == each.device_hours
        assert row["failure"] == (each.failure or "")
        assert float(row["train.lr"]) == each.config["train.lr"]
        assert row["model.fusion"] == each.config["model.fusion"]
        assert row["model.heads"] == str(each.config.get("model.heads", ""))
        assert row["train.model_ema"] == ("true", "false", "none")[each.number % 3]
    assert set(SPACE) < set(rows[0])


def test_the_page_tells_what_was_found(page: Path) -> None:
    text = text_of(page)
    assert "4 settings searched in 6 trials of at most 10 epochs: " in text
    assert "3 finished, 1 stopped by ASHA, 1 failed, 1 unfinished." in text
    assert "Trial 3 is the winner, with clip AUC 0.9124." in text
    assert "The trials took 6.0 GPU hours; early stopping saved about 1.5 GPU hours." in text
    assert "validation split; the test split was not opened" in text
    assert "train. lr 0.0001 2.197e-05" in text  # start, then winner
    assert "model.heads 2 to 8, whole numbers; only where model.fusion is attention" in text


def test_the_page_sorts_trials_and_tells_why_some_failed(page: Path) -> None:
    table = page.read_text(encoding="utf-8").split("<h2>Trials</h2>")[1].split("</table>")[0]
    order = re.findall(r'<tr[^>]*><td class="number">(\d+)</td>', table)
    assert order == ["3", "5", "0", "2", "4", "1"]
    assert f"failed: {html.escape(REASON)}" in table


def test_the_page_is_self_contained_and_interprets_nothing(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    assert "<script" not in content and "<i>" not in content and "<1>" not in content
    assert html.escape(SPACE["model.fusion"]["choice"][2]) in content
    sources = re.findall(r'src="([^"]{,30})', content)
    assert len(sources) == 5 and all(each.startswith("data:image/png;base64,") for each in sources)


def test_a_start_that_nothing_beats_is_called_that() -> None:
    found = sweep([*TRIALS, trial(6, score=0.95, config=START)], best=[6])
    assert "No trial was better than the start settings." in summary(found)


def test_hours_of_a_run_without_a_gpu(tmp_path: Path) -> None:
    trials = [trial(3, gpus=0.0)]
    text = text_of(write_sweep(tmp_path, sweep(trials, use_gpu=False, stopping="none")))
    assert "The trials took 1.0 run hours; none was stopped early." in text
    assert "GPU" not in text


@pytest.mark.parametrize(
    ("again", "expected"),
    [
        (
            None,
            "The winner's score is the best of 4 and therefore too good; train it again with "
            "several seeds (--confirm-seeds) before you believe the advantage.",
        ),
        (
            confirmation(0.02, -0.01, 0.05),
            "The difference of +0.0200 (95 % interval -0.0100 to +0.0500) is within the noise: "
            "the winner is not shown to be better than the start settings.",
        ),
        (
            confirmation(0.02, 0.01, 0.03),
            "The winner is better than the start settings; the difference is +0.0200 "
            "(95 % interval +0.0100 to +0.0300).",
        ),
        (
            confirmation(-0.02, -0.03, -0.01),
            "The winner is worse than the start settings; the difference is -0.0200",
        ),
    ],
)
def test_how_far_the_winner_can_be_trusted(
    tmp_path: Path, again: Confirmation | None, expected: str
) -> None:
    text = text_of(write_sweep(tmp_path, sweep(confirmation=again)))
    assert expected in text
    assert ("therefore too good" in text) == (again is None)
    trained = "Trained again with seeds 7, 8, the winner has a mean clip AUC of 0.9050 and the"
    assert (trained in text) == (again is not None)


def test_the_winner_of_one_is_not_the_best_of_many() -> None:
    text = " ".join(summary(sweep([trial(3)])))
    assert "the only trial with a score" in text and "best of" not in text


def test_a_pareto_front_is_told_and_drawn(tmp_path: Path) -> None:
    points = [(0.8, 10.0), (0.9, 20.0), (0.85, 30.0)]
    trials = [trial(i, scores=list(scores)) for i, scores in enumerate(points)]
    results = sweep(trials, objectives=[AUC, SPEED], best=[1, 0])
    text = text_of(write_sweep(tmp_path, results))
    assert "Trials 0, 1 are the Pareto front" in text
    assert "Trial 1 is handed over, with clip AUC 0.9000 and ms per clip 20.00." in text
    assert "clip AUC (higher is better), ms per clip (lower is better)" in text
    assert "The front is the best of 3 and its scores are therefore too good" in text
    assert (tmp_path / "sweep_pareto.png").exists()


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([trial(0, "failed"), trial(1, "failed")], "Every trial failed, so there is no winner"),
        ([trial(0, "unfinished", None)], "There is no winner yet."),
        ([], "There is no winner yet."),
    ],
)
def test_a_sweep_without_a_winner_says_so(
    tmp_path: Path, trials: list[TrialResult], expected: str
) -> None:
    write_sweep(tmp_path, sweep())
    page = write_sweep(tmp_path, sweep(trials, best=[], importance=None))
    assert expected in text_of(page)
    assert "therefore too good" not in text_of(page)
    assert not list(tmp_path.glob("*.png"))  # those of the earlier state are gone


LONG = "augment.a_very_long_name_of_a_setting_that_goes_on_and_on_and_on_without_an_end"


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        pytest.param(sweep([trial(3)], importance=None), FIGURES, id="one trial"),
        pytest.param(sweep(), FIGURES | {"importance"}, id="all states"),
        pytest.param(sweep([trial(0, "failed")], best=[]), set(), id="all failed"),
        pytest.param(
            sweep([trial(0, score=None), trial(3), trial(5, history=[None, None])]),
            FIGURES | {"importance"},
            id="missing scores",
        ),
        pytest.param(
            sweep([trial(3, epochs=0, history=[])], epochs=0),
            FIGURES - {"learning"} | {"importance"},
            id="no epoch",
        ),
        pytest.param(
            sweep([trial(i, score=0.5 + i / 500) for i in range(200)], best=[199]),
            FIGURES | {"importance"},
            id="many trials",
        ),
        pytest.param(
            sweep(
                [trial(i, config={LONG: 0.5}) for i in range(3)],
                space={LONG: {"uniform": [0.5, 0.5]}},
                start={},
                importance={LONG: 1.0},
                best=[0],
            ),
            FIGURES | {"importance"},
            id="one long setting with one value",
        ),
        pytest.param(
            sweep([trial(i, config={}) for i in range(3)], start={}, best=[0], importance={}),
            FIGURES,
            id="conditions leave out all",
        ),
        pytest.param(
            sweep([trial(0)], space={}, start={}, best=[0], importance=None),
            {"history", "learning"},
            id="nothing searched",
        ),
        pytest.param(
            sweep(
                [trial(i, scores=[9.0 - i, 0.8, 1.0]) for i in range(3)],
                objectives=[SPEED, AUC, Objective(name="clips", direction="maximize")],
                best=[2],
                importance=None,
            ),
            FIGURES | {"pareto"},
            id="three objectives, the first to be low",
        ),
    ],
)
def test_figures_of_every_kind_of_sweep(
    tmp_path: Path, results: SweepResults, expected: set[str]
) -> None:
    assert names(draw_sweep(tmp_path, results)) == expected


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = sweep(confirmation=confirmation(0.02, 0.01, 0.03))
    write_sweep(tmp_path, results)
    assert read_sweep(tmp_path / "sweep.json") == results


def test_damaged_results_are_refused_in_a_sentence(page: Path, tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    stored = json.loads((page.parent / "sweep.json").read_text(encoding="utf-8"))
    stored["trials"][2]["state"] = "lost"
    damaged = {
        "cannot be read": None,
        "not JSON": '{"name": ',
        "trials.2.state": json.dumps(stored),
        "the whole": "[]",
    }
    for words, content in damaged.items():
        if content is not None:
            path.write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=re.escape(words)) as caught:
            read_sweep(path)
        message = str(caught.value)
        assert str(path) in message and message.endswith(".") and "\n" not in message


@given(
    st.lists(
        st.builds(
            trial,
            st.integers(0, 500),
            st.sampled_from(["finished", "stopped", "failed", "unfinished"]),
            epochs=st.integers(0, 10),
            seconds=st.floats(0, 1e7),
            gpus=st.sampled_from([0.0, 0.5, 1.0, 8.0]),
        ),
        max_size=8,
    )
)
def test_saved_hours_come_from_stopped_trials_alone(trials: list[TrialResult]) -> None:
    results = sweep(trials)
    assert results.saved_hours >= 0
    if not any(each.state == "stopped" for each in trials):
        assert results.saved_hours == 0
    everything = sum(each.device_hours * 10 / each.epochs for each in trials if each.epochs)
    assert results.saved_hours <= everything
