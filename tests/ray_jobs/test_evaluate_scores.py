from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from ray_jobs.cli import main


def evaluate(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", *map(str, arguments), "--json"])
    return int(caught.value.code or 0)


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Scores of 60 clips; every tenth has none, and fakes and reals have the same file names."""
    rng = np.random.default_rng(0)
    lines = ["video_name,score,label,group"]
    for i in range(60):
        label = ("real", "fake")[i % 2]
        score = "" if i % 10 == 0 else np.clip(rng.normal(0.35 + 0.3 * (i % 2), 0.2), 0, 1)
        lines.append(f"{label}/{i // 2}.mp4,{score},{label},g{i // 4}")
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(lines))
    return path


def test_every_figure_is_that_of_scikit_learn(
    scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert evaluate("--scores", scores, "--threshold", 0.4, "--out", out) == 0
    printed = json.loads(capsys.readouterr().out)
    report = json.loads((out / "evaluation_report.json").read_text())
    assert printed == {"event": "evaluated", "out": str(out), **report}
    rows = [line.split(",") for line in scores.read_text().splitlines()[1:]]
    is_fake = np.array([row[2] == "fake" for row in rows if row[1]])
    p_fake = np.array([float(row[1]) for row in rows if row[1]])
    fpr, tpr, _ = sk.roc_curve(is_fake, p_fake)
    called = p_fake > 0.4
    found = report["clip_scores"]
    for name, value in {
        "auc": sk.roc_auc_score(is_fake, p_fake),
        "average_precision": sk.average_precision_score(is_fake, p_fake),
        "tpr_at_fpr_5_percent": tpr[fpr <= 0.05].max(),
        "accuracy": sk.accuracy_score(is_fake, called),
        "balanced_accuracy": sk.balanced_accuracy_score(is_fake, called),
        "precision": sk.precision_score(is_fake, called),
        "recall": sk.recall_score(is_fake, called),
        "f1": sk.f1_score(is_fake, called),
        "mcc": sk.matthews_corrcoef(is_fake, called),
        "log_loss": sk.log_loss(is_fake, p_fake),
        "brier": sk.brier_score_loss(is_fake, p_fake),
    }.items():
        assert found[name] == pytest.approx(value), name
        low, high = found["intervals"][name]
        assert low <= found[name] <= high
    assert found["groups"] == 15
    decided = (p_fake < 0.35) | (p_fake > 0.45)
    assert report["coverage"]["value"] == pytest.approx(decided.sum() / 60)
    wrong = (called != is_fake)[decided].mean()
    assert report["decided_error"]["value"] == pytest.approx(wrong)
    assert report["metrics"]["without_score"] == 6
    assert (out / "report.html").is_file() and (out / "roc_curve.png").is_file()


def test_its_own_scores_give_the_same_report_and_the_command_says_how(
    scores: Path, tmp_path: Path
) -> None:
    assert evaluate("--scores", scores, "--out", tmp_path / "a") == 0
    again = tmp_path / "a" / "scores.parquet"
    assert evaluate("--scores", again, "--undecided-margin", 0.05, "--out", tmp_path / "b") == 0
    one, two = (json.loads((tmp_path / n / "evaluation_report.json").read_text()) for n in "ab")
    assert two["command"].endswith(f"--scores {again} decision.undecided_margin=0.05")
    sha256 = hashlib.sha256(again.read_bytes()).hexdigest()
    data = two["evaluated_data"]
    assert (data["location"], data["digest"]) == (str(again), sha256)
    assert sha256 in (tmp_path / "b" / "report.html").read_text()
    for part in ("metrics", "clip_scores", "coverage", "decided_error", "subgroups", "verdicts"):
        assert one[part] == two[part]


def test_a_threshold_that_leaves_nothing_to_be_fake_is_noted(scores: Path, tmp_path: Path) -> None:
    for threshold, notes in ((0.97, 1), (0.9, 0)):
        out = tmp_path / str(threshold)
        assert evaluate("--scores", scores, "--threshold", threshold, "--out", out) == 0
        report = json.loads((out / "evaluation_report.json").read_text())
        assert sum("No clip can be FAKE" in note for note in report["notes"]) == notes


def test_neither_ray_nor_torch_runs(scores: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from ray_jobs.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert not {'ray', 'torch'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "evaluate", "--scores", scores, "--out", tmp_path / "o"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scores", "SCORES", "--aggregation", "median"], "are aggregated already"),
        (["--scores", "SCORES", "--frames", "3"], "--frames 3: these scores are made already"),
        (["--scores", "SCORES", "--video-dir", "x"], "leave --video-dir and --data out"),
        (["--scores", "nowhere.csv"], "does not exist"),
        ([], "give --model with a detector, or --scores"),
    ],
)
def test_wrong_input_ends_with_one_sentence_and_2(
    scores: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(scores) if text == "SCORES" else text for text in arguments]
    assert evaluate(*given) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
