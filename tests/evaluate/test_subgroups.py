from __future__ import annotations

import pytest
from sklearn.metrics import roc_auc_score

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import judge
from genconvit.evaluate.evaluated import EvaluatedClip
from genconvit.evaluate.subgroups import Subgroup, subgroups
from genconvit.verdict import Verdict


def clip(name: str, label: str, p_fake: float | None, **about: object) -> EvaluatedClip:
    verdict = Verdict(
        clip=name,
        verdict="UNDECIDED" if p_fake is None else judge(p_fake, DecisionSettings()),
        probability_fake=p_fake,
        reason="",
        frames_sampled=1,
        frames_with_face=1,
        tracks=[],
        timeline=[],
    )
    return EvaluatedClip(name, label, verdict, None, **about)  # type: ignore[arg-type]


def of(column: str, label: str, scores: list[float], **about: object) -> list[EvaluatedClip]:
    return [clip(f"{column}/{label}/{i}.mp4", label, p, **about) for i, p in enumerate(scores)]


def spread(low: float, high: float, count: int = 12) -> list[float]:
    return [low + (high - low) * i / (count - 1) for i in range(count)]


# Swaps of films are found, reenactments from the web are not, and one source has no reals.
ROWS = [
    *of("film", "real", spread(0.0, 0.4), source="film", method="original"),
    *of("film", "fake", spread(0.6, 0.9), source="film", method="swap", columns={"codec": "h264"}),
    *of("web", "real", spread(0.1, 0.7), source="web", columns={"codec": "vp9"}),
    *of("web", "fake", spread(0.2, 0.8), source="web", method="reenact"),
    *of("lost", "fake", spread(0.9, 0.99, 3), source="lost", method="talk"),
    clip("lost/fake/none.mp4", "fake", None, source="lost", method="talk"),
]


def found() -> dict[tuple[str, str], Subgroup]:
    return {(row.column, row.value): row for row in subgroups(ROWS, 0.5).rows}


def auc_of(fakes: str, reals: tuple[str, ...]) -> float:
    chosen = [
        (row.label == "fake", row.verdict.probability_fake)
        for row in ROWS
        if row.verdict and row.verdict.probability_fake is not None
        if row.method == fakes or (row.label == "real" and row.source in reals)
    ]
    return float(roc_auc_score(*zip(*chosen, strict=True)))


def test_there_is_a_row_for_every_value_and_one_for_all() -> None:
    assert list(found()) == [
        ("all", "all clips"),
        *(("source", value) for value in ("film", "lost", "web")),
        *(("method", value) for value in ("reenact", "swap", "talk")),
        *(("codec", value) for value in ("h264", "vp9")),
    ]


def test_a_method_meets_the_reals_of_its_source_or_else_all() -> None:
    rows = found()
    swap, talk = rows["method", "swap"], rows["method", "talk"]
    assert (swap.against, swap.real.clips) == ("real clips of film", 12)
    assert (talk.against, talk.real.clips) == ("all real clips", 24)
    assert swap.scores.auc == pytest.approx(auc_of("swap", ("film",)))
    assert talk.scores.auc == pytest.approx(auc_of("talk", ("film", "web")))


def test_classes_are_told_apart() -> None:
    talk = found()["source", "lost"]
    assert talk.fake.shares == {"FAKE": 0.75, "REAL": 0.0, "UNDECIDED": 0.25}
    assert talk.fake.mean_p_fake == pytest.approx(sum(spread(0.9, 0.99, 3)) / 3)
    assert (talk.real.clips, talk.real.mean_p_fake) == (0, None)
    assert talk.real.shares["FAKE"] is None


def test_the_worst_group_is_large_enough_to_be_ranked() -> None:
    result = subgroups(ROWS, 0.5)
    assert result.worst_auc and result.worst_error
    assert (result.worst_auc.column, result.worst_auc.value) == ("source", "web")
    web = found()["source", "web"]
    assert result.worst_error.figure == web.error
    assert web.error.low is not None and web.error.high is not None
    assert web.error.low <= (web.error.value or -1) <= web.error.high
    assert web.error.value == pytest.approx(1 - (web.scores.balanced_accuracy or 0))
    small = [row.value for row in result.rows if row.too_small]
    assert small == ["lost", "talk", "h264", "vp9"]
    assert "4 groups with under 10 fake or real clips cannot be ranked." in result.notes


def test_columns_that_do_not_divide_the_clips_are_left_out() -> None:
    rows = [
        clip(f"{i}.mp4", "fake" if i % 2 else "real", 0.5, columns={
            "id": str(i), "same": "x", "many": str(i % 51)})
        for i in range(102)
    ]  # fmt: skip
    result = subgroups(rows, 0.5)
    assert [row.column for row in result.rows] == ["all"]
    assert "many has 51 values and is left out of the groups." in result.notes


def test_namesakes_in_other_folders_stay_two_clips() -> None:
    rows = [
        clip("a/1.mp4", "fake", 0.9, source="a"),
        clip("b/1.mp4", "real", 0.1, source="b"),
    ]
    groups = {row.value: row for row in subgroups(rows, 0.5).rows}
    assert (groups["a"].fake.clips, groups["a"].real.clips) == (1, 0)
    assert (groups["b"].fake.clips, groups["b"].real.clips) == (0, 1)
    assert groups["all clips"].scores.auc == 1.0
