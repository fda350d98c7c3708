from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from genconvit.config import DecisionSettings
from genconvit.evaluate.aggregate import decide
from genconvit.evaluate.metrics import clip_metrics
from genconvit.evaluate.terminal import metrics_table, verdict_panel
from genconvit.verdict import TimelinePoint, Verdict


def verdict_of(scores: dict[int, dict[int, float]], clip: str = "clip.mp4") -> Verdict:
    """A verdict from `{frame: {track: P(fake)}}`, one frame a second."""
    points = [
        TimelinePoint(
            time_s=frame, frame_index=frame, track=track, box=(0, 0, 9, 9), probability_fake=p_fake
        )
        for frame, tracks in scores.items()
        for track, p_fake in tracks.items()
    ]
    return decide(clip, points, max(scores, default=31) + 1, DecisionSettings())


def show(renderable: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def panel(verdict: Verdict, width: int = 80) -> str:
    return show(verdict_panel(verdict, DecisionSettings()), width)


def test_panel_tells_word_score_reason_and_time() -> None:
    text = panel(verdict_of({0: {0: 0.6}, 1: {0: 0.9}, 2: {0: 1.0}, 3: {0: 0.9}}))
    assert "▲ FAKE  P(fake) 0.85" in text
    assert "mean P(fake) 0.85 over 4 faces in 4 of 4 frames; 1 person" in text
    assert "track 0  0.85  ▅███" in text


def test_a_reason_is_whole_where_the_output_is_no_terminal() -> None:
    reason = "a long reason " * 12 + "and its end"
    verdict = verdict_of({0: {0: 0.6}}).model_copy(update={"reason": reason})
    console = Console(file=io.StringIO(), width=80, color_system=None, soft_wrap=True)
    console.print(verdict_panel(verdict, DecisionSettings()))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "its end" in " ".join(text.replace("│", " ").split())


def test_gaps_stay_empty_and_every_track_has_a_row() -> None:
    scores = {second: {1: 0.0} for second in range(24)}
    for second in (*range(8), *range(20, 24)):
        scores[second][0] = 1.0
    text = panel(verdict_of(scores))
    assert "track 0  1.00  " + "█" * 8 + " " * 12 + "█" * 4 in text
    assert "track 1  0.00  " + "▁" * 24 in text
    assert "0.0 s             23.0 s" in text


@pytest.mark.parametrize("width", [30, 50, 200])
def test_a_long_clip_fits_any_width(width: int) -> None:
    text = panel(verdict_of({second: {0: second / 999} for second in range(1000)}), width)
    assert max(map(len, text.splitlines())) <= width
    (row,) = (line for line in text.splitlines() if "track 0" in line)
    bars = [char for char in row if char in "▁▂▃▄▅▆▇█"]
    assert bars == sorted(bars)
    assert len(bars) >= width - 20


def test_no_face_has_no_timeline() -> None:
    text = panel(verdict_of({}))
    assert "◆ UNDECIDED" in text
    assert "no face was found in 32 sampled frames" in text
    assert "track" not in text


def test_a_still_image_has_one_bar() -> None:
    assert "track 0  0.04  ▁" in panel(verdict_of({0: {0: 0.04}}))


def test_crowds_are_cut_short_and_markup_is_not_obeyed() -> None:
    text = panel(verdict_of({0: dict.fromkeys(range(40), 0.1)}, clip="[red]name[/red].mp4"))
    assert "[red]name[/red].mp4" in text
    assert "and 28 more tracks" in text


def test_metrics_table_shows_both_ways_to_count() -> None:
    verdicts = [verdict_of({0: {0: p_fake}}) for p_fake in (0.9, 0.5, 0.1)]
    text = show(metrics_table(clip_metrics(["fake", "fake", "real"], verdicts)))
    assert "3 clips, 2 fake and 1 real" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["accuracy", "100.0%", "66.7%"] in lines
    assert ["false", "positive", "rate", "0.0%", "0.0%"] in lines
    assert ["fake", "clips", "1", "FAKE,", "0", "REAL,", "1", "UNDECIDED"] in lines


def test_undefined_figures_come_with_their_reason() -> None:
    text = show(metrics_table(clip_metrics(["real"], [verdict_of({0: {0: 0.1}})])))
    assert "undefined" in text
    assert "AUC, average precision and EER need both classes" in text
