from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import judge
from genconvit.evaluate.bootstrap import Estimate
from genconvit.evaluate.comparison.report import comparison_tables, write_comparison
from genconvit.evaluate.comparison.results import ComparisonReport, Variant, VariantRun
from genconvit.evaluate.evaluated import EvaluatedClip
from genconvit.evaluate.metrics import clip_metrics
from genconvit.verdict import Verdict

LONG = "v2,attention=false,fusion=concat"


def judged(name: str, label: str | None, p_fake: float) -> EvaluatedClip:
    verdict = Verdict(
        clip=name,
        verdict=judge(p_fake, DecisionSettings()),
        probability_fake=p_fake,
        reason="a reason, with a comma",
        frames_sampled=4,
        frames_with_face=4,
        tracks=[],
        timeline=[],
    )
    return EvaluatedClip(name, label, verdict, None)


def rows(gain: float, seed: int, clips: int = 80) -> list[EvaluatedClip]:
    """Clips that are told apart the better, the higher `gain`."""
    noise = np.random.default_rng(seed).normal(size=clips)
    labels = ["fake" if i % 2 else "real" for i in range(clips)]
    return [
        judged(f"{i}.mp4", label, float(1 / (1 + np.exp(-gain * (1 if i % 2 else -1) - noise[i]))))
        for i, label in enumerate(labels)
    ]


def variant(name: str, gain: float, seeds: tuple[int | None, ...] = (0, 1)) -> Variant:
    return Variant(
        name=name,
        slug=re.sub(r"[^a-z0-9]+", "-", name).strip("-"),
        runs=[
            VariantRun(seed, f"runs/{name}", rows(gain, len(name) + (seed or 0))) for seed in seeds
        ],
        parameters=28_600_000,
        flops=4.5e9,
        images_per_s=123.4,
        ms_per_clip=56.7,
        settings={"model": {"arch": "v2"}},
        failure=None,
    )


def failed(name: str) -> Variant:
    reason = "out of memory; lower <batch_size>."
    return Variant(name, "broken-" + str(len(name)), [], 0, 0.0, 0.0, 0.0, {}, reason)


VARIANTS = [variant("original", 0.2), variant("v2", 1.5), variant(LONG, 0.3), failed("<b>&big")]


def write(out: Path, variants: list[Variant]) -> ComparisonReport:
    return write_comparison(
        out,
        variants,
        decision=DecisionSettings(),
        command="genconvit compare --data 'a & b'",
        about="the val split of faces",
        device="2 CPU cores",
        notes=["2 groups leak."],
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison of `VARIANTS`; tests only read it."""
    out = tmp_path_factory.mktemp("comparison") / "new" / "folder"
    write(out, VARIANTS)
    return out


def test_everything_is_written_and_nothing_else(written: Path) -> None:
    slugs = ["original", "v2", "v2-attention-false-fusion-concat"]
    names = {f"comparison.{kind}" for kind in ("json", "csv", "md", "html")}
    names |= {"comparison_metrics.png", "comparison_costs.png"}
    names |= {f"confusion_matrix_{slug}.png" for slug in slugs}
    names |= {f"detailed_results_{slug}.csv" for slug in slugs}
    assert {path.name for path in written.iterdir()} == names
    assert all(cv2.imread(str(path)).std() > 5 for path in written.glob("*.png"))


def test_json_has_figures_differences_and_costs(written: Path) -> None:
    stored = json.loads((written / "comparison.json").read_text())
    report = ComparisonReport.model_validate(stored)
    assert report.model_dump(mode="json") == stored
    assert (report.clips, report.fake, report.real) == (80, 40, 40)
    assert (report.seeds, report.device) == ([0, 1], "2 CPU cores")
    first, good, _, broken = report.variants
    labels = [row.label or "" for row in VARIANTS[1].runs[0].rows]
    runs = [[row.verdict for row in run.rows if row.verdict] for run in VARIANTS[1].runs]
    metrics = [clip_metrics(labels, run) for run in runs]
    assert metrics[0].auc is not None and metrics[1].auc is not None
    assert good.metrics.auc.value == (metrics[0].auc + metrics[1].auc) / 2
    for label, counts in good.confusion.items():
        for word, count in counts.items():
            assert count == sum(each.confusion[label][word] for each in metrics)
    assert good.differences.auc.low is not None and good.differences.auc.low > 0
    assert first.differences.auc == Estimate(value=0.0, low=0.0, high=0.0)
    assert (good.parameters, good.flops, good.seeds) == (28_600_000, 4.5e9, [0, 1])
    assert broken.failure == "out of memory; lower <batch_size>."
    assert (broken.metrics.auc, broken.confusion) == (Estimate(), {})
    assert report.notes == ["2 groups leak."]


def test_the_same_input_gives_the_same_bytes(written: Path, tmp_path: Path) -> None:
    write(tmp_path, VARIANTS)
    for name in ("comparison.json", "comparison.csv", "comparison.md", "comparison.html"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_csv_has_one_row_a_variant(written: Path) -> None:
    with (written / "comparison.csv").open(newline="") as file:
        table = {row["variant"]: row for row in csv.DictReader(file)}
    assert list(table) == [each.name for each in VARIANTS]
    v2 = table["v2"]
    assert float(v2["auc_low"]) <= float(v2["auc"]) <= float(v2["auc_high"])
    assert float(v2["auc_difference_low"]) > 0
    assert sum(int(count) for name, count in v2.items() if "_judged_" in name) == 160
    assert table["<b>&big"]["auc"] == table["<b>&big"]["parameters"] == ""
    assert table["<b>&big"]["failure"] == "out of memory; lower <batch_size>."


def test_verdicts_of_all_seeds_are_in_one_file(written: Path) -> None:
    with (written / "detailed_results_v2.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["seed"] for line in lines] == ["0"] * 80 + ["1"] * 80
    assert lines[80]["video_name"] == "0.mp4"
    assert lines[80]["reason"] == "a reason, with a comma"


def test_markdown_is_a_table_for_a_readme(written: Path) -> None:
    text = (written / "comparison.md").read_text()
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert [len(table.splitlines()) for table in tables] == [2 + 3, 2 + 2]
    assert re.search(r"\| v2 \|( \d\.\d{3} \[\d\.\d\d, \d\.\d\d\] \|){4} 28\.60 \| 4\.50 \|", text)
    assert re.search(r"v2 has the highest AUC, \d\.\d{3}\.", text)
    assert re.search(r"v2 against original: AUC \+.*, better\.", text)
    assert re.search(rf"{LONG} against original: AUC .*, no difference shown\.", text)
    assert "&lt;b>&big failed: out of memory" in text


def test_page_is_one_file_that_escapes_names(written: Path) -> None:
    page = (written / "comparison.html").read_text()
    assert page.count("data:image/png;base64,") == 2 + 3
    assert not re.findall(r"https?://|<script|<link", page)
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;big" in page
    assert "out of memory; lower &lt;batch_size&gt;." in page
    assert "genconvit compare --data &#39;a &amp; b&#39;" in page
    assert page.index("v2 has the highest AUC") < page.index("<table")
    assert "2 groups leak." in page


def test_a_clip_that_one_run_failed_on_is_left_out_for_all(tmp_path: Path) -> None:
    poor, good = variant("original", 0.2), variant("v2", 1.5, seeds=(None,))
    lines = list(poor.runs[1].rows)
    lines[3] = EvaluatedClip("3.mp4", "fake", None, "3.mp4 is empty.")
    poor = replace(poor, runs=[poor.runs[0], replace(poor.runs[1], rows=lines[::-1])])
    unlabelled = [*good.runs[0].rows[:79], judged("79.mp4", None, 0.9)]
    good = replace(good, runs=[replace(good.runs[0], rows=unlabelled)])
    report = write(tmp_path, [good, poor])
    assert (report.clips, report.fake, report.real, report.seeds) == (78, 38, 40, [0, 1])
    assert report.notes[1:] == [
        "1 of 80 clips could not be judged by every variant and are in no figure.",
        "1 of 80 clips have no label and are in no figure.",
    ]
    kept = [row for i, row in enumerate(good.runs[0].rows) if i not in (3, 79)]
    metrics = clip_metrics(
        [row.label or "" for row in kept], [row.verdict for row in kept if row.verdict]
    )
    assert report.variants[0].metrics.auc.value == metrics.auc
    assert sum(sum(counts.values()) for counts in report.variants[1].confusion.values()) == 156


def test_groups_are_drawn_whole(tmp_path: Path) -> None:
    plain = variant("a", 0.5)
    grouped = replace(
        plain,
        runs=[
            replace(run, rows=[replace(r, group=str(i // 8)) for i, r in enumerate(run.rows)])
            for run in plain.runs
        ],
    )
    found = [write(tmp_path / name, [v]).variants[0] for name, v in (("p", plain), ("g", grouped))]
    assert found[0].metrics.auc.value == found[1].metrics.auc.value
    assert found[0].metrics.auc.low != found[1].metrics.auc.low


def test_one_class_and_no_shared_clip_are_undefined(tmp_path: Path) -> None:
    one = variant("v2", 1.0, seeds=(0,))
    real = replace(one.runs[0], rows=one.runs[0].rows[::2])
    report = write(tmp_path, [replace(one, runs=[real])])
    assert report.variants[0].metrics.auc == Estimate()
    assert "AUC is undefined" in (tmp_path / "comparison.md").read_text()
    other = replace(variant("w", 1.0), runs=[replace(real, rows=one.runs[0].rows[1::2])])
    report = write(tmp_path, [replace(one, runs=[real]), other])
    assert report.clips == 0
    assert report.variants[0].metrics.accuracy == Estimate()
    assert not list(tmp_path.glob("confusion_matrix_*.png"))


def test_files_of_an_earlier_comparison_go(tmp_path: Path) -> None:
    (tmp_path / "confusion_matrix.png").write_bytes(b"of an evaluation")
    (tmp_path / "detailed_results_old.csv").write_bytes(b"of an earlier comparison")
    report = write(tmp_path, [failed("original"), failed("v2")])
    names = {f"comparison.{kind}" for kind in ("json", "csv", "md", "html")}
    assert {path.name for path in tmp_path.iterdir()} == names | {"confusion_matrix.png"}
    assert "No variant could be judged." in (tmp_path / "comparison.html").read_text()
    assert report.judged == []
    assert "v2 failed: out of memory" in shown(report)


def test_where_the_first_failed_the_next_takes_its_place(tmp_path: Path) -> None:
    report = write(tmp_path, [failed("original"), variant("v2", 1.0), variant("v3", 1.0)])
    assert report.notes[1:] == ["original failed; differences are to v2."]
    assert report.variants[1].differences.auc.value == 0.0
    assert "All variants have the same AUC" in shown(report)


def shown(report: ComparisonReport) -> str:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(comparison_tables(report))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_terminal_table_fits_four_variants(written: Path) -> None:
    report = ComparisonReport.model_validate_json((written / "comparison.json").read_text())
    again = report.variants[2].model_copy(update={"name": "v2,[red]markup=false[/red]"})
    text = shown(report.model_copy(update={"variants": [*report.variants, again]}))
    assert max(map(len, text.splitlines())) <= 80
    assert "80 clips, 40 fake and 40 real" in text
    assert "…" not in text
    assert "[red]" in text
    intervals = re.findall(r"(?: +\[\d\.\d\d, \d\.\d\d\]){4} *$", text, re.MULTILINE)
    assert len(intervals) == len(report.judged) + 1
    assert "<b>&big failed: out of memory; lower <batch_size>." in text


def test_a_variant_has_runs_or_a_failure() -> None:
    with pytest.raises(ValueError, match="either runs or a failure"):
        replace(variant("v2", 1.0), runs=[])


def test_slugs_differ(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="same slug"):
        write(tmp_path, [variant("v2", 1.0), variant("v2", 1.0)])
